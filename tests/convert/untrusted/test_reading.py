"""Files that are damaged or hostile: refused with what is wrong, without reading outside of their folder."""

from __future__ import annotations

import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from genai.convert import convert
from genai.convert.untrusted.reading import find_onnx, read_onnx
from genai.errors import GenAIError, ModelError, ModelNotFoundError, UnsupportedModelError, WeightsError
from tests.build import tiny

DATA = Path(__file__).parents[1] / "data" / "optimum"
FLOAT = onnx.TensorProto.FLOAT
Change = Callable[[onnx.ModelProto], None]


def model_of(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def external(name: str = "w", **entries: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=FLOAT, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in ({"location": "w.bin", "offset": "0", "length": "16"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    return tensor


ADD = helper.make_node("Add", ["x", "w"], ["y"])
WEIGHT = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")


def refused(model: onnx.ModelProto, folder: Path, kind: type[GenAIError], match: str) -> None:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(kind, match=match):
        read_onnx(path)


@pytest.mark.parametrize(
    ("node", "match"),
    [
        (helper.make_node("MatMul", ["x"], ["y"], name="short"), r"'short' \(MatMul\) has 1 inputs and 1 outputs"),
        (helper.make_node("MatMul", ["x", ""], ["y"]), r"'a node' \(MatMul\) leaves out an input that it needs"),
        (helper.make_node("Softmax", ["x"], ["y"], axis=0.5), "an attribute axis of another kind than INT"),
        (
            helper.make_node("If", ["x"], ["y"], then_branch=1, else_branch=1),
            "(then|else)_branch of another kind than GRAPH",
        ),
    ],
)
def test_nodes_that_are_not_their_operators(tmp_path: Path, node: onnx.NodeProto, match: str) -> None:
    refused(model_of([node]), tmp_path, ModelError, match)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.raw_data)
    (tmp_path / "model.onnx").write_bytes(model_of([ADD], [external()]).SerializeToString())
    model = read_onnx(tmp_path / "model.onnx")
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"location": "../secret"}, "must be in the model's folder"),
        ({"location": "a/../../secret"}, "must be in the model's folder"),
        ({"location": "/etc/passwd"}, "must be in the model's folder"),
        ({"location": "C:\\secret"}, "must be in the model's folder"),
        ({"location": "..\\secret"}, "must be in the model's folder"),
        ({"location": ""}, "must be in the model's folder"),
        ({"location": "link"}, "leads out"),
        ({"location": "nowhere"}, "not there"),
        ({"location": "."}, "not there"),
        ({"offset": "8"}, "16 bytes by its shape"),
        ({"offset": "-8"}, "16 bytes by its shape"),
        ({"length": "8"}, "16 bytes by its shape"),
        ({"length": "99999999999999"}, "16 bytes by its shape"),
        ({"offset": "one"}, "no number"),
    ],
)
def test_weights_elsewhere(tmp_path: Path, entries: dict[str, str], match: str) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 64)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(WEIGHT.raw_data)
    (folder / "link").symlink_to(tmp_path / "secret")
    refused(model_of([ADD], [external(**entries)]), folder, WeightsError, match)


def function_with(*nodes: onnx.NodeProto, **defaults: onnx.TensorProto) -> onnx.ModelProto:
    model = model_of([helper.make_node("F", ["x"], ["y"], domain="own")])
    model.opset_import.append(helper.make_opsetid("own", 1))
    opsets = [helper.make_opsetid("", 18)]
    kept = [helper.make_attribute(name, tensor) for name, tensor in defaults.items()]
    body = helper.make_function("own", "F", ["a"], ["b"], list(nodes), opsets, attribute_protos=kept)
    model.functions.append(body)
    return model


ABSOLUTE = external(location="/etc/passwd", length="16")
RELU = helper.make_node("Relu", ["a"], ["b"])


@pytest.mark.parametrize(
    "model",
    [
        function_with(
            helper.make_node("Constant", [], ["c"], value=ABSOLUTE), helper.make_node("Add", ["a", "c"], ["b"])
        ),
        function_with(helper.make_node("Own", ["a"], ["b"], values=[ABSOLUTE])),
        function_with(RELU, weight=ABSOLUTE),
    ],
    ids=["constant", "list", "default"],
)
def test_functions_name_no_files_elsewhere(tmp_path: Path, model: onnx.ModelProto) -> None:
    refused(model, tmp_path, WeightsError, "must be in the model's folder")


def test_functions_are_looked_at_as_graphs_are(tmp_path: Path) -> None:
    refused(function_with(helper.make_node("Add", ["a", "w"], ["b"])), tmp_path, ModelError, "'w', which nothing makes")
    big = helper.make_node("Constant", [], ["big"], value=numpy_helper.from_array(np.array([2**40], np.int64)))
    filled = helper.make_node("ConstantOfShape", ["big"], ["b"])
    refused(function_with(big, filled), tmp_path, UnsupportedModelError, "elements")
    dense = onnx.SparseTensorProto(values=ABSOLUTE)
    sparse = helper.make_node("Constant", [], ["b"], sparse_value=dense)
    refused(function_with(sparse), tmp_path, UnsupportedModelError, "sparse")


def hub_snapshot(place: Path, model: onnx.ModelProto, **weights: bytes) -> Path:
    """A snapshot as the Hub's cache lays it out: links to blobs, external data included."""
    blobs, folder = place / "models--org--m" / "blobs", place / "models--org--m" / "snapshots" / "abc" / "onnx"
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    for name, data in {"model.onnx": model.SerializeToString(), **weights}.items():
        (blobs / f"blob-of-{name}").write_bytes(data)
        (folder / name).symlink_to(Path("../../../blobs") / f"blob-of-{name}")
    return folder / "model.onnx"


def test_links_within_an_entry_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    path = hub_snapshot(tmp_path, model_of([ADD], [external()]), **{"w.bin": WEIGHT.raw_data})
    tensor = read_onnx(path).graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy().tolist() == [0, 1, 2, 3]


def test_links_out_of_an_entry_of_the_hubs_cache_are_not(tmp_path: Path) -> None:
    path = hub_snapshot(tmp_path, model_of([ADD], [external(location="link")]))
    entry = tmp_path / "models--org--m"
    for secret in (tmp_path / "secret", entry / "secret", tmp_path / "models--org--other" / "blobs" / "secret"):
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_bytes(b"s" * 16)
        (path.parent / "link").unlink(missing_ok=True)
        (path.parent / "link").symlink_to(secret)
        with pytest.raises(WeightsError, match="leads out"):
            read_onnx(path)
    (entry / "blobs" / "onward").symlink_to(tmp_path / "secret")
    (path.parent / "link").unlink()
    (path.parent / "link").symlink_to(entry / "blobs" / "onward")
    with pytest.raises(WeightsError, match="leads out"):
        read_onnx(path)


def test_a_model_in_the_hubs_cache_is_converted(tmp_path: Path) -> None:
    onnx.save(
        onnx.load(DATA / "llama" / "model.onnx"), tmp_path / "model.onnx", save_as_external_data=True, location="w"
    )
    path = hub_snapshot(
        tmp_path, onnx.load(tmp_path / "model.onnx", load_external_data=False), w=(tmp_path / "w").read_bytes()
    )
    tiny.write_tokenizer(path.parents[1])
    shutil.copy(DATA / "llama" / "config.json", path.parents[1])
    convert(path.parents[1], tmp_path / "package")
    assert (tmp_path / "package" / "model.onnx").is_file()


def test_weights_that_do_not_fit_their_shape(tmp_path: Path) -> None:
    short = onnx.TensorProto(name="w", data_type=FLOAT, dims=[1_000_000_000], raw_data=b"\0" * 16)
    refused(model_of([ADD], [short]), tmp_path, WeightsError, "its shape asks for 4,000,000,000")
    empty = onnx.TensorProto(name="w", data_type=FLOAT, dims=[1_000_000_000])
    refused(model_of([ADD], [empty]), tmp_path, WeightsError, "not that many values")
    negative = onnx.TensorProto(name="w", data_type=FLOAT, dims=[-4])
    refused(model_of([ADD], [negative]), tmp_path, WeightsError, "shape")
    unknown = onnx.TensorProto(name="w", data_type=99, dims=[4], raw_data=b"\0" * 16)
    refused(model_of([ADD], [unknown]), tmp_path, WeightsError, "unknown type")


def test_graphs_that_are_none(tmp_path: Path) -> None:
    cycle = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Add", ["a", "x"], ["b"])]
    cycle.append(helper.make_node("Identity", ["b"], ["y"]))
    refused(model_of(cycle), tmp_path, ModelError, "damaged|cycle")
    refused(model_of([ADD]), tmp_path, ModelError, "'w', which nothing makes")
    refused(model_of([ADD, ADD], [WEIGHT]), tmp_path, ModelError, "made twice")
    refused(model_of([helper.make_node("Relu", ["x"], ["z"])]), tmp_path, ModelError, "'y' is made by nothing")
    refused(onnx.ModelProto(), tmp_path, ModelError, "no graph")
    (tmp_path / "model.onnx").write_bytes(b"GGUF" + os.urandom(64))
    with pytest.raises(ModelError, match="no ONNX file"):
        read_onnx(tmp_path / "model.onnx")


def test_functions_that_call_themselves(tmp_path: Path) -> None:
    def function(name: str, calls: str) -> onnx.FunctionProto:
        node = helper.make_node(calls, ["a"], ["b"], domain="own")
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        return helper.make_function("own", name, ["a"], ["b"], [node], opsets)

    model = model_of([helper.make_node("F", ["x"], ["y"], domain="own")])
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.extend([function("F", "G"), function("G", "F")])
    refused(model, tmp_path, ModelError, "calls itself")


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("ConstantOfShape", ["big"], ["y"])],
        [helper.make_node("Expand", ["x", "big"], ["y"])],
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array([2**40, 2**20]))),
            helper.make_node("Tile", ["x", "c"], ["y"]),
        ],
    ],
    ids=["ConstantOfShape", "Expand", "Tile"],
)
def test_sizes_that_nobody_means(tmp_path: Path, nodes: list[onnx.NodeProto]) -> None:
    big = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "big")
    refused(model_of(nodes, [big]), tmp_path, UnsupportedModelError, "elements")


def test_declared_sizes_that_nobody_means(tmp_path: Path) -> None:
    model = model_of([ADD], [WEIGHT])
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, [10**9, 10**9]))
    refused(model, tmp_path, UnsupportedModelError, "elements")


def test_which_file_is_meant(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such"):
        find_onnx(tmp_path / "nothing")
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).touch()
    with pytest.raises(ModelNotFoundError, match=r"a\.onnx, b\.onnx"):
        find_onnx(tmp_path)
    assert find_onnx(tmp_path / "a.onnx").folder == tmp_path
    inner = tmp_path / "onnx" / "model.onnx"
    inner.parent.mkdir()
    inner.touch()
    assert find_onnx(tmp_path).path == inner
    assert find_onnx(inner).folder == tmp_path


def test_damaged_files_end_in_an_error_of_ours(tmp_path: Path) -> None:
    """Bytes changed, cut and repeated anywhere: a package, or an error that says why not; memory stays bounded."""
    source = DATA / "opt"
    whole = (source / "model.onnx").read_bytes()
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    tiny.write_tokenizer(folder)
    rng = random.Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = set()
    for _ in range(60):
        (folder / "model.onnx").write_bytes(damaged(whole, rng))
        try:
            convert(folder, tmp_path / "package")
            outcomes.add("converted")
        except GenAIError as error:
            outcomes.add(type(error).__name__)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**20, f"{grown} KiB"
    assert len(outcomes) > 1


def damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        place = rng.randrange(len(changed))
        kind = rng.randrange(4)
        if kind == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            del changed[place : place + rng.choice((1, 8, 400))]
        else:
            changed[place:place] = changed[place : place + rng.choice((1, 8, 400))]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["known", "computed"])
def test_graphs_that_ask_for_all_memory(tmp_path: Path, kind: str) -> None:
    """A size that shape inference sees, and one that only running the graph shows."""
    folder = tmp_path / "model"
    shutil.copytree(DATA / "llama", folder)
    tiny.write_tokenizer(folder)
    model = onnx.load(folder / "model.onnx")
    graph = model.graph
    last = next(node for node in graph.node if "logits" in node.output)
    last.output[0] = "before"
    start = [helper.make_node("Shape", ["input_ids"], ["sizes"])] if kind == "computed" else []
    factor = 2**18 if kind == "computed" else 2**19
    graph.initializer.append(numpy_helper.from_array(np.array([factor, factor]), "factor"))
    graph.node.extend(
        [
            *start,
            helper.make_node("Mul", ["sizes" if kind == "computed" else "factor", "factor"], ["large"]),
            helper.make_node("ConstantOfShape", ["large"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Add", ["before", "zero"], ["logits"]),
        ]
    )
    onnx.save(model, folder / "model.onnx")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GenAIError, match=r"elements|failed"):
        convert(folder, tmp_path / "package")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY, "the bound is lifted afterwards"


def test_loops_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DATA / "llama", folder)
    model = onnx.load(folder / "model.onnx")
    counter, *flags = (
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (
            ("i", onnx.TensorProto.INT64),
            ("go", onnx.TensorProto.BOOL),
            ("goes", onnx.TensorProto.BOOL),
        )
    )
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["goes"])], "body", [counter, flags[0]], [flags[1]])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["unread"], body=body))
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(UnsupportedModelError, match="Loop"):
        convert(folder, tmp_path / "package")
