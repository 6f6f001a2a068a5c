"""Targets: what code is made for, and how they are found.

    find("numpy")           a target with one architecture
    find("triton:sm_90")    a target and one of its architectures
    names()                 what may be asked for

A target of breccia is a folder of `breccia/targets/` whose `__init__.py` holds `TARGET`; one from another package is
the same object, announced by an entry point of the group `breccia.targets`. Nothing of a plug-in is imported before
somebody asks for it. A target that cannot be had is an error: nothing falls back to another one.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from breccia.errors import PluginError, UnsupportedError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from breccia.ir.capabilities import Capabilities
    from breccia.ir.kernel import KernelOp

ABI = 1
"""Version of what `Target` asks and promises; a target made for another one is refused."""

GROUP = "breccia.targets"

Rows = Callable[[], "Sequence[Capabilities]"]
Emit = Callable[["ModuleOp"], str]
Launch = Callable[..., Callable[..., Any]]
Missing = Callable[[str], str]
Entries = dict[str, int | str]
"""A schedule: what `#breccia.schedule<..>` says, by name."""


class PluginWarning(UserWarning):
    """A target from another package cannot be used; it is skipped, and the others work."""


def _nothing(_arch: str) -> str:
    return ""


@dataclass(frozen=True)
class Tuning:
    """What a target lets be tuned, and how that is measured; see `breccia.frontend.tuning`.

    Invariants: `candidates` gives the default first, and nothing that `refusal` has a reason against. Both take a
    kernel that is not tiled yet. The hooks import what they need when called; `version` and `device` load no xDSL.
    """

    version: Callable[[], str]
    """Of the compiler and of the space: entries of tables that were made under another one are not read."""
    candidates: Callable[[KernelOp, Capabilities], Sequence[Entries]]
    """Schedules worth trying, in the order in which the cost model expects them to be quick."""
    refusal: Callable[[KernelOp, Capabilities, Entries], str]
    """Why a schedule is not legal for a kernel; empty where it is."""
    device: Callable[[Any], str]
    """The name of the device that an array lies on, for which tables are kept."""
    place: Callable[[], tuple[str, str]]
    """(the device to measure on, as its library spells it; its architecture). Raises UnsupportedError without one."""
    store: Callable[[Path, Sequence[Any]], None]
    """Write arrays, as they lie, into a file that the worker reads."""
    worker: str
    """The module that builds and measures, as a process of its own; see `breccia.frontend.tuning.workers`."""
    tables: Path
    """The folder of the tables that come with the target: a file `<device>.json` each."""


@dataclass(frozen=True)
class Target:
    """One target, and the architecture of it that is meant.

    Invariants: `rows()` holds one `Capabilities` for each of `architectures`, named `name:architecture`, or a single
    one named `name` where there are none; `emitter` and `launcher` come together; `arch` is one of `architectures`, or
    empty. The hooks import what they need when they are called: making a `Target` imports neither xDSL nor an array
    library.
    """

    name: str
    version: str
    """Enters the key of compiled code: raise it whenever emitted text may change."""
    rows: Rows
    architectures: tuple[str, ...] = ()
    emitter: Emit | None = None
    """Tiled, legal, masked module to source text: a pure function that imports no framework."""
    launcher: Launch | None = None
    """(source, name of a function in it) to that function, ready to be called. Where `arrays` names more than NumPy,
    it takes the name of the library as a third argument."""
    arrays: tuple[str, ...] = ("numpy",)
    """Array libraries whose arrays its functions take."""
    gradients: bool = True
    """False where its functions stop gradients, so that differentiated arrays have to be refused."""
    backward: str = ""
    """The target whose functions are differentiated instead of this one's, where a library differentiates; its
    functions are compiled when that first happens. Only for targets that run on JAX's arrays alone.
    """
    how: Callable[[], str] | None = None
    """How functions run in this process, where that is not as the target's name says; empty where it is."""
    abi: int = ABI
    arch: str = ""
    tuning: Tuning | None = None
    """None where every kernel has its default schedule."""
    missing: Missing = _nothing
    """(architecture, or empty) to what this machine lacks to run emitted code, such as "no GPU"; empty where it can."""
    stands_in: bool = False
    """True where array functions of its library stand in for code that cannot run, which `explain()` says and
    `strict=True` makes an error."""

    @property
    def full_name(self) -> str:
        """`triton:sm_90`, or `numpy`."""
        return f"{self.name}:{self.arch}" if self.arch else self.name

    @property
    def full_names(self) -> tuple[str, ...]:
        """Every name that stands for this target and one of its architectures."""
        return tuple(f"{self.name}:{arch}" for arch in self.architectures) or (self.name,)

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, as data; `breccia.ir.capabilities.set_target` writes it into a module. Loads xDSL."""
        for row in self.rows():
            if row.name == self.full_name:
                return row
        raise PluginError(f"target {self.full_name} has no row of capabilities named {self.full_name!r}")

    @property
    def emits(self) -> bool:
        """False for a target that this version only lowers and interprets for."""
        return self.emitter is not None

    @property
    def unavailable(self) -> str:
        """Why its code cannot run on this machine; empty where it can. A missing library is a reason, not an error."""
        return self.missing(self.arch) if self.emits else "this version of breccia does not emit code for it"

    def emit(self, module: ModuleOp) -> str:
        """Source text of a module in tiled form: one function for each function of the module, with its name.

        A function takes the module function's arguments (plain components), and gives its result, or a tuple where it
        has several. Raises UnsupportedError for what the target cannot print, naming the op.
        """
        if self.emitter is None:
            raise UnsupportedError(self._lowers_only())
        return self.emitter(module)

    def launch(self, source: str, entry: str, library: str = "numpy") -> Callable[..., Any]:
        """The function called `entry` of emitted `source`, on arrays of `library`."""
        if self.launcher is None:
            raise UnsupportedError(self._lowers_only())
        if library not in self.arrays:
            raise UnsupportedError(
                f"{self.full_name} runs on arrays of {', '.join(self.arrays)}, not of {library}; convert them first, "
                "ScaledTensors with .to(...)"
            )
        return self.launcher(source, entry) if self.arrays == ("numpy",) else self.launcher(source, entry, library)

    def _lowers_only(self) -> str:
        return (
            f"this version of breccia lowers and interprets for {self.full_name}, but does not emit code for it; "
            f"read its IR with `breccia-opt --target {self.full_name} -p default --interpret`, or compile for numpy"
        )


def not_installed(*modules: str) -> str:
    """For the hook `missing`: the first of these modules that is not installed, as a reason; empty where all are.

    >>> not_installed("numpy"), not_installed("numpy", "no_such_module")
    ('', 'no_such_module is not installed')
    """
    lacking = (name for name in modules if importlib.util.find_spec(name) is None)
    return next((f"{name} is not installed" for name in lacking), "")


def provider(family: str) -> str:
    """Where the target called `family` comes from: `breccia`, or the name of another package.

    >>> provider("numpy")
    'breccia'
    """
    return "breccia" if family in built_in() else ", ".join(_distribution(p) for p in _plugins() if p.name == family)


def built_in() -> tuple[str, ...]:
    """Names of the targets in this package, found by folder."""
    package = importlib.util.find_spec("breccia.targets")
    assert package is not None, "breccia.targets is part of the package"
    return tuple(
        sorted(m.name for m in iter_modules(package.submodule_search_locations) if m.ispkg and m.name[0] != "_")
    )


def names() -> tuple[str, ...]:
    """Every name that `find` takes; targets that cannot be loaded are named in a PluginWarning and left out.

    >>> "numpy" in names() and "triton:sm_90" in names()
    True
    """
    found: list[str] = []
    for family in sorted({*built_in(), *(p.name for p in _plugins())}):
        try:
            found += _load(family).full_names
        except PluginError as error:
            warnings.warn(f"{error}; it is skipped", PluginWarning, stacklevel=2)
    return tuple(found)


def find(name: str) -> Target:
    """The target called `name`, such as `numpy` or `triton:sm_90`.

    Raises UnsupportedError for an unknown target or architecture, listing the known ones; PluginError for a plug-in
    that does not load, is made for another version, or has a name that is in use.

    >>> find("triton:sm_90").arch
    'sm_90'
    """
    if not isinstance(name, str):
        raise UnsupportedError(f"a target is given by its name, such as 'numpy', not {name!r}")
    family, _, arch = name.partition(":")
    if family not in {*built_in(), *(p.name for p in _plugins())}:
        raise UnsupportedError(f"unknown target {name!r}; known targets: {', '.join(names())}")
    target = _load(family)
    if arch == "" and len(target.architectures) <= 1:
        return replace(target, arch="".join(target.architectures))
    if arch not in target.architectures:
        what = f"unknown architecture {arch!r} of target" if arch else "which architecture of target"
        raise UnsupportedError(f"{what} {family}{'' if arch else '?'}; known: {', '.join(target.full_names)}")
    return replace(target, arch=arch)


def _plugins() -> tuple[EntryPoint, ...]:
    """Entry points of other packages, each package's once."""
    unique = {(p.name, p.value, _distribution(p)): p for p in entry_points(group=GROUP)}
    return tuple(unique.values())


def _distribution(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist is not None else "an unnamed package"


def _described(plugin: EntryPoint) -> str:
    return f"{plugin.value} of {_distribution(plugin)}"


def _load(family: str) -> Target:
    """The target called `family`, checked; raises PluginError."""
    plugins = [p for p in _plugins() if p.name == family]
    owners = [f"breccia.targets.{family} of breccia"] * (family in built_in()) + [_described(p) for p in plugins]
    if len(owners) > 1:
        raise PluginError(f"{len(owners)} targets are called {family!r}: {' and '.join(owners)}; uninstall all but one")
    try:
        if plugins:
            target = plugins[0].load()
        else:
            target = importlib.import_module(f"breccia.targets.{family}").TARGET
    except Exception as error:
        raise PluginError(f"target {family!r} ({owners[0]}) does not load: {type(error).__name__}: {error}") from error
    _check(target, family, owners[0])
    return target


def _check(target: Any, family: str, owner: str) -> None:
    """Raise PluginError unless `target` is what this version of breccia can use."""
    where = f"target {family!r} ({owner})"
    abi = getattr(target, "abi", None)
    if abi is not None and abi != ABI:
        raise PluginError(
            f"{where} is made for target interface {abi}; this breccia has {ABI}: install a version for it"
        )
    if not isinstance(target, Target):
        raise PluginError(f"{where} is {type(target).__name__} {target!r:.60}; a breccia.target.Target is wanted")
    if target.name != family:
        raise PluginError(f"{where} calls itself {target.name!r}; its name must be the one it is announced by")
    if not callable(target.rows):
        raise PluginError(f"{where} lacks the hook rows, which gives its capabilities")
    if (target.emitter is None) != (target.launcher is None):
        lacking = "emitter" if target.emitter is None else "launcher"
        raise PluginError(f"{where} lacks the hook {lacking}; emitter and launcher come together")
