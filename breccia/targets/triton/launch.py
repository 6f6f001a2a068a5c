"""Emitted source to functions on torch tensors, and what emitted source calls: this module is its `rt`.

A `Kernel` compiles its Triton function once for each combination of what may be part of the code (strides, alignment,
divisible sizes), and from then on hands addresses to the driver's launcher: neither `JITFunction.run` nor anything else
of Triton's Python is on the way of a call. `_arguments_of` is the one place that knows how versions of Triton differ.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.compiler import ASTSource
from triton.runtime import OutOfResources, driver
from triton.runtime._allocation import NullAllocator, _allocator

from breccia.codegen.names import entry_name
from breccia.errors import DTypeError, FormatError, UnsupportedError

Tensor = torch.Tensor

# -- outputs -----------------------------------------------------------------------------------------------------------

f64, f32, f16, bf16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
i32, i64 = torch.int32, torch.int64
i1, ui8 = torch.bool, torch.uint8
"""Dtypes of outputs, by MLIR names; codes of every format of 8 bits or fewer are `ui8`."""


_internals: Any = torch._C
_quick_empty = _internals._dynamo.guards._empty_strided_cuda
"""PyTorch's allocation on the current GPU without its dispatcher, in half of the time; what Inductor emits calls it."""
_several = torch.cuda.device_count() > 1


def empty(shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    """A contiguous tensor on the device of `like`, whose entries are yet to be written.

    >>> empty((2, 3), bf16, torch.zeros(1)).shape
    torch.Size([2, 3])
    """
    if not like.is_cuda or (_several and _internals._cuda_getDevice() != like.get_device()):
        return torch.empty(shape, dtype=dtype, device=like.device)
    return _quick_empty(shape, (shape[1], 1) if len(shape) == 2 else _contiguous(shape), dtype)


def columns(shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    """A matrix on the device of `like` whose rows are neighbours, columns 16 bytes aligned; entries are to be written.

    >>> columns((6, 3), f32, torch.zeros(1)).stride()
    (1, 8)
    """
    strides = 1, -(-shape[0] // 4) * 4
    if not like.is_cuda or (_several and _internals._cuda_getDevice() != like.get_device()):
        return torch.empty_strided(shape, strides, dtype=dtype, device=like.device)
    return _quick_empty(shape, strides, dtype)


def full(shape: tuple[int, ...], value: float, dtype: torch.dtype, like: Tensor) -> Tensor:
    """A contiguous tensor of one value, for programs to combine into, on the device of `like`.

    >>> full((2,), 1.5, f32, torch.zeros(1)).tolist()
    [1.5, 1.5]
    """
    return empty(shape, dtype, like).fill_(value)


def concat(parts: tuple[Tensor, ...], axis: int) -> Tensor:
    """Tensors one after the other along `axis`.

    >>> concat((torch.zeros(1), torch.ones(2)), 0).tolist()
    [0.0, 1.0, 1.0]
    """
    return torch.cat(parts, axis)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a contiguous tensor.

    >>> _contiguous((2, 3, 4)), _contiguous(())
    ((12, 4, 1), ())
    """
    strides = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * shape[axis]
    return tuple(strides)


@triton.jit
def _wait() -> None:
    tl.inline_asm_elementwise(
        "griddepcontrol.wait; mov.b32 $0, 0;", "=r,r", [tl.program_id(0)], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _nothing() -> None:
    pass


wait_for_previous = _nothing if knobs.runtime.interpret else _wait
"""In a kernel with `launch_pdl`, which starts before the kernel before it has ended: wait until it has, and what it
wrote can be read. Nothing may be read or written before."""


# -- kernels -----------------------------------------------------------------------------------------------------------

MOST_STRIDES = 8
"""A kernel that has seen this many different strides gets them as numbers at the call, and is compiled no more."""
LONG_STRIDE = 1 << 17
"""Strides from here on are 64-bit numbers, so that what a kernel multiplies by them is one too."""
MOST_READY = 4096
"""Calls that differ in strides or sizes and are remembered by a kernel, before it forgets them all."""

_POINTERS = {
    "u8": torch.uint8, "i8": torch.int8, "i1": torch.bool, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
    "fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2, "fp8e4b8": torch.float8_e4m3fnuz,
    "fp8e5b16": torch.float8_e5m2fnuz, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32,
    "fp64": torch.float64,
}  # fmt: skip
"""What pointers point to, by Triton's names."""
_DIVISIBLE = [["tt.divisibility", 16]]
_VERSION = ".".join(triton.__version__.split(".")[:2])
_TUPLED = _VERSION in ("3.7", "3.8", "3.9")
"""True where the driver's launcher takes the kernel's arguments as one tuple, with marks of what they are."""


class Kernel:
    """A Triton function that is launched on tensors: `kernel.call(programs, *tensors, *sizes)`.

    fn: decorated by `triton.jit` or `gluon.jit`; its parameters are pointers, sizes, and then the strides of every axis
    of every strided pointer. pointers: what each pointer points to; a tensor of another dtype of that width will do.
    strided: the rank of each pointer's tensor, or 0 where it is contiguous, or -2 where it is from `columns`. target:
    the architecture that the text is made for. boxes: for a kernel in Gluon, what each pointer that is a descriptor
    moves at once, and None for the others. walks: at most as many programs run as there are multiprocessors, times this
    number, and go through the `programs` tiles; 0 for a program for each tile. columns: numbers of pointers whose rows
    should be neighbours, and are copied so that they are. options: of Triton's compiler. `programs` programs run, on
    one axis; none for 0.

    Invariants: `call` compiles for what it has not seen, and is a function without `self`, which is what a call costs
    least through; `compiled` counts what was compiled.
    """

    def __init__(
        self, fn: Any, *, pointers: tuple[str, ...], strided: tuple[int, ...], sizes: int, target: str,
        fp_fusion: bool = False, boxes: tuple[tuple[int, int] | None, ...] = (),
        columns: tuple[int, ...] = (), walks: int = 0, **options: Any,
    ) -> None:  # fmt: skip
        unknown = [p for p in pointers if p not in _POINTERS]
        if unknown or len(strided) != len(pointers):
            raise FormatError(
                f"kernel {fn.__name__}: pointers {pointers} with ranks {strided}; a rank is wanted for each, and "
                f"pointers are of {', '.join(_POINTERS)}"
            )
        strides = sum(rank for rank in strided if rank > 0)
        wanted = len(pointers) + sizes + strides
        if len(fn.arg_names) != wanted:
            raise FormatError(
                f"kernel {fn.__name__} has {len(fn.arg_names)} parameters ({', '.join(fn.arg_names)}); "
                f"{len(pointers)} pointers, {sizes} sizes and {strides} strides make {wanted}"
            )
        interpreted = not hasattr(fn, "cache_key")
        if boxes and knobs.runtime.interpret:
            raise UnsupportedError(
                f"kernel {fn.__name__.lstrip('_')} is in Gluon, which Triton does not interpret: compile for "
                "triton:sm_89, whose kernels compute the same, or run without TRITON_INTERPRET on a Hopper GPU"
            )
        self.strides, self.columns, self.walks = strides, columns, walks
        self.boxes = {i: box for i, box in enumerate(boxes) if box is not None}
        self.fn, self.pointers, self.strided, self.sizes, self.target = fn, pointers, strided, sizes, target
        self.options = {"enable_fp_fusion": fp_fusion, **options}
        self.compiled: dict[tuple[Any, ...], Any] = {}
        self.seen: set[tuple[int, ...]] = set()
        self.ready: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.lock = threading.RLock()
        self.call: Callable[..., None] = self._interpret if interpreted else _quick_call(self)

    def __call__(self, programs: int, *args: Any) -> None:
        """Run `programs` programs on tensors and sizes; `call` is the same, and quicker."""
        self.call(programs, *args)

    def _interpret(self, programs: int, *args: Any) -> None:
        """Run on tensors in the host's memory, by Triton's interpreter."""
        if not programs:
            return
        tensors, sizes = args[: len(self.pointers)], args[len(self.pointers) :]
        self._check(tensors)
        tensors = [t.contiguous() if max(t.stride(), default=0) >= LONG_STRIDE else t for t in tensors]  # as 32 bits
        views = [
            t if t.dtype is (d := _POINTERS[p]) else t.view(d) for t, p in zip(tensors, self.pointers, strict=True)
        ]
        self.fn[(programs,)](*views, *sizes, *self._strides(tensors))

    def _strides(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        return tuple(s for t, rank in zip(tensors, self.strided, strict=True) if rank > 0 for s in t.stride())

    def _check(self, tensors: Sequence[Tensor]) -> None:
        """Raise DTypeError or UnsupportedError for tensors that the kernel would read wrongly."""
        for name, tensor, pointer, rank in zip(self.fn.arg_names, tensors, self.pointers, self.strided, strict=False):
            if tensor.dtype.itemsize != _POINTERS[pointer].itemsize:
                raise DTypeError(
                    f"kernel {self.fn.__name__} reads {name} as {pointer}, of {_POINTERS[pointer].itemsize} bytes; it "
                    f"was given a tensor of {tensor.dtype} and shape {tuple(tensor.shape)}"
                )
            if rank == 0 and tensor.dim() in (2, 3) and self.fn.arg_names.index(name) in self.boxes:
                continue
            if rank == -2 and tensor.stride() == (1, -(-tensor.shape[0] // 4) * 4):
                continue
            if tensor.dim() != rank if rank else not tensor.is_contiguous():
                wanted = f"{rank} axes" if rank else "a contiguous tensor"
                raise DTypeError(
                    f"kernel {self.fn.__name__} wants {wanted} as {name}; it was given a tensor of shape "
                    f"{tuple(tensor.shape)} and strides {tensor.stride()}"
                )
        devices = {tensor.device for tensor in tensors}
        if len(devices) > 1:
            shown = ", ".join(f"{n} on {t.device}" for n, t in zip(self.fn.arg_names, tensors, strict=False))
            raise UnsupportedError(f"kernel {self.fn.__name__} wants all tensors on one device; given: {shown}")

    def prepare(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Any, ...]:
        """What the quick call needs for such tensors and sizes: the launcher and what does not change between calls."""
        self._check(tensors)
        device = _gpu(tensors[0])
        strides = self._strides(tensors)
        with self.lock, _on(device):
            if len(self.seen) < MOST_STRIDES:
                self.seen.add(strides)
            specialized = _Specialized(self, tensors, sizes, strides, constant=strides in self.seen)
            key = (device, *specialized.key)
            kernel = self.compiled.get(key)
            if kernel is None:
                kernel = self.compiled[key] = specialized.compile()
            arguments = _arguments_of(kernel, boxed=bool(self.boxes))
            most = (_multiprocessors(device) * self.walks,) if self.walks else ()
            return (*arguments, _stream_of(), _current_device(), *self._boxed(kernel, tensors), *most, *strides)

    def _boxed(self, kernel: Any, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """(descriptors, whether tensors have to be copied), where the kernel takes descriptors."""
        if not self.boxes:
            return ()
        rough = not all(_descriptors().fits(tensors[i]) for i in self.boxes)
        rough |= any(tensors[i].stride(0) != 1 < tensors[i].shape[0] for i in self.columns)
        maps = _descriptors().Maps(kernel, [(self.pointers[i], box) for i, box in self.boxes.items()])
        return maps, rough

    def aligned(self, call: Callable[..., None], programs: int, *args: Any) -> None:
        """Launch on copies of those tensors that no descriptor can take."""
        given: list[Any] = list(args)
        for i in self.boxes:
            given[i] = _descriptors().aligned(args[i])
        for i in self.columns:
            if args[i].stride(0) != 1 < args[i].shape[0]:
                given[i] = columns(tuple(args[i].shape), args[i].dtype, args[i]).copy_(args[i])
        call(programs, *given)

    def launch_slowly(
        self, entry: tuple[Any, ...], programs: int, tensors: Sequence[Tensor], sizes: Sequence[int]
    ) -> None:
        """Launch with Triton's hooks, on the tensors' device whatever the current one is."""
        device = _gpu(tensors[0])
        _set_allocator()
        values = [
            _descriptors().described(t, self.pointers[i], self.boxes[i]) if i in self.boxes else t.data_ptr()
            for i, t in enumerate(tensors)
        ]
        with _on(device):
            kernel, arguments = entry[0], (*values, *sizes, *entry[len(entry) - self.strides :])
            stream = _stream_of()(device)
            metadata = kernel.launch_metadata((programs, 1, 1), stream, *arguments)
            hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
            kernel.run(programs, 1, 1, stream, kernel.function, kernel.packed_metadata, metadata, *hooks, *arguments)


class _Specialized:
    """What is compiled for one combination of alignments, sizes and strides.

    Invariants: `signature`, `constants` and `attributes` are as Triton's own launcher would choose them, except that
    `constant` strides are part of the code; equal `key` means equal code.
    """

    def __init__(
        self, kernel: Kernel, tensors: Sequence[Tensor], sizes: Sequence[int], strides: Sequence[int], constant: bool
    ) -> None:
        self.kernel = kernel
        self.signature: dict[str, str] = {}
        self.constants: dict[tuple[int], int] = {}
        self.attributes: dict[tuple[int], Any] = {}
        for i, (tensor, pointer) in enumerate(zip(tensors, kernel.pointers, strict=True)):
            if i in kernel.boxes:
                self._add(_descriptors().kind_of(pointer, kernel.boxes[i]), divisible=False)
            else:
                self._add(f"*{pointer}", tensor.data_ptr() % 16 == 0)
        for i, number in enumerate((*sizes, *strides)):
            if i >= len(sizes) and number >= LONG_STRIDE:
                self._add("i64", number % 16 == 0)
            elif number == 1 or (constant and i >= len(sizes)):
                self.constants[(len(self.signature),)] = number
                self._add("constexpr", divisible=False)
            else:
                self._add("i32" if -(2**31) <= number < 2**31 else "i64", number % 16 == 0)
        self.key = (*self.signature.values(), *self.constants.items(), *self.attributes)

    def _add(self, kind: str, divisible: bool) -> None:
        if divisible:
            self.attributes[(len(self.signature),)] = _DIVISIBLE
        self.signature[self.kernel.fn.arg_names[len(self.signature)]] = kind

    def compile(self) -> Any:
        """Compile for the current device, and load onto it."""
        target: Any = driver.active.get_current_target()
        name, arch = self.kernel.fn.__name__, _target_arch(target)
        if arch != self.kernel.target:
            raise UnsupportedError(
                f"kernel {name} was made for triton:{self.kernel.target}, and the tensors lie on a device that is "
                f"{arch}; compile with target='triton:{arch}'"
            )
        kind = _descriptors().GluonASTSource if self.kernel.boxes else ASTSource
        source = kind(self.kernel.fn, self.signature, self.constants, self.attributes)
        options = dict(self.kernel.options)
        while True:
            compiled = triton.compile(source, target=target, options=options)
            try:
                compiled.run  # noqa: B018 - loads the binary  # pyright: ignore[reportUnusedExpression]
            except OutOfResources as error:
                if error.name == "shared memory" and options.get("num_stages", 1) > 1:
                    options["num_stages"] -= 1  # fewer steps in flight: slower, and the same results
                    continue
                unit = " bytes" if error.name == "shared memory" else ""
                raise UnsupportedError(
                    f"kernel {name} needs {error.required}{unit} of {error.name}, and {arch} has {error.limit}; "
                    f"compiled with {options}: use smaller blocks"
                ) from error
            return compiled


def _quick_call(kernel: Kernel) -> Callable[..., None]:
    """`kernel.call`, written out for its number of tensors and sizes: loops would cost more than all the rest.

    Strides and sizes look up, by their values, what launches; so neither they nor the constants are gone through again.
    """
    tensors = [f"t{i}" for i in range(len(kernel.pointers))]
    boxed = {i: number for number, i in enumerate(kernel.boxes)}
    sizes = "".join(f"n{i}, " for i in range(kernel.sizes))
    values = "".join(f"*d[{boxed[i]}], " if i in boxed else f"p{i}, " for i in range(len(tensors))) + sizes
    given = ", ".join([*tensors, *(f"n{i}" for i in range(kernel.sizes))])
    looked = [t for i, (t, rank) in enumerate(zip(tensors, kernel.strided, strict=True)) if rank > 0 or i in boxed]
    strided = "".join(f"{t}.stride(), " for t in looked)
    strides = "".join(f", s{i}" for i in range(kernel.strides))
    if _TUPLED:
        arguments = f"packed, None, None, None, None, None, marks, layout, ({values}{strides.removeprefix(', ')})"
    else:
        arguments = f"None, None, packed, None, None, None, {values}{strides.removeprefix(', ')}"
    rest = (", maps, rough" if boxed else "") + (", most" if kernel.walks else "") + strides
    maps = ""
    if boxed:
        maps += f"""
    if rough:
        return aligned(call, programs, {given})"""
    if kernel.walks:
        maps += """
    if programs > most:
        programs = most"""
    if boxed:
        maps += f"""
    d = maps.known.get(({"".join(f"p{i}, " for i in boxed)}))
    if d is None:
        d = maps.find(({"".join(f"p{i}, " for i in boxed)}), ({"".join(f"t{i}, " for i in boxed)}))"""
    all_tensors = f"({''.join(f'{t}, ' for t in tensors)})"
    text = f"""
def call(programs, {given}):
    if not programs:
        return
    {"; ".join(f"p{i} = {t}.data_ptr()" for i, t in enumerate(tensors))}
    low = ({" | ".join(f"p{i}" for i in range(len(tensors)))}) & 15
    if low:
        low = ({"".join(f"p{i} & 15 == 0, " for i in range(len(tensors)))})
    device = t0.get_device()
    key = (device, low, {sizes}{strided})
    entry = ready.get(key)
    if entry is None:
        entry = remember(key, {all_tensors}, ({sizes}))
    kernel, launch, function, cooperative, dependent, packed, marks, layout, stream, current{rest} = entry{maps}
    if enters or exits or runtime.launch_enter_hook is not enter or runtime.launch_exit_hook is not leave:
        return slowly(entry, programs, {all_tensors}, ({sizes}))
    if current is not None and current() != device:
        return slowly(entry, programs, {all_tensors}, ({sizes}))
    launch(programs, 1, 1, stream(device), function, cooperative, dependent, {arguments})
"""
    ready = kernel.ready

    def remember(key: tuple[Any, ...], tensors: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Any, ...]:
        entry = kernel.prepare(tensors, sizes)
        if len(ready) >= MOST_READY:
            ready.clear()
        ready[key] = entry
        return entry

    # The chains that Triton begins with: a hook that was set, rather than added to them, is told by its identity.
    enter, leave = type(knobs.runtime).launch_enter_hook, type(knobs.runtime).launch_exit_hook
    scope: dict[str, Any] = {
        "ready": ready, "remember": remember, "slowly": kernel.launch_slowly, "aligned": kernel.aligned,
        "runtime": knobs.runtime,
        "enter": enter, "leave": leave, "enters": enter.calls, "exits": leave.calls,
    }  # fmt: skip
    exec(compile(text, f"<call of {kernel.fn.__name__}>", "exec", dont_inherit=True), scope)
    return scope["call"]


def _arguments_of(kernel: Any, *, boxed: bool = False) -> tuple[Any, ...]:
    """(kernel, launch, function, cooperative, dependent, packed, marks, layout) of a loaded CompiledKernel.

    `launch` is the driver's C function where this version of Triton is known to have one and the kernel needs no memory
    besides its tensors; otherwise it takes the same arguments and goes through `kernel.run`.

    The C function takes, after (x, y, z, stream, function, cooperative, dependent):
        3.6         global scratch, profile scratch, packed, metadata, enter, exit, *values
        3.7 to 3.9  packed, metadata, enter, exit, global scratch, profile scratch, marks, layout, values
    where marks say which of the values are constants.
    """
    run, function, packed = kernel.run, kernel.function, kernel.packed_metadata
    if type(run).__name__ == "CudaLauncher" and (_TUPLED or _VERSION == "3.6"):
        if not (run.global_scratch_size or run.profile_scratch_size or getattr(run, "gsan_enabled", False)):
            launcher = _descriptors().bare_launcher(run.launch) if boxed else run.launch
            fixed = kernel, launcher, function, run.launch_cooperative_grid, run.launch_pdl, packed
            return (*fixed, run.arg_annotations, run.kernel_signature) if _TUPLED else (*fixed, None, None)

    def launch(x: int, y: int, z: int, stream: int, *rest: Any) -> None:
        _set_allocator()
        run(x, y, z, stream, function, packed, None, None, None, *(rest[-1] if _TUPLED else rest[9:]))

    return kernel, launch, function, False, False, packed, None, None


def _descriptors() -> Any:
    """What knows of descriptors and Gluon; loaded for kernels that need it."""
    return importlib.import_module("breccia.targets.triton._descriptors")


def _set_allocator() -> None:
    """Give Triton PyTorch's memory, for kernels that need some besides their tensors; each thread has its allocator."""
    if isinstance(_allocator.get(), NullAllocator):
        triton.set_allocator(_allocate)


def _allocate(size: int, alignment: int, stream: int | None) -> Tensor:  # noqa: ARG001 - PyTorch aligns to 512 bytes
    return torch.empty(size, dtype=torch.uint8, device="cuda")


# -- devices -----------------------------------------------------------------------------------------------------------


def device_arch(device: Any) -> str:
    """The architecture of a CUDA or ROCm device, as targets call it: "sm_90", "gfx942".

    Raises UnsupportedError for other devices.
    """
    device = torch.device(device)
    if device.type != "cuda":
        raise UnsupportedError(
            f"target triton is for CUDA and ROCm devices, not for {device}; allowed: cuda, cuda:1, ..."
        )
    return _arch_of(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _arch_of(index: int) -> str:
    if torch.version.hip:
        return torch.cuda.get_device_properties(index).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


def _target_arch(target: Any) -> str:
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch).split(":")[0]


def _gpu(tensor: Tensor) -> int:
    """The index of the GPU that `tensor` lies on; raises UnsupportedError where that is none."""
    if tensor.device.type != "cuda":
        raise UnsupportedError(
            f"target triton runs on CUDA and ROCm devices, and was given a tensor on {tensor.device} of shape "
            f"{tuple(tensor.shape)}; move it with .to('cuda'), or compile with target='numpy' (TRITON_INTERPRET=1 in "
            "the environment runs kernels on the host, slowly)"
        )
    return tensor.get_device()


@cache
def _multiprocessors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _on(device: int) -> Any:
    """A context in which `device` is the current one."""
    return torch.cuda.device(device)


def _stream_of() -> Callable[[int], int]:
    """The function from a device to its current stream."""
    return _internals._cuda_getCurrentRawStream


def _current_device() -> Callable[[], int] | None:
    """The function that gives the current device; None where there is only one."""
    return _internals._cuda_getDevice if _several else None


# -- modules -----------------------------------------------------------------------------------------------------------

_LOADING = threading.RLock()


def launch(source: str, entry: str, library: str = "torch") -> Callable[..., Any]:
    """The function that `source` defines for the IR function `entry`, on tensors; raises FormatError if there is none.

    The same source is loaded once in a process. It lies in a file, since Triton reads functions back from theirs.
    """
    if library != "torch":
        raise UnsupportedError(f"target triton runs on arrays of torch, not of {library}; convert them first")
    module = _module(source)
    function = getattr(module, entry_name(entry), None)
    if function is None:
        defined = [n for n, v in vars(module).items() if callable(v) and not isinstance(v, Kernel) and n[0] != "_"]
        raise FormatError(f"emitted source defines no function {entry_name(entry)!r}; it defines {', '.join(defined)}")
    return function


def _module(source: str) -> ModuleType:
    """The module of `source`; another one where Triton's interpreter is on."""
    digest = hashlib.sha256(source.encode()).hexdigest()
    name = f"breccia_triton_{digest[:32]}{'_interpreted' if knobs.runtime.interpret else ''}"
    with _LOADING:
        module = sys.modules.get(name)
        if module is not None:
            return module
        file = _file(f"triton-{digest}.py", source.encode())
        module = ModuleType(name, "Emitted by breccia.")
        module.__file__ = str(file)
        sys.modules[name] = module  # where `inspect` looks for the module of a function
        try:
            exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def _file(name: str, text: bytes) -> Path:
    """A file that holds `text`: in the cache folder, or in a temporary one where there is none that can be written."""
    # Named at run time, since it is the frontend's: all compiled code lies in one folder, which is checked there.
    home = importlib.import_module("breccia.frontend.cache").checked_folder()
    if home is not None:
        with suppress(OSError):
            return _written(home / name, text)
    return _written(_temporary() / name, text)


def _written(file: Path, text: bytes) -> Path:
    with suppress(FileNotFoundError):
        if file.read_bytes() == text:
            return file
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return file


@lru_cache(maxsize=1)
def _temporary() -> Path:
    """A folder of this process, which goes when it ends."""
    folder = tempfile.mkdtemp(prefix="breccia-triton-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
