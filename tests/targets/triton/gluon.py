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
from functools import reduce
from types import FunctionType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import torch

from tests.targets.triton.interpreter import _cast, fused

DTYPES = {
    "u8": np.uint8, "i8": np.int8, "i1": np.bool_, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32, "fp64": np.float64,
    "fp8e4nv": ml_dtypes.float8_e4m3fn, "fp8e5": ml_dtypes.float8_e5m2,
}  # fmt: skip
"""What pointers point to."""
NAMED = {
    "int1": np.bool_, "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64, "uint8": np.uint8,
    "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64, "float16": np.float16, "float32": np.float32,
    "float64": np.float64, "bfloat16": ml_dtypes.bfloat16, "float8e4nv": ml_dtypes.float8_e4m3fn,
    "float8e5": ml_dtypes.float8_e5m2,
}  # fmt: skip
"""Dtypes by the names that emitted text has for them."""
POISON = 255
"""Bytes of it are NaN in every format of floats here."""


class MisuseError(Exception):
    """The text does what a GPU would not notice, or notice too late."""


class DeadlockError(MisuseError):
    """Every part of a program waits."""


class Stopped(BaseException):
    """Ends a part whose program failed elsewhere."""


# -- values ------------------------------------------------------------------------------------------------------------


class Tensor(np.ndarray):
    """An array as Triton computes with it: float32 stays float32."""

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        narrow = array.astype(np.float32) if array.dtype == np.float64 else array
        return narrow.view(Tensor)

    def to(self, dtype: Any, bitcast: bool = False) -> Tensor:
        plain, dtype = np.asarray(self), np.dtype(dtype)
        return tensor(plain.view(dtype) if bitcast else _cast(plain, dtype, _is_float8(dtype)))


def _is_float8(dtype: np.dtype) -> bool:
    return dtype.name.startswith("float8")


def tensor(value: Any) -> Tensor:
    """Numbers and arrays as Tensor; integers of Python are int32 where they fit."""
    if isinstance(value, int) and not isinstance(value, bool):
        return np.asarray(value, np.int32 if -(2**31) <= value < 2**31 else np.int64).view(Tensor)
    if isinstance(value, float):
        return np.asarray(value, np.float32).view(Tensor)
    return np.asarray(value).view(Tensor)


def poisoned(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array whose every byte is POISON."""
    dtype = np.dtype(dtype)
    return np.full((*shape, dtype.itemsize), POISON, np.uint8).view(dtype).reshape(shape)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    if isinstance(a, int | float) and isinstance(b, int | float):
        a = tensor(a)
    return tensor(np.where(np.asarray(condition), *(np.asarray(v) if isinstance(v, Tensor) else v for v in (a, b))))


def _reduction(function: Any) -> Callable[..., Tensor]:
    return lambda x, axis=None, keep_dims=False: tensor(function(np.asarray(x), axis=axis, keepdims=keep_dims))


def _reduced(x: Tensor, axis: int, combine: Any, keep_dims: bool = False) -> Tensor:
    parts = np.split(np.asarray(x), x.shape[axis], axis)
    found = reduce(combine, map(tensor, parts))
    return found if keep_dims else tensor(np.squeeze(found, axis))


def _clamped(propagating: Any, other: Any) -> Callable[..., Tensor]:
    def function(a: Any, b: Any, propagate_nan: bool = False) -> Tensor:
        return tensor((propagating if propagate_nan else other)(a, b))

    return function


def _fma(x: Any, y: Any, z: Any) -> Tensor:
    return tensor(fused(*np.broadcast_arrays(*(np.asarray(v, np.float32) for v in (x, y, z)))))


def _prefetched(pointers: Pointer) -> Tensor:
    """What is asked for has to be there, though a GPU does not mind."""
    pointers.load()
    return tensor(0)


INSTRUCTIONS: dict[str, Callable[..., Tensor]] = {
    "fma.rn.f32 $0, $1, $2, $3;": _fma,
    "add.rn.f32 $0, $1, $2;": lambda a, b: a + b,
    "mov.b32 $0, 0;": lambda _: tensor(0),
    "prefetch.global.L2 [$1]; mov.b32 $0, 0;": _prefetched,
}
"""What inline assembly means."""


def _inline(text: str, constraints: str, args: Sequence[Any], dtype: Any, is_pure: bool, pack: int) -> Tensor:
    return INSTRUCTIONS[text](*args).to(dtype)


class Pointer:
    """Places in a tensor. Only elements of the tensor may be read and written: neither its end, nor gaps."""

    def __init__(self, flat: np.ndarray, valid: np.ndarray, offsets: Any = 0) -> None:
        self.flat, self.valid, self.offsets = flat, valid, offsets

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.flat, self.valid, self.offsets + offset)

    def _places(self, mask: Any) -> tuple[np.ndarray, Any]:
        """Offsets, and which of them are used."""
        offsets = np.asarray(self.offsets)
        used = np.broadcast_to(np.asarray(True if mask is None else mask), offsets.shape)
        places = offsets[used]
        outside = places[(places < 0) | (places >= len(self.flat))]
        if outside.size or not self.valid[places].all():
            raise MisuseError(f"touches places outside the tensor: {outside[:4] if outside.size else 'between rows'}")
        return offsets, used

    def load(self, mask: Any = None, other: Any = None, **_: Any) -> Tensor:
        offsets, used = self._places(mask)
        found = poisoned(offsets.shape, self.flat.dtype)
        if other is not None:
            found[...] = other
        found[used] = self.flat[offsets[used]]
        return tensor(found)

    def store(self, value: Any, mask: Any = None, **_: Any) -> None:
        offsets, used = self._places(mask)
        self.flat[offsets[used]] = np.broadcast_to(tensor(value).to(self.flat.dtype), offsets.shape)[used]


class Descriptor:
    """A matrix that boxes are moved from and to."""

    def __init__(self, matrix: np.ndarray, box: tuple[int, int]) -> None:
        self.matrix, self.box, self.dtype, self.layout = matrix, box, matrix.dtype, box

    def overlap(self, place: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of a box at `place` that lies in the matrix: in the matrix, and in the box."""
        spans = [
            (max(p, 0), max(min(p + size, end), p, 0))
            for p, size, end in zip(place, self.box, self.matrix.shape, strict=True)
        ]
        inside = tuple(slice(min(a - p, s), b - p) for (a, b), p, s in zip(spans, place, self.box, strict=True))
        return tuple(slice(*span) for span in spans), inside


# -- shared memory -----------------------------------------------------------------------------------------------------


class Memory:
    """Shared memory, or a view of it. `written` is told of views that are stored to."""

    def __init__(self, array: np.ndarray, written: Callable[[np.ndarray], None]) -> None:
        self.array, self.written = array, written

    def index(self, i: int) -> Memory:
        return self._view(self.array[_inside(i, len(self.array))])

    def slice(self, start: int, length: int, dim: int = 0) -> Memory:
        _inside(start, self.array.shape[dim] - length + 1)
        return self._view(np.moveaxis(np.moveaxis(self.array, dim, 0)[start : start + length], 0, dim))

    def permute(self, order: tuple[int, ...]) -> Memory:
        return self._view(self.array.transpose(order))

    def _view(self, array: np.ndarray) -> Memory:
        return Memory(array, self.written)

    def store(self, value: Tensor) -> None:
        if value.shape != self.array.shape or value.dtype != self.array.dtype:
            raise MisuseError(f"{value.dtype}{value.shape} stored to {self.array.dtype}{self.array.shape}")
        self.array[...] = value
        self.written(self.array)

    def load(self, layout: Any = None) -> Tensor:
        return tensor(self.array.copy())


def _inside(i: int, size: int) -> int:
    if not 0 <= i < size:
        raise MisuseError(f"place {i} of shared memory with {size} places")
    return int(i)


class Barrier:
    """Counts arrivals and bytes; when none are left its phase is over, and it begins anew."""

    def __init__(self) -> None:
        self.count = self.pending = self.bytes = self.over = 0

    def arrived(self, arrivals: int = 0, bytes: int = 0) -> None:
        if not self.count or arrivals > self.pending:
            raise MisuseError(f"{arrivals} arrivals at a barrier where {self.pending} are left, of {self.count}")
        self.pending -= arrivals
        self.bytes += bytes
        if not self.pending and not self.bytes:
            self.over, self.pending = self.over + 1, self.count

    def passes(self, phase: int) -> bool:
        if not self.count:
            raise MisuseError("a barrier that was not initialized")
        return self.over & 1 != phase


class Barriers(list[Barrier]):
    """What is allocated as barriers."""

    def index(self, i: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self[_inside(i, len(self))]


# -- programs ----------------------------------------------------------------------------------------------------------


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
        self.program = self.count = 0
        self.part: Any = None
        self.loads: list[tuple[Descriptor, Sequence[int], Barrier, Memory]] = []

    def launch(self, function: Callable[..., None], tiles: int, args: Sequence[Any], walks: int) -> None:
        self.count = min(self.limit, tiles) if walks and self.limit is not None else tiles
        for program in range(self.count):
            self.program, self.loads, self.part = program, [], None
            with np.errstate(all="ignore"):
                function(*args)

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

    def mma(self, a: Memory, b: Memory, acc: Tensor, *, use_acc: Any = True, is_async: bool = False) -> Tensor:
        if a.array.shape[1] != b.array.shape[0] or acc.shape != (a.array.shape[0], b.array.shape[1]):
            raise MisuseError(f"a product of {a.array.shape} and {b.array.shape} on top of {acc.shape}")
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
            # 16 rows at once: larger products are given to threads of BLAS, which wait for each other by spinning.
            left = a.array.astype(np.float32).reshape(-1, 16, a.array.shape[1])
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
        boxes: tuple[tuple[int, int] | None, ...] = (), columns: tuple[int, ...] = (), walks: int = 1, **_: Any,
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
            machine.launch(function, tiles, [*given, *args[len(pointers) :], *strides], walks if any(boxes) else 0)

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
        cos=np.cos, sqrt_rn=np.sqrt, sqrt=np.sqrt, div_rn=lambda a, b: tensor(a) / b, fma=_fma,
        erf=lambda x: tensor(torch.erf(torch.from_numpy(np.asarray(x).copy())).numpy()),
        minimum=_clamped(np.minimum, np.fmin), maximum=_clamped(np.maximum, np.fmax),
        PropagateNan=SimpleNamespace(ALL=True, NONE=False), max=_reduction(np.max), min=_reduction(np.min),
        sum=_reduction(np.sum), reduce=_reduced, cast=lambda x, dtype: tensor(x).to(dtype),
        arange=lambda a, b, layout=None: tensor(np.arange(a, b, dtype=np.int32)),
        full=lambda shape, value, dtype, layout=None: tensor(np.full(shape, value, dtype)),
        zeros=lambda shape, dtype, layout=None: tensor(np.zeros(shape, dtype)),
        reshape=np.reshape, permute=np.transpose, broadcast_to=lambda x, shape: tensor(np.broadcast_to(x, shape)),
        split=lambda x: (x[..., 0], x[..., 1]), expand_dims=np.expand_dims, convert_layout=lambda x, layout: x,
        broadcast=lambda a, b: tuple(map(tensor, np.broadcast_arrays(a, b))), inline_asm_elementwise=_inline,
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
        columns=_columns, concat=torch.cat,
        full=lambda shape, value, dtype, like: _empty(shape, dtype, like).fill_(value),
    )  # fmt: skip
    return {
        "triton": SimpleNamespace(jit=_jit, language=language),
        "triton.experimental": SimpleNamespace(gluon=SimpleNamespace(jit=_jit)),
        "triton.experimental.gluon": SimpleNamespace(language=language),
        "breccia.targets.triton": SimpleNamespace(launch=rt),
        "breccia.targets.triton.hopper": hopper,
    }
