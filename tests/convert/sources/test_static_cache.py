"""mobius-onnx's static-cache packages on the contract: free capacity, the same numbers, the same texts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from genai import contract
from genai.config import ModelConfig
from genai.convert import ConversionReport, ConvertOptions, convert
from genai.errors import ModelError, UnsupportedModelError
from tests.build import tiny
from tests.convert.sources.genai_folders import static_cache_package, write_checkpoint

pytest.importorskip("mobius")

LAYERS = {"num_hidden_layers": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": LAYERS,
    "qwen3": LAYERS | {"head_dim": 16},
    "starcoder2": LAYERS | {"sliding_window": None},
    "olmoe": LAYERS | {"num_experts": 4, "num_experts_per_tok": 2},
}
"""Norms of heads, LayerNormalization with biases, experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A checkpoint, mobius's package of it, and ours."""

    model: Any
    folder: Path
    package: Path
    report: ConversionReport


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    """Every architecture, built and converted."""
    cases = {}
    for name, sizes in ARCHITECTURES.items():
        place = tmp_path_factory.mktemp(name)
        model = tiny.make_model(name, **sizes)
        folder = static_cache_package(write_checkpoint(model, place / "checkpoint"), place / "folder")
        report = convert(folder, place / "package")
        cases[name] = Converted(model=model, folder=folder, package=place / "package", report=report)
    return cases


@pytest.fixture
def folder(converted: dict[str, Converted], tmp_path: Path) -> Path:
    """A copy of llama's folder."""
    return Path(shutil.copytree(converted["llama"].folder, tmp_path / "folder"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_those_of_transformers(converted: dict[str, Converted], name: str) -> None:
    case = converted[name]
    first, second = tiny.tokens(100), tiny.tokens(19, seed=1)  # more than the original's caches hold
    graph = tiny.Graph(case.package, num_rows=2, capacity=128)
    parts = [graph.add(first[a:b], second[c:d]) for a, b, c, d in ((0, 9, 0, 17), (9, 10, 17, 18), (10, 100, 18, 19))]
    for row, tokens in enumerate((first, second)):
        got = np.concatenate([part[row] for part in parts])
        np.testing.assert_allclose(got, tiny.expected(case.model, tokens), atol=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_texts_are_those_of_the_original_graph(converted: dict[str, Converted], name: str) -> None:
    case = converted[name]
    prompts = [tiny.tokens(count, seed=count) for count in (5, 11, 23)]
    with tiny.loaded(case.package) as llm:
        results = llm.generate(prompts, max_new_tokens=16, ignore_eos=True, do_sample=False)
    assert [list(result.token_ids) for result in results] == [text_of(case.folder, prompt, 16) for prompt in prompts]


def test_what_the_package_says(converted: dict[str, Converted]) -> None:
    case = converted["llama"]
    config = ModelConfig.read(case.package)
    assert (config.model_type, config.num_layers, config.hidden_size) == ("llama", 2, 64)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 16)
    assert config.max_position == 256  # its rotary tables; the configuration says 4,096
    assert (config.eos_token_ids, config.bos_token_id, config.pad_token_id) == ((2,), 1, 0)
    assert case.report.kind == "static-cache graph"
    assert "64 tokens became a free dimension" in case.report.notes[0]


def test_fused_norms_stay_operators(converted: dict[str, Converted]) -> None:
    model = onnx.load(converted["llama"].package / "model.onnx", load_external_data=False)
    assert not model.functions
    assert sum(node.op_type == "SkipSimplifiedLayerNormalization" for node in model.graph.node) == 4


def test_without_a_configuration(folder: Path, tmp_path: Path) -> None:
    (folder / "genai_config.json").unlink()
    convert(folder, tmp_path / "package")
    assert ModelConfig.read(tmp_path / "package").max_position == 256
    convert(folder, tmp_path / "package", ConvertOptions(max_seq_len=50))
    assert ModelConfig.read(tmp_path / "package").max_position == 50


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda attention, _: attention.attribute.append(onnx.helper.make_attribute("is_causal", 0)), "not causal"),
        (lambda attention, _: attention.input.__setitem__(3, "mask"), "has a mask"),
        (lambda _, write: write.attribute.append(onnx.helper.make_attribute("mode", "circular")), "TensorScatter"),
        (lambda attention, write: attention.input.__setitem__(1, write.input[1]), "TensorScatter"),
    ],
)
def test_another_graph_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[onnx.NodeProto, onnx.NodeProto], object], said: str
) -> None:
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    write = next(node for node in model.graph.node if node.op_type == "TensorScatter")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 64), np.float32), "mask"))
    change(attention, write)
    for node in (attention, write):
        latest = {item.name: onnx.AttributeProto.FromString(item.SerializeToString()) for item in node.attribute}
        del node.attribute[:]
        node.attribute.extend(latest.values())
    onnx.save(model, path)
    with pytest.raises(UnsupportedModelError, match=said):
        convert(folder, tmp_path / "package")


def test_a_capacity_that_is_free_already(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if "_cache." in value.name:
            value.type.tensor_type.shape.dim[1].dim_param = "S"
    onnx.save(model, path)
    report = convert(folder, tmp_path / "package")
    assert report.notes == ()


def test_caches_by_heads_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    shape = next(value for value in model.graph.input if value.name == contract.key_cache(1)).type.tensor_type.shape
    shape.dim[2].dim_value = 16
    onnx.save(model, path)
    with pytest.raises(UnsupportedModelError, match=r"key_cache\.1"):
        convert(folder, tmp_path / "package")


def test_an_input_that_is_missing(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    (index,) = (i for i, value in enumerate(model.graph.input) if value.name == contract.value_cache(1))
    model.graph.input[index].name = "other"
    for node in model.graph.node:
        node.input[:] = ["other" if name == contract.value_cache(1) else name for name in node.input]
    onnx.save(model, path)
    with pytest.raises(UnsupportedModelError, match=r"lacks the inputs value_cache\.1"):
        convert(folder, tmp_path / "package")


def test_caches_too_short_to_compare(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tiny.make_model("llama", num_hidden_layers=1), tmp_path / "checkpoint")
    folder = static_cache_package(checkpoint, tmp_path / "folder", capacity=16)
    with pytest.raises(ModelError, match="hold 16 tokens"):
        convert(folder, tmp_path / "package")


def text_of(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    """The most probable continuation, by the original graph in ONNX Runtime."""
    session = tiny.load_session(folder)
    caches = {
        value.name: np.zeros([1, *value.shape[1:]], np.float32)
        for value in session.get_inputs()
        if "_cache." in value.name
    }
    names = [output.name for output in session.get_outputs()]
    tokens, new, past = list(prompt), list(prompt), 0
    for _ in range(count):
        feeds = {
            contract.INPUT_IDS: np.array([new]),
            contract.POSITION_IDS: np.arange(past, past + len(new))[None],
            contract.WRITE_INDICES: np.array([past]),
            contract.NONPAD_KV_SEQLEN: np.array([past + len(new)]),
        }
        outputs = dict(zip(names, session.run(None, feeds | caches), strict=True))
        caches = {name: outputs[contract.updated(name)] for name in caches}
        past, new = past + len(new), [int(outputs[contract.LOGITS][0, -1].argmax())]
        tokens += new
    return tokens[len(prompt) :]
