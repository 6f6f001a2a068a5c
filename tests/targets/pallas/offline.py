"""Emitted kernels compiled for TPUs that are not there, by libtpu, down to bundles of instructions.

A process of its own for each generation, so that what it prints, and a compiler that hangs, stay out of the tests:

    python -m tests.targets.pallas.offline v6e < jobs.json

reads a list of jobs and writes one line of JSON for each as soon as it is compiled.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import ModuleOp

from breccia.codegen.lines import tensor_type
from breccia.ir import dims
from breccia.ir.interpreter import public_function

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "v7": "tpu7x:2x2x1"}
SECONDS = 150
"""How long one process may take."""
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i1": "bool", "i32": "int32", "i64": "int32"}


def available() -> bool:
    return find_spec("jax") is not None and find_spec("libtpu") is not None


@dataclass(frozen=True)
class Job:
    """Source text, the function in it to compile, and the shapes and dtypes of its arguments."""

    name: str
    source: str
    entry: str
    arguments: tuple[tuple[tuple[int, ...], str], ...]


@dataclass(frozen=True)
class Compiled:
    """What became of a job: why it failed, else the bundles of its largest kernel and its matrix instructions."""

    name: str
    error: str
    bundles: int = 0
    instructions: tuple[str, ...] = ()


def job(name: str, lowered: ModuleOp, source: str, sizes: dict[str, int]) -> Job:
    """The job of a lowered module, whose source is given."""
    func = public_function(lowered)
    types = [tensor_type(a.type) for a in func.args]
    arguments = tuple(
        (tuple(dims.evaluate(d, sizes) for d in t.shape), _DTYPES.get(str(t.dtype), "uint8")) for t in types
    )
    return Job(name, source, func.sym_name.data, arguments)


def compile_all(jobs: list[Job], arch: str) -> dict[str, Compiled]:
    """Every job compiled for a generation; those that a process did not get to in time have an error."""
    given = json.dumps([asdict(j) for j in jobs])
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_DUMP": folder,
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no lock: there is no device that two processes could want
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true",
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.targets.pallas.offline", arch]
        try:
            done = subprocess.run(
                command, input=given, env=environment, timeout=SECONDS, capture_output=True, text=True, check=False
            )
            out, why = done.stdout, f"the process ended with {done.returncode}: {done.stderr[-500:]}"
        except subprocess.TimeoutExpired as error:
            raw = error.stdout or b""
            out = raw.decode() if isinstance(raw, bytes) else raw
            why = f"not compiled within {SECONDS} s"
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    found = {r["name"]: Compiled(r["name"], r["error"], r["bundles"], tuple(r["instructions"])) for r in lines}
    return {j.name: found.get(j.name, Compiled(j.name, why)) for j in jobs}


# -- the process -------------------------------------------------------------------------------------------------------


def _target(arch: str) -> Any:
    import jax
    from jax.experimental import topologies

    device = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[arch]).devices[0]
    kind = jax.sharding.AbstractDevice(
        device_kind=device.device_kind, num_cores=getattr(device, "num_cores", 1), platform="tpu"
    )
    return device, jax.sharding.AbstractMesh((), (), abstract_device=kind)


def _compile(job: dict[str, Any], device: Any, mesh: Any) -> None:
    import jax

    from breccia.targets.pallas import launch

    where = jax.sharding.SingleDeviceSharding(device)
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=where) for shape, dtype in job["arguments"]]
    function = getattr(launch._module(job["source"]), job["entry"])
    with launch.interpreting(False), jax.sharding.use_abstract_mesh(mesh):
        jax.jit(function).lower(*arguments).compile()


def _dumped(folder: Path) -> tuple[int, list[str]]:
    """(bundles of the largest kernel, matrix instructions) of what was compiled since the last look."""
    bundles, instructions = 0, set[str]()
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        if file.name.endswith("final_bundles.txt"):
            text = file.read_text(errors="replace")
            bundles = max(bundles, len(re.findall(r"^\s*0x[0-9a-f]+", text, re.MULTILINE)))
            found = re.findall(r"vmatmul\.(?:mubr\.)?(?:msk\.)?(\w+(?:\.bf16)?)", text)
            instructions |= {i for i in found if i not in ("vlgmr", "gmra")}
        file.unlink()
    return bundles, sorted(instructions)


def main(arch: str) -> None:
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # what is found there is not dumped
    folder = Path(os.environ["TPU_DUMP"])
    device, mesh = _target(arch)
    for entry in json.load(sys.stdin):
        error, bundles, instructions = "", 0, list[str]()
        try:
            _compile(entry, device, mesh)
            bundles, instructions = _dumped(folder)
        except Exception as failure:  # noqa: BLE001 - whatever a compiler raises is what is asked for
            error = re.sub(r"\s+", " ", f"{type(failure).__name__}: {failure}")[:800]
        result = {"name": entry["name"], "error": error, "bundles": bundles, "instructions": instructions}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
