"""Emitted code on disk, so that a new process need not compile again, nor import xDSL.

Two kinds of entries, each one file named by a hash:

    code   source text, by the traced text, the capabilities and the versions
    plan   how to call it, by the Python function's fingerprint and the arguments' signature

Tables of tuned schedules lie in a folder below, see `breccia.frontend.tables`; their schedules are part of both keys.

The folder is BRECCIA_CACHE_DIR, or `breccia` in the user's cache folder; BRECCIA_CACHE=0 turns the cache off. An entry
is one line with the SHA-256 of the rest, and JSON. It is written to a temporary file and renamed, so that no reader
sees a half; what does not match its digest is compiled again. A folder that cannot be written is warned of once; one
that others can write is refused, since what lies in it is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from breccia._version import __version__
from breccia.errors import BrecciaError

FORMAT = 1
"""Version of what entries hold: raise it whenever their JSON or the calling convention changes."""


MOST_ENTRIES = 2000
"""A folder with more entries loses its oldest ones: new versions of breccia never read those of old ones."""


class CacheError(BrecciaError, OSError):
    """The cache folder is not safe to run code from."""


class CacheWarning(UserWarning):
    """The cache folder cannot be used; compiled code lives in memory only."""


def default_folder() -> Path:
    """Where the user's caches live: XDG_CACHE_HOME or ~/.cache, ~/Library/Caches, or LOCALAPPDATA."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "breccia"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "breccia" / "Cache"
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".cache") / "breccia"


def folder() -> Path | None:
    """The cache folder in use; None where it is turned off."""
    if os.environ.get("BRECCIA_CACHE") == "0":
        return None
    given = os.environ.get("BRECCIA_CACHE_DIR")
    return Path(given) if given else default_folder()


@cache
def build_id() -> str:
    """A digest of this installation of breccia: its version, and name, size and time of each of its files."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256(f"{__version__} {FORMAT} {sys.version_info[:3]}".encode())
    for file in sorted(package.rglob("*.py")):
        stat = file.stat()
        digest.update(f"{file.relative_to(package)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def key_of(kind: str, *parts: str) -> str:
    """The name of an entry: a hash of everything that its contents depend on."""
    digest = hashlib.sha256(f"{kind} {FORMAT} {build_id()}".encode())
    for part in parts:
        digest.update(b"\0" + part.encode())
    return f"{kind}-{digest.hexdigest()}"


def read(name: str) -> Any:
    """The entry called `name`; None where there is none that is whole."""
    home = checked_folder()
    if home is None:
        return None
    try:
        stored, _, body = (home / name).read_bytes().partition(b"\n")
    except OSError:
        return None
    if stored.decode("ascii", "replace") != _digest(name, body):
        return None
    return json.loads(body)


def write(name: str, value: Any) -> None:
    """Store an entry; where that cannot be done, warn once and go on."""
    home = checked_folder()
    if home is None:
        return
    body = json.dumps(value).encode()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        _prune_once(home)
        replace_file(home / name, _digest(name, body).encode() + b"\n" + body)
    except OSError as error:
        _warn_once(str(home), f"{type(error).__name__}: {error.strerror or error}")


def replace_file(file: Path, contents: bytes, *, readable: bool = False) -> None:
    """Write a file so that no reader sees a half: into a temporary one beside it, which is renamed. Raises OSError.

    readable: by other users too; nobody else may write it.
    """
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(contents)
        if readable:
            Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


@cache
def _prune_once(home: Path) -> None:
    """Remove the oldest entries of a folder that has too many, down to half of what it may have."""
    entries = [Path(entry.path) for entry in os.scandir(home) if entry.is_file()]
    if len(entries) <= MOST_ENTRIES:
        return
    with contextlib.suppress(FileNotFoundError):  # another process does the same
        entries.sort(key=lambda file: file.stat().st_mtime_ns)
    for file in entries[: len(entries) - MOST_ENTRIES // 2]:
        file.unlink(missing_ok=True)


def _digest(name: str, body: bytes) -> str:
    return hashlib.sha256(name.encode() + b"\0" + body).hexdigest()


def checked_folder() -> Path | None:
    """The folder in use, if it is there or can be made; raises CacheError where others can write to it."""
    home = folder()
    if home is None:
        return None
    try:
        stat = home.stat()
    except FileNotFoundError:
        return home
    except OSError as error:
        _warn_once(str(home), f"{type(error).__name__}: {error.strerror or error}")
        return None
    fix = "set BRECCIA_CACHE_DIR to a folder of your own, or BRECCIA_CACHE=0 to go without"
    if hasattr(os, "getuid") and stat.st_uid != os.getuid():
        raise CacheError(f"the cache folder {home} belongs to user {stat.st_uid}, not to you; code in it is run: {fix}")
    if os.name == "posix" and stat.st_mode & 0o002:
        raise CacheError(f"everybody can write to the cache folder {home}; code in it is run: chmod o-w it, or {fix}")
    return home


@cache
def _warn_once(home: str, reason: str) -> None:
    warnings.warn(
        f"the cache folder {home} cannot be used ({reason}); compiled code lives in memory only. Set BRECCIA_CACHE_DIR "
        "to a folder that can be written, or BRECCIA_CACHE=0 to say that none is wanted",
        CacheWarning,
        stacklevel=2,
    )
