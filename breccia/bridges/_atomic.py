"""Files that appear whole or not at all, also where the process is killed or the disk is full."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from breccia.errors import FormatError

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed processes stay
    fcntl = None


@contextlib.contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A stream to a new file, which takes the place of `path` when the block ends without an error.

    Until then `path` is what it was. The temporary file lies beside it and is locked while it is written: one that
    nobody locks was left by a process that was killed, and the next writer to the same path removes it.

    Raises FormatError unless `path` is a regular file, or nothing in a folder that exists; OSError from the disk.
    """
    _check_place(path)
    _sweep(path)
    temporary, opened = _locked_temporary(path)
    try:
        with opened as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if path.exists():
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            temporary.replace(path)  # while the lock is held, so that nobody sweeps it before
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _locked_temporary(path: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.breccia-new")
        stream = temporary.open("xb")
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, stream
        stream.close()  # another writer took it for a leftover before it was locked


def _check_place(path: Path) -> None:
    if path.is_symlink():
        raise FormatError(f"{path} is a link, which would be replaced by a file; write to {path.resolve()}")
    if path.exists() and not path.is_file():
        raise FormatError(f"{path} is no regular file (a folder, device or pipe); give the path of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist; make it first")


def _sweep(path: Path) -> None:
    """Remove temporary files of writers to `path` that were killed."""
    if fcntl is None:
        return
    prefix = f".{path.name}."
    for entry in list(os.scandir(path.parent)):
        if not (entry.name.startswith(prefix) and entry.name.endswith(".breccia-new")):
            continue
        with contextlib.suppress(OSError), Path(entry.path).open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError where its writer is alive
            Path(entry.path).unlink()


def _sync_folder(folder: Path) -> None:
    """Force the new name to the disk, where folders can be opened."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
