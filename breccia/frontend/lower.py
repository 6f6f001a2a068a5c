"""A traced function on its way to code: its IR after every pass, its source, and the callable.

low = f.lower(x, w)
low.ir("partitioned"), low.passes(), low.source(), low.explain()
g = low.compile()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import ModuleOp, StringAttr

from breccia.errors import PassError, ShapeError, UnsupportedError
from breccia.frontend import cache, keys
from breccia.frontend.build import Traced
from breccia.frontend.choice import NATIVE_PRODUCTS
from breccia.frontend.explain import Facts, explain
from breccia.frontend.program import Plan, Program, library_of_call
from breccia.frontend.schedules import TunedSchedule
from breccia.frontend.tables import Tables, tables_of
from breccia.ir.capabilities import CapabilitiesAttr, set_target
from breccia.ir.pipeline import Pipeline, Record
from breccia.ir.printer import print_module
from breccia.ir.rewriting import functions, show_location
from breccia.passes import default_pipeline, pipeline_names
from breccia.target import Target

FORMS = {"partitioned": "partition", "laid_out": "hoist-prepare", "tiled": "tile"}
"""Each form after the traced one, and the pass that makes it."""
FALLBACK = "breccia.fallback"
"""Attribute of an op that a pass could only lower in a slower way: why, and what to do."""

_CODE: dict[str, dict[str, Any]] = {}


class Lowered:
    """A function traced for certain arguments, and everything that follows from that. Each step is made when asked for.

    Invariants: `traced.module` stays as it was traced; passes run on clones.
    """

    def __init__(
        self, traced: Traced, target: Target, leaves: Sequence[Any], key: keys.Key, *, strict: bool, instead: str = "",
        tables: Tables | None = None,
    ) -> None:  # fmt: skip
        """instead: why this target was taken instead of a quicker one. tables: of schedules, instead of those for the
        device that `leaves` lie on.
        """
        self._traced, self._target, self._strict, self._instead = traced, target, strict, instead
        self._leaves, self._key = leaves, key
        self._tables = tables_of(target, leaves) if tables is None else tables

    def __repr__(self) -> str:
        return f"<{self._traced.name} lowered for {self._target.full_name}>"

    @property
    def target(self) -> Target:
        """What code is made for."""
        return self._target

    @property
    def leaves(self) -> Sequence[Any]:
        """The arrays of the call, in order."""
        return self._leaves

    def retargeted(self, target: Target | None = None, tables: Tables | None = None) -> Lowered:
        """The same trace for another target, or with other tables of schedules than those for the device now."""
        return Lowered(
            self._traced, target or self._target, self._leaves, self._key, strict=self._strict, instead=self._instead,
            tables=tables,
        )  # fmt: skip

    # -- to look at ----------------------------------------------------------------------------------------------------

    def ir(self, stage: str = "traced", *, locations: bool = False) -> str:
        """The IR as text: at a form (traced, partitioned, laid_out, tiled) or after a pass of `passes()`.

        Raises PassError for a stage that is none, listing them.
        """
        if stage == "traced":
            return print_module(self._traced.module, locations=locations)
        wanted = FORMS.get(stage, stage)
        if wanted not in self.passes():
            raise PassError(
                f"no stage {stage!r}; stages: traced, {', '.join(FORMS)}, and the passes {', '.join(self.passes())}"
            )
        if locations:
            return print_module(self.module_after(wanted), locations=True)
        return next(r.text for r in reversed(self._texts) if r.name == wanted)

    def passes(self) -> list[str]:
        """The names of the passes that are run, in order."""
        return list(pipeline_names(self._target.capabilities))

    @property
    def records(self) -> list[Record]:
        """What each pass took: name, contract and seconds."""
        return self._final[1]

    def source(self) -> str:
        """The emitted code. Raises UnsupportedError for a target that this version only lowers for."""
        return str(self._code["source"])

    def explain(self) -> str:
        """What was decided and why: kernels, what is fused, where scales are applied, layouts, bytes moved."""
        return explain(self._facts)

    @property
    def constants(self) -> tuple[Any, ...]:
        """Arrays that the function closes over, in the order of the emitted function's last arguments."""
        return self._traced.constants

    # -- to run --------------------------------------------------------------------------------------------------------

    def compile(self) -> Compiled:
        """The callable for arguments of this kind; with `strict`, raises UnsupportedError if there is a fallback."""
        return Compiled(self._traced.name, self._key, self.program(), dynamic=bool(self._traced.slots))

    def program(self, backward: Callable[[], Program] | None = None) -> Program:
        """Emitted code with what is needed to call it; see `Program` for `backward`."""
        self.check_strict()
        code = self._code
        load = partial(self._target.launch, code["source"])
        return Program(self.plan(prepare=code["prepare"]), load, self._leaves, self._traced.constants, backward)

    def check_strict(self) -> None:
        """Raise UnsupportedError if `strict` is set and something is slower than it could be."""
        if self._strict and (found := self.fallbacks()):
            raise UnsupportedError(f"{self._traced.name}: strict=True, and {'; '.join(found)}")

    def pinned_numbers(self) -> list[str]:
        """Sizes that had to become part of the code, since the function uses them as numbers: a fallback of tracing."""
        return [
            f"{pin.reason}, so the size {pin.size} is part of the code: use the size only in shapes, or dynamic=False"
            for pin in self._traced.symbols.pins.values()
            if pin.number
        ]

    def fallbacks(self) -> list[str]:
        """Slower ways that were taken, and why."""
        found = [
            f"{op.attributes[FALLBACK].data} at {show_location(op)}"  # type: ignore[attr-defined]
            for op in self.module_after("place-scales").walk()
            if isinstance(op.attributes.get(FALLBACK), StringAttr)
        ]
        return self.pinned_numbers() + ([self._instead] if self._instead else []) + found

    def plan(self, *, prepare: bool) -> Plan:
        """How the emitted function is called."""
        traced = self._traced
        symbols, slots = traced.symbols, traced.slots
        roots = [i for i, root in enumerate(symbols.roots) if root == i and root not in symbols.pins]
        return Plan(
            entry=traced.name,
            pinned=tuple((slots[i], size) for i, size in symbols.pinned()),
            equal=tuple((slots[i], slots[j]) for i, j in symbols.equal()),
            symbols=tuple((symbols.name(i), slots[i]) for i in roots),
            tree=traced.tree,
            results=traced.results,
            prepare=prepare,
            notes=traced.notes,
        )

    # -- steps ---------------------------------------------------------------------------------------------------------

    @cached_property
    def code_key(self) -> str:
        """The name of the cache entry: a hash of the traced text, the capabilities and the versions."""
        capabilities = str(CapabilitiesAttr(self._target.capabilities))
        text = print_module(self._traced.module)
        tuned = [self._tables.digest] if self._tables.digest else []
        return cache.key_of("code", text, capabilities, self._target.full_name, self._target.version, *tuned)

    @cached_property
    def _code(self) -> dict[str, Any]:
        """Source and whether it has `prepare`: from memory, from disk, or made now."""
        dump = os.environ.get("BRECCIA_DUMP")
        found = None if dump else _CODE.get(self.code_key) or cache.read(self.code_key)
        if found is None:
            module, records = self._final
            source = self._target.emit(module)
            found = {"source": source, "prepare": any(f.sym_name.data == "prepare" for f in functions(module))}
            if dump:
                (_dump_folder(dump, self._traced.name) / f"{len(records) + 1:02}-source.py").write_text(source)
            cache.write(self.code_key, found)
        _CODE[self.code_key] = found
        return found

    @cached_property
    def _final(self) -> tuple[ModuleOp, list[Record]]:
        return self._run(self.passes())

    @cached_property
    def _texts(self) -> list[Record]:
        return self._run(self.passes(), keep_text=True)[1]

    @cached_property
    def _facts(self) -> Facts:
        library = library_of_call(self._leaves, self._traced.constants)
        how = self._target.how() if self._target.how is not None and library in self._target.arrays else ""
        return Facts(
            name=self._traced.name,
            target=self._target.full_name,
            library=library,
            notes=(*self._traced.notes, *([how] if how else []), *self._native_products()),
            fallbacks=tuple(self.fallbacks()),
            laid_out=self.module_after("hoist-prepare"),
            scheduled=self.module_after("schedule"),
            hints=self._traced.symbols.hints(),
            tunable=self._target.tuning is not None,
        )

    def _native_products(self) -> tuple[str, ...]:
        """What array code leaves to the library of its arrays, where it was made to."""
        if NATIVE_PRODUCTS not in self._target.capabilities.features:
            return ()
        from breccia.targets.numpy._native import kernels_with_products

        found = kernels_with_products(self.source())
        what = (
            "multiplies by the library's own product of quantized weights where it has one (MLX: mx.quantized_matmul)"
        )
        return tuple(f"{name} {what}" for name in found)

    def emitted(self) -> str:
        """The code, made now: neither looked for in a cache nor kept there."""
        return self._target.emit(self._final[0])

    def module_after(self, name: str) -> ModuleOp:
        """The IR after a pass of `passes()`."""
        names = self.passes()
        return self._run(names[: names.index(name) + 1], dump=False)[0]

    def _run(
        self, names: Sequence[str], *, keep_text: bool = False, dump: bool = True
    ) -> tuple[ModuleOp, list[Record]]:
        """A clone of the traced module after the first passes of the pipeline, and their records."""
        capabilities = self._target.capabilities
        module = self._traced.module.clone()
        set_target(module, capabilities)
        given = os.environ.get("BRECCIA_DUMP")
        tuned = TunedSchedule(self._tables, self._target.tuning)
        steps = [tuned if step.name == tuned.name else step for step in default_pipeline(capabilities)[: len(names)]]
        pipeline = Pipeline(steps, keep_text=keep_text, careful=False)
        pipeline.dump = _dump_folder(given, self._traced.name) if given and dump and not keep_text else None
        pipeline.run(module)
        return module, pipeline.records


def _dump_folder(given: str, name: str) -> Path:
    folder = Path(given) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Compiled:
    """Code for arguments of one kind: the same containers, dtypes, recipes, scalars and static sizes.

    Raises ShapeError when called with others; a function made by `breccia.compile` compiles again instead.
    """

    def __init__(self, name: str, key: keys.Key, program: Program, *, dynamic: bool) -> None:
        self._name, self._key, self._program, self._dynamic = name, key, program, dynamic

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key, leaves = keys.call_key(args, kwargs, self._dynamic)
        if key != self._key or not self._program.plan.fits(leaves):
            raise ShapeError(f"{self._name} is compiled for other arguments than {key}: it takes {self._key}")
        return self._program.run(leaves)
