"""Emitted Gluon text on CPU tensors: warp-specialized kernels run without a GPU, and their mistakes are found.

    run(source, *tensors, programs=3)

The text sees NumPy in the place of Triton. Parts of a program are threads of which one runs at a time; another one has
its turn where a barrier is waited for. What is not there yet cannot be read, and what is not one's own is not touched:

    shared memory   holds NaN until a load arrives, and from the moment when the next load into it is issued
    async_load      arrives when parts change, and counts its bytes off its barrier
    async_store     reads shared memory as late as it may: in store_wait
    warpgroup_mma   gives NaN, and reads its operands as late as it may: in warpgroup_mma_wait
    gl.load, store  raise for places outside the tensor that no mask holds back

Layouts mean nothing here, and neither do costs. `seed` makes parts change at other places, and loads arrive one by one.
"""

from __future__ import annotations

import builtins
import inspect
import random
import threading
from collections.abc import Callable, Sequence
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from tests.targets.triton.gluon_memory import (
    DTYPES,
    NAMED,
    POISON,
    Barrier,
    Barriers,
    DeadlockError,
    Descriptor,
    Memory,
    MisuseError,
    Pointer,
    Stopped,
    Tensor,
    clamped,
    fma,
    inline,
    poisoned,
    reduced,
    reduction,
    tensor,
    where,
)


class Part:
    """One of the parts of a program: a thread that runs while it has its turn."""

    def __init__(self, back: threading.Semaphore, function: Callable[..., None], args: Sequence[Any]) -> None:
        self.name = f"{function.__name__}({args[0] if isinstance(args[0], int) else ''})"
        self.barriers: dict[int, str] = {}
        for name, value in zip(inspect.signature(function).parameters, args, strict=True):
            if isinstance(value, Barriers):
                self.barriers |= {id(b): f"{name}[{i}]" for i, b in enumerate(value)}
            elif isinstance(value, Barrier):
                self.barriers[id(value)] = name
        self.back, self.turn = back, threading.Semaphore(0)
        self.waits: tuple[Barrier, int] | None = None
        self.unfenced: list[np.ndarray] = []
        self.stores: list[tuple[Descriptor, Sequence[int], Memory]] = []
        self.products: list[Tensor] = []
        self.done = self.stopped = False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self.thread.start()

    def _run(self, function: Callable[..., None], args: Sequence[Any]) -> None:
        try:
            self.paused()
            with np.errstate(all="ignore"):  # a GPU does not warn
                function(*args)
            if self.stores or self.products:
                raise MisuseError(f"{self.name} ends before its stores and products do")
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the program was started
            self.error = error
        self.done = True
        self.back.release()

    def paused(self) -> None:
        self.turn.acquire()
        if self.stopped:
            raise Stopped

    def switch(self) -> None:
        self.back.release()
        self.paused()

    def resume(self) -> None:
        self.turn.release()
        self.back.acquire()
        if self.error is not None:
            raise self.error

    @property
    def ready(self) -> bool:
        return not self.done and (self.waits is None or self.waits[0].passes(self.waits[1]))

    def __str__(self) -> str:
        if self.done or self.waits is None:
            return f"{self.name} has ended"
        barrier, phase = self.waits
        left = f"{barrier.pending} arrivals and {barrier.bytes} bytes are to come, {barrier.over} phases are over"
        return f"{self.name} waits for phase {phase} of {self.barriers.get(id(barrier), 'a barrier')}: {left}"


class Machine:
    """What runs programs one after the other, and what their text sees."""

    def __init__(self, programs: int | None, seed: int | None) -> None:
        self.limit, self.random = programs, None if seed is None else random.Random(seed)
        self.program = self.count = self.waits = 0
        self.part: Any = None
        self.loads: list[tuple[Descriptor, Sequence[int], Barrier, Memory]] = []

    def launch(self, function: Callable[..., None], tiles: int, args: Sequence[Any], walks: int) -> None:
        self.count = min(self.limit, tiles) if walks and self.limit is not None else tiles
        for program in range(self.count):
            self.program, self.loads, self.part = program, [], None
            with np.errstate(all="ignore"):
                function(*args)

    def wait_for_previous(self) -> None:
        self.waits += 1

    def specialize(self, parts: Sequence[tuple[Any, Any]], warps: Sequence[int], registers: Sequence[int]) -> None:
        """Run the parts until all have ended; raises what the first of them raises that fails."""
        if not len(parts) - 1 == len(warps) == len(registers):
            raise MisuseError(f"{len(parts)} parts, {len(warps)} numbers of warps, {len(registers)} of registers")
        back = threading.Semaphore(0)
        made = [Part(back, *part) for part in parts]
        try:
            last = -1
            while not all(part.done for part in made):
                self._deliver(some=self.random is not None)
                if not any(part.ready for part in made):
                    self._deliver()
                ready = [i for i, part in enumerate(made) if part.ready]
                if not ready:
                    raise DeadlockError("deadlock: " + "; ".join(map(str, made)))
                last = self.random.choice(ready) if self.random else min(ready, key=lambda i: (i <= last, i))
                self.part = made[last]
                made[last].resume()
        finally:
            for part in made:
                part.stopped = True
                part.turn.release()
                part.thread.join()
        if self.loads:
            raise MisuseError("the program ends before its loads do")

    def _deliver(self, some: bool = False) -> None:
        """Let loads arrive: all of them, or some."""
        loads, self.loads = self.loads, []
        for load in loads:
            if some and self.random is not None and self.random.random() < 0.5:
                self.loads.append(load)
                continue
            descriptor, place, barrier, memory = load
            there, here = descriptor.overlap(place)
            memory.array[...] = 0
            memory.array[here] = descriptor.matrix[there]
            barrier.arrived(bytes=-memory.array.nbytes)

    def _maybe_switch(self) -> None:
        if self.random is not None and self.random.random() < 0.3:
            self.part.switch()

    # -- what emitted text calls ---------------------------------------------------------------------------------------

    def allocate(self, dtype: Any, shape: Sequence[int], layout: Any) -> Any:
        if layout == "MBarrierLayout":
            return Barriers(Barrier() for _ in range(shape[0])) if len(shape) > 1 else Barrier()
        return Memory(poisoned(shape, dtype), self._written)

    def _written(self, array: np.ndarray) -> None:
        self.part.unfenced.append(array)

    def init(self, barrier: Barrier, count: int) -> None:
        barrier.count = barrier.pending = count

    def wait(self, barrier: Barrier, phase: int) -> None:
        self.part.waits = barrier, int(phase)
        self._maybe_switch()
        while not barrier.passes(int(phase)):
            self.part.switch()
        self.part.waits = None

    def expect(self, barrier: Barrier, bytes: int) -> None:
        barrier.arrived(1, bytes)

    def arrive(self, barrier: Barrier, count: int = 1) -> None:
        barrier.arrived(count)
        self._maybe_switch()

    def fence(self) -> None:
        if self.part is not None:
            self.part.unfenced.clear()

    def async_load(self, descriptor: Descriptor, place: Sequence[int], barrier: Barrier, memory: Memory) -> None:
        if memory.array.shape != tuple(descriptor.box) or memory.array.dtype != descriptor.dtype:
            raise MisuseError(f"a box of {descriptor.box} loaded to memory of {memory.array.shape}")
        if any(np.may_share_memory(memory.array, other.array) for *_, other in self.loads):
            raise MisuseError("a load to where another one is on its way")
        memory.array[...] = poisoned(memory.array.shape, memory.array.dtype)
        self.loads.append((descriptor, place, barrier, memory))

    def async_store(self, descriptor: Descriptor, place: Sequence[int], memory: Memory) -> None:
        if memory.array.shape != tuple(descriptor.box) or memory.array.dtype != descriptor.dtype:
            raise MisuseError(f"a box of {descriptor.box} stored from memory of {memory.array.shape}")
        if any(np.may_share_memory(memory.array, array) for array in self.part.unfenced):
            raise MisuseError("async_store of what was written without a fence")
        self.part.stores.append((descriptor, place, memory))

    def store_wait(self, pendings: int) -> None:
        stores = self.part.stores
        while len(stores) > pendings:
            descriptor, place, memory = stores.pop(0)
            there, here = descriptor.overlap(place)
            descriptor.matrix[there] = memory.array[here]

    def mma(self, a: Any, b: Memory, acc: Tensor, *, use_acc: Any = True, is_async: bool = False) -> Tensor:
        shape = a.shape if isinstance(a, Tensor) else a.array.shape
        if shape[1] != b.array.shape[0] or acc.shape != (shape[0], b.array.shape[1]):
            raise MisuseError(f"a product of {shape} and {b.array.shape} on top of {acc.shape}")
        found: Any = tensor(np.full(acc.shape, np.nan, np.float32))
        found.operands = a, b, acc, bool(use_acc)
        self.part.products.append(found)
        return found if is_async else self.mma_wait(0, [found])

    def mma_wait(self, outstanding: int, deps: Sequence[Any]) -> Any:
        if outstanding:
            raise NotImplementedError("warpgroup_mma_wait for some of the products")
        values: dict[int, Tensor] = {}
        for product in self.part.products:  # one may stand on top of another
            a, b, acc, use_acc = product.operands
            if isinstance(a, Tensor) and not any(a is dep for dep in deps):
                raise MisuseError("a product's operand in registers is not kept until the product is there")
            first = a if isinstance(a, Tensor) else a.array
            # 16 rows at once: larger products are given to threads of BLAS, which wait for each other by spinning.
            left = np.asarray(first).astype(np.float32).reshape(-1, 16, first.shape[1])
            sums = np.matmul(left, b.array.astype(np.float32)).reshape(acc.shape)
            values[id(product)] = tensor(sums + values.get(id(acc), acc) if use_acc else sums)
        self.part.products = []
        found = [values.get(id(dep), dep) for dep in deps]
        return tuple(found) if len(found) > 1 else found[0]


# -- the text ----------------------------------------------------------------------------------------------------------


def run(source: str, *tensors: Any, programs: int | None = None, seed: int | None = None) -> Any:
    """What the function of emitted text returns for CPU tensors, with at most `programs` programs for each kernel.

    seed: parts change at random places too, and loads arrive in random order; without it parts run until they wait.
    """
    machine = Machine(programs, seed)
    modules = _modules(machine)

    def imported(name: str, _globals: Any = None, _locals: Any = None, names: Any = (), level: int = 0) -> Any:
        return modules[name] if names else modules[name.split(".")[0]]

    scope: dict[str, Any] = {"__builtins__": {**vars(builtins), "__import__": imported}, "__name__": "emitted"}
    exec(compile(source, "<emitted>", "exec", dont_inherit=True), scope)
    entries = [v for v in scope.values() if isinstance(v, FunctionType) and not hasattr(v, "jitted")]
    return entries[-1](*tensors)


def _kernel(machine: Machine) -> Callable[..., Any]:
    """The fake of launch.Kernel."""

    def made(
        function: Any, *, pointers: tuple[str, ...], strided: tuple[int, ...], sizes: int,
        boxes: tuple[tuple[int, int] | None, ...] = (), columns: tuple[int, ...] = (), walks: int = 0,
        launch_pdl: bool = False, **_: Any,
    ) -> Any:  # fmt: skip
        boxes = boxes or (None,) * len(pointers)  # a kernel without any is plain Triton

        def call(tiles: int, *args: Any) -> None:
            if not tiles:
                return
            tensors = list(args[: len(pointers)])
            for i in columns:  # as the real one does
                if tensors[i].stride(0) != 1 < tensors[i].shape[0]:
                    tensors[i] = _columns(tuple(tensors[i].shape), tensors[i].dtype, tensors[i]).copy_(tensors[i])
            given = [_given(t, DTYPES[p], box) for t, p, box in zip(tensors, pointers, boxes, strict=True)]
            strides = [s for t, rank in zip(tensors, strided, strict=True) if rank > 0 for s in t.stride()]
            if len(args) != len(pointers) + sizes:
                raise MisuseError(f"{len(args)} arguments for {len(pointers)} tensors and {sizes} sizes")
            machine.waits = 0
            machine.launch(function, tiles, [*given, *args[len(pointers) :], *strides], walks)
            if machine.waits != (machine.count if launch_pdl else 0):
                raise MisuseError(
                    f"{machine.waits} of {machine.count} programs wait for the kernel before; {launch_pdl=}"
                )

        return SimpleNamespace(call=call)

    return made


def _given(given: torch.Tensor, dtype: Any, box: tuple[int, int] | None) -> Any:
    """A tensor as a kernel gets it; the memory is the tensor's."""
    if box is not None and given.dim() == 3:  # matrices as one, where they lie one behind the other
        given = given.reshape(-1, given.shape[2])
    span = 1 + sum((size - 1) * stride for size, stride in zip(given.shape, given.stride(), strict=True))
    words = given.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[given.itemsize])
    flat = torch.as_strided(words, (span,), (1,), given.storage_offset()).numpy().view(dtype)
    shape, strides = tuple(given.shape), given.stride()
    if box is not None:
        return Descriptor(np.lib.stride_tricks.as_strided(flat, shape, [s * flat.itemsize for s in strides]), box)
    valid = np.zeros(span, np.bool_)
    np.lib.stride_tricks.as_strided(valid, shape, strides)[...] = True
    return Pointer(flat, valid)


def _empty(shape: tuple[int, ...], dtype: torch.dtype, like: Any) -> torch.Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.full((size,), POISON, dtype=torch.uint8).view(dtype).view(shape)


def _columns(shape: tuple[int, int], dtype: torch.dtype, like: Any) -> torch.Tensor:
    return _empty((shape[1], -(-shape[0] // 4) * 4), dtype, like).t()[: shape[0]]


def _jit(function: Any) -> Any:
    function.jitted = True
    return function


class Language(SimpleNamespace):
    """Names of Triton's language. Layouts are known by their names alone."""

    def __getattr__(self, name: str) -> Any:
        if name.endswith("Layout"):
            return lambda *_, **__: name
        raise AttributeError(f"{name} is not in the language that tests interpret; add it to _modules of {__name__}")


def _static_assert(condition: Any, text: str = "") -> None:
    if not condition:
        raise MisuseError(text)


def _modules(machine: Machine) -> dict[str, Any]:
    """What emitted text imports, by name."""
    language = Language(
        **NAMED, constexpr=Any, static_range=range, static_assert=_static_assert,
        program_id=lambda axis: machine.program, num_programs=lambda axis: machine.count,
        where=where, exp=np.exp, exp2=np.exp2, log=np.log, log2=np.log2, abs=np.abs, floor=np.floor, sin=np.sin,
        cos=np.cos, sqrt_rn=np.sqrt, sqrt=np.sqrt, div_rn=lambda a, b: tensor(a) / b, fma=fma,
        erf=lambda x: tensor(torch.erf(torch.from_numpy(np.asarray(x).copy())).numpy()),
        minimum=clamped(np.minimum, np.fmin), maximum=clamped(np.maximum, np.fmax),
        PropagateNan=SimpleNamespace(ALL=True, NONE=False), max=reduction(np.max), min=reduction(np.min),
        sum=reduction(np.sum), reduce=reduced, cast=lambda x, dtype: tensor(x).to(dtype),
        arange=lambda a, b, layout=None: tensor(np.arange(a, b, dtype=np.int32)),
        full=lambda shape, value, dtype, layout=None: tensor(np.full(shape, value, dtype)),
        zeros=lambda shape, dtype, layout=None: tensor(np.zeros(shape, dtype)),
        reshape=np.reshape, permute=np.transpose, broadcast_to=lambda x, shape: tensor(np.broadcast_to(x, shape)),
        split=lambda x: (x[..., 0], x[..., 1]), expand_dims=np.expand_dims,
        join=lambda a, b: tensor(np.stack((a, b), -1)), convert_layout=lambda x, layout, assert_trivial=False: x,
        broadcast=lambda a, b: tuple(map(tensor, np.broadcast_arrays(a, b))), inline_asm_elementwise=inline,
        load=lambda p, mask=None, other=None, **more: p.load(mask, other, **more),
        store=lambda p, value, mask=None, **more: p.store(value, mask, **more),
        to_tensor=lambda x: x, cdiv=lambda a, b: -(-a // b),
        allocate_shared_memory=machine.allocate, warp_specialize=machine.specialize,
    )  # fmt: skip
    barriers = Language(
        init=machine.init, wait=machine.wait, expect=machine.expect, arrive=machine.arrive,
    )  # fmt: skip
    hopper = SimpleNamespace(
        async_load=machine.async_load, async_store=machine.async_store, fence_async_shared=machine.fence,
        mbarrier=barriers, store_wait=machine.store_wait, warpgroup_mma=machine.mma,
        warpgroup_mma_wait=machine.mma_wait,
    )  # fmt: skip
    kinds = {"i1": torch.bool, "ui8": torch.uint8, "bf16": torch.bfloat16, "f16": torch.float16, "i32": torch.int32}
    rt = SimpleNamespace(
        **kinds, f32=torch.float32, f64=torch.float64, i64=torch.int64, Kernel=_kernel(machine), empty=_empty,
        columns=_columns, concat=torch.cat, wait_for_previous=machine.wait_for_previous,
        full=lambda shape, value, dtype, like: _empty(shape, dtype, like).fill_(value),
    )  # fmt: skip
    return {
        "triton": SimpleNamespace(jit=_jit, language=language),
        "triton.experimental": SimpleNamespace(gluon=SimpleNamespace(jit=_jit)),
        "triton.experimental.gluon": SimpleNamespace(language=language),
        "breccia.targets.triton": SimpleNamespace(launch=rt),
        "breccia.targets.triton.hopper": hopper,
    }
