"""`save_safetensors` and `load_safetensors`: everything comes back, in every library; 0.1's files load."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import breccia
from breccia import formats, recipes, scaling
from breccia.bridges import load_safetensors, save_safetensors
from breccia.bridges._common import integer, recipe_of
from breccia.bridges.safetensors_file import SafetensorsFile, write_file
from breccia.errors import BrecciaError, FormatError
from breccia.layouts import PerBlockMN
from breccia.tensor import ScaledTensor, cast_array

DATA = Path(__file__).parent / "data"
X = np.random.default_rng(0).standard_normal((6, 200)).astype(np.float32)
OLD = [
    scaling.DelayedScaling(margin=1), scaling.Float8CurrentScaling("E5M2"), scaling.Float8BlockScaling(block_k=64),
    scaling.MXFP8BlockScaling(), scaling.NVFP4BlockScaling(), scaling.INT4Scaling(symmetric=False),
]  # fmt: skip


def saved(tmp_path: Path, tensors: dict[str, object], **more: object) -> Path:
    path = tmp_path / "a.safetensors"
    save_safetensors(tensors, path, **more)
    return path


def same(a: ScaledTensor, b: ScaledTensor) -> None:
    assert a == b
    assert (a.recipe, a.recipe.name, type(a.recipe)) == (b.recipe, b.recipe.name, type(b.recipe))
    assert (a.layout, a.shape, a.dtype, a.library) == (b.layout, b.shape, b.dtype, b.library)


# --- what comes back ---


@pytest.mark.parametrize("name", recipes.all_recipes())
def test_every_recipe_comes_back(name, tmp_path):
    tensors = {
        "w": cast_array(X, recipes.find(name), dtype="bfloat16"),
        "odd.last": cast_array(X[:, :37], recipes.find(name), axis=0),
        "experts": cast_array(X.reshape(3, 2, 200), recipes.find(name)),
    }
    found = load_safetensors(saved(tmp_path, tensors))
    assert list(found) == list(tensors)
    for key, st in tensors.items():
        same(found[key], st)


@pytest.mark.parametrize("recipe", OLD, ids=repr)
def test_recipes_of_0_1_come_back_as_they_were(recipe, tmp_path):
    st = cast_array(X, recipe)
    same(load_safetensors(saved(tmp_path, {"w": st, "t": st.T}))["w"], st)
    assert load_safetensors(saved(tmp_path, {"w": st, "t": st.T}))["t"] == st.T


def test_formats_without_a_name_come_back(tmp_path):
    recipe = recipe_of(
        integer(3, signed=False), (formats.float16, (1, 256)), (integer(6, signed=False), (1, 32)),
        zero_point=integer(3, signed=False), offset=formats.float32,
    )  # fmt: skip
    grid = np.ones((2, 8))
    st = ScaledTensor(
        np.arange(512, dtype=np.uint8).reshape(2, 256) % 8, recipe=recipe, zero_point=grid.astype(np.uint8),
        offset=grid.astype(np.float32), scales=(np.full((2, 1), 0.5, np.float16), grid.astype(np.uint8) * 63),
    )  # fmt: skip
    same(load_safetensors(saved(tmp_path, {"w": st}))["w"], st)


def test_the_layout_comes_back(tmp_path):
    plain = cast_array(X, recipes.float8_1x128)
    st = ScaledTensor(plain.data, plain.scale, plain.recipe, PerBlockMN(1, 128))
    assert load_safetensors(saved(tmp_path, {"w": st}))["w"].layout == PerBlockMN(1, 128)


def test_policies_come_back(tmp_path):
    recipe = recipes.mxfp4.with_policy(scale="even", rounding="ties_away", scale_min=0.5)
    assert load_safetensors(saved(tmp_path, {"w": cast_array(X, recipe)}))["w"].recipe == recipe


@pytest.mark.parametrize("library", ["torch", "jax", "mlx"])
def test_libraries_come_back(library, tmp_path):
    pytest.importorskip("mlx.core" if library == "mlx" else library)
    tensors = {r: cast_array(X, recipes.find(r)).to(library) for r in ("nvfp4", "int8_row", "uint4_g32_bf16")}
    path = saved(tmp_path, tensors)
    for key, st in load_safetensors(path).items():
        same(st, tensors[key])
    for key, st in load_safetensors(path, library="numpy").items():
        same(st, tensors[key].to("numpy"))


def test_a_library_that_is_not_installed_is_numpy(tmp_path, monkeypatch):
    path = saved(tmp_path, {"w": cast_array(X, recipes.mxfp4), "b": X})
    text = path.read_bytes().replace(b'\\"library\\": \\"numpy\\"', b'\\"library\\": \\"jax\\"  ')
    path.write_bytes(text.replace(b'\\"b\\": \\"numpy\\"', b'\\"b\\": \\"jax\\"  '))

    def missing(name):
        if name == "jax":
            raise breccia.UnsupportedError("jax is not installed")
        return original(name)

    original = breccia.bridges.safetensors.primitives_of
    monkeypatch.setattr("breccia.bridges.safetensors.primitives_of", missing)
    found = load_safetensors(path)
    assert found["w"].library == "numpy"
    assert isinstance(found["b"], np.ndarray)
    with pytest.raises(breccia.UnsupportedError, match="not installed"):
        load_safetensors(path, library="jax")


def test_data_are_packed(tmp_path):
    path = saved(tmp_path, {"w": cast_array(np.ones((64, 4096), np.float32), recipes.nvfp4)})
    assert path.stat().st_size < 64 * 4096 * 4.5 / 8 + 2000


def test_plain_arrays_and_metadata_come_back(tmp_path):
    path = saved(
        tmp_path,
        {"w": cast_array(X, recipes.mxfp4), "bias": X[0].astype(ml_dtypes.bfloat16), "n": np.int64(3)},
        extra_metadata={"who": "me"},
    )
    found = load_safetensors(path)
    assert found["bias"].tobytes() == X[0].astype(ml_dtypes.bfloat16).tobytes()
    assert (found["n"].shape, int(found["n"])) == ((), 3)
    with SafetensorsFile(path) as file:
        assert file.metadata["who"] == "me"


def test_some_of_the_tensors(tmp_path, monkeypatch):
    path = saved(tmp_path, {"a": cast_array(X, recipes.mxfp4), "b": cast_array(X, recipes.nvfp4), "c": X})
    read, seen = SafetensorsFile.read, []
    monkeypatch.setattr(SafetensorsFile, "read", lambda self, name: seen.append(name) or read(self, name))
    assert list(load_safetensors(path, names=["b"])) == ["b"]
    assert set(seen) == {"b.data", "b.scale", "b.scale.0"}
    with pytest.raises(FormatError, match=r"has no tensor 'd'; it has: a, b, c"):
        load_safetensors(path, names=["d"])


def test_a_tensor_of_no_values(tmp_path):
    st = cast_array(np.zeros((0, 64), np.float32), recipes.mxfp4)
    same(load_safetensors(saved(tmp_path, {"w": st}))["w"], st)


def test_names_that_clash_and_names_that_are_taken(tmp_path):
    st = cast_array(X, recipes.mxfp4)
    with pytest.raises(FormatError, match=r"'w\.data'.*rename"):
        saved(tmp_path, {"w": st, "w.data": X})
    with pytest.raises(FormatError, match="is breccia's own"):
        saved(tmp_path, {"w": st}, extra_metadata={"breccia": "x"})
    with pytest.raises(FormatError, match="names of tensors are text"):
        saved(tmp_path, {3: st})


def test_a_file_of_another_writer_holds_nothing(tmp_path):
    write_file(tmp_path / "a", {"w": X, "m.data": X, "m.scale": X}, {"format": "pt", "m.config": '{"a": 1}'})
    assert load_safetensors(tmp_path / "a") == {}


# --- files of 0.1 (written by breccia 0.1.3 from PyPI; the values are what it decoded) ---


def test_files_of_0_1_decode_to_the_same_bits():
    found = load_safetensors(DATA / "0.1.3.safetensors", library="numpy")
    with SafetensorsFile(DATA / "0.1.3-values.safetensors") as values:
        assert set(found) == set(values)
        for name, st in found.items():
            assert st.numpy().tobytes() == values.read(name).tobytes(), name
            kind = name.partition(".")[2]
            assert type(st.recipe).name == {"int4_bf16": "int4", "uint4": "int4"}.get(kind, kind)
            assert st.layout == st.recipe.layout


def test_files_of_0_1_load_as_torch_tensors():
    pytest.importorskip("torch")
    assert {st.library for st in load_safetensors(DATA / "0.1.3.safetensors").values()} == {"torch"}


def old_file(tmp_path: Path, config: object, **arrays: np.ndarray) -> Path:
    tensors = {f"w.{name}": x for name, x in arrays.items()}
    text = config if isinstance(config, str) else json.dumps(config)
    write_file(tmp_path / "old", tensors, {"w.config": text})
    return tmp_path / "old"


INT4 = {
    "recipe": {"name": "int4", "fields": {"group_size": 4, "signed": False, "scale_dtype": "fp16", "symmetric": False}},
    "layout": {"name": "per_block_k", "fields": {"block_size": 4}},
}
CODES, HALVES = np.arange(8, dtype=np.uint8).reshape(2, 4), np.ones((2, 1), np.float16)
BOTH = {"data": CODES, "scale": HALVES}


@pytest.mark.parametrize(
    ("config", "arrays", "text"),
    [
        ("{", BOTH, r"'w\.config' of tensor 'w'.*no JSON"),
        (INT4, {"data": CODES}, r"'w' is incomplete: there is no tensor 'w\.scale'"),
        (INT4, {"scale": HALVES}, r"'w' is incomplete: there is no tensor 'w\.data'"),
        (INT4, BOTH, r"'w' is incomplete: there is no tensor 'w\.zero_point'"),
        (INT4 | {"recipe": {"name": "mxfp6", "fields": {}}}, BOTH, "unknown recipe 'mxfp6'"),
        (INT4 | {"recipe": {"name": "int4", "fields": {"x": 1}}}, BOTH, "unexpected keyword"),
        (INT4 | {"recipe": "int4"}, BOTH, "a recipe must be an object"),
        (INT4, {"data": CODES, "scale": HALVES.T, "zero_point": HALVES.T}, "does not fit together: scale of a"),
        (INT4, {"data": CODES + 9, "scale": HALVES, "zero_point": HALVES}, "bits above the 4 of uint4"),
        (INT4, {"data": CODES, "scale": HALVES, "zero_point": HALVES / 2}, "zero_point"),
    ],
)  # fmt: skip
def test_damaged_files_of_0_1_name_the_tensor(config, arrays, text, tmp_path):
    with pytest.raises(FormatError, match=text):
        load_safetensors(old_file(tmp_path, config, **arrays))


# --- damaged and hostile metadata ---


def said_by(path: Path) -> dict[str, object]:
    with SafetensorsFile(path) as file:
        return json.loads(file.metadata["breccia"])


def rewritten(path: Path, said: object) -> Path:
    with SafetensorsFile(path) as file:
        arrays = {name: file.read(name) for name in file}
    write_file(path, arrays, {"breccia": said if isinstance(said, str) else json.dumps(said)})
    return path


CHANGES = {
    "newer": (lambda s: s | {"version": 2}, "version 2, written by 'breccia .*install a newer one"),
    "other schema": (lambda s: s | {"schema": "x"}, "is of the schema 'x'"),
    "version of text": (lambda s: s | {"version": "1"}, "version '1'"),
    "a list": (lambda s: [s], "must be a JSON object"),
    "no tensors": (lambda s: s | {"tensors": 3}, "must have recipes"),
    "no such recipe": (lambda s: s["tensors"]["w"].update(recipe=9), "tensor 'w': there is no recipe 9"),
    "recipe of bool": (lambda s: s["tensors"]["w"].update(recipe=True), "tensor 'w': there is no recipe True"),
    "unknown format": (lambda s: s["recipes"][0].update(element="float3"), "recipe 0: unknown format 'float3'"),
    "unknown field": (lambda s: s["recipes"][0].update(new=1), "recipe 0: a recipe has the unknown new"),
    "bad block": (lambda s: s["recipes"][0]["levels"][1].update(block=[0]), "0 is not a block size"),
    "no levels": (lambda s: s["recipes"][0].update(levels=[]), "needs at least one Level"),
    "bad policy": (lambda s: s["recipes"][0].update(policy={"rounding": "up"}), "Policy.rounding is 'up'"),
    "policy of lists": (lambda s: s["recipes"][0].update(policy={"history_rule": []}), "history_rule"),
    "policy of text": (lambda s: s["recipes"][0].update(policy={"max": "x"}), "a policy cannot be"),
    "format of junk": (lambda s: s["recipes"][0].update(element={"name": "x", "mlir": "x", "kind": "int", "bits": []}),
                       "bits of a format must be of type int"),
    "format too wide": (lambda s: s["recipes"][0].update(element={"name": "x", "mlir": "x", "kind": "float",
                        "bits": 64, "exponent_bits": 60, "mantissa_bits": 3}), "at most 16 bits"),
    "fewer scales": (lambda s: s["tensors"]["w"].update(scales=["w.scale"]), "tensor 'w'.*2 levels"),
    "scale is missing": (lambda s: s["tensors"]["w"].update(scales=["w.scale.0", "x"]), "'w' is incomplete.*'x'"),
    "scale of another": (lambda s: s["tensors"]["w"].update(scales=["w.scale.0", "w.data"]), "'w' does not fit"),
    "zero point": (lambda s: s["tensors"]["w"].update(zero_point="w.scale"), "has no zero_point"),
    "other shape": (lambda s: s["tensors"]["w"].update(shape=[6, 300]), "'w' does not fit together"),
    "negative shape": (lambda s: s["tensors"]["w"].update(shape=[-6, 200]), "must be a list of integers"),
    "unknown dtype": (lambda s: s["tensors"]["w"].update(dtype="int3"), "'int3' cannot be the dtype"),
    "unknown library": (lambda s: s["tensors"]["w"].update(library="os"), "the library 'os'"),
    "layout of another": (lambda s: s["tensors"]["w"].update(layout={"name": "per_tensor", "fields": {}}), "does not"),
    "layout of junk": (lambda s: s["tensors"]["w"].update(layout={"name": "per_block", "fields": {"sizes": [[]]}}),
                       "not a block size"),
    "plain that is not there": (lambda s: s.update(plain={"x": "numpy"}), "lists the plain tensor 'x'"),
    "plain of another": (lambda s: s.update(plain={"w.data": "os"}), "lists the plain tensor 'w.data'"),
    "class of another": (lambda s: s["recipes"][0].update({"class": {"name": "mxfp8", "parameters": {}}}),
                         "does not decode as the recipe"),
    "unknown class": (lambda s: s["recipes"][0].update({"class": {"name": "x", "parameters": {}}}), "unknown recipe"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_metadata_that_do_not_fit_are_refused(name, tmp_path):
    change, text = CHANGES[name]
    path = saved(tmp_path, {"w": cast_array(X, recipes.nvfp4)})
    said = said_by(path)
    with pytest.raises(FormatError, match=text) as caught:
        load_safetensors(rewritten(path, change(said) or said))
    assert str(path) in str(caught.value)


def every_place(value: object, path: tuple[object, ...] = ()):
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from every_place(part, (*path, key))


@pytest.mark.parametrize("junk", [None, True, -1, 2**70, 1.5, "x", [], [[]], {}, {"a": []}], ids=repr)
def test_junk_anywhere_is_an_error_that_we_raise(junk, tmp_path):
    """Each value of the metadata in turn: the file loads, or the error is breccia's."""
    recipe = recipe_of(integer(3, signed=False), (formats.float32, (1, 8)), zero_point=integer(3, signed=False))
    tensors = {"w": cast_array(X, recipe.with_policy(max=6.5)), "o": cast_array(X, OLD[2]), "b": X}
    path = saved(tmp_path, tensors)
    said = said_by(path)
    for place in list(every_place(said))[1:]:
        copy = json.loads(json.dumps(said))
        target = copy
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = junk
        try:
            load_safetensors(rewritten(path, copy), library="numpy")
        except BrecciaError:
            continue


# --- the published schema ---


def test_what_is_written_is_as_the_published_schema_says(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(breccia.__file__).parent / "bridges/schemas/safetensors-1.json").read_text())
    recipe = recipe_of(integer(3, signed=False), (formats.float32, (1, 8)), offset=formats.float16)
    tensors = {name: cast_array(X, recipe) for name, recipe in recipes.all_recipes().items()}
    tensors |= {repr(recipe): cast_array(X, recipe) for recipe in [*OLD, recipe]} | {"plain": X}
    said = said_by(saved(tmp_path, tensors))
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    assert [error.message for error in check.iter_errors(said)] == []
    del said["tensors"]["nvfp4"]["layout"]
    said["recipes"][0]["levels"][0]["block"] = [0]
    assert len(list(check.iter_errors(said))) == 2
