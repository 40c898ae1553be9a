"""The layout of transformers.js, whole: folders by the real tools become packages that say what transformers says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from genai.config import ModelConfig, Precision
from genai.convert import ConvertOptions, convert
from genai.errors import ConfigError, UnsupportedModelError
from tests.build import tiny
from tests.convert.layout import OPTIMUM, merged, of_builder, of_optimum, on_grid

SMALL: dict[str, Any] = {"num_hidden_layers": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}
CHANGES: dict[str, dict[str, Any]] = {"phi3": {"original_max_position_embeddings": 256}}  # the builder asks for it
NEAR = 0.15
"""How far below the best a chosen token's logit may be, in deviations: activations in 8 bits change these tiny models'
logits by that much (measured: 0.105 at most, of texts of 12 tokens; what is wrong is 1 and more below)."""


@pytest.mark.parametrize(
    ("model_type", "form", "precision"),
    [
        ("llama", "", "f32"),
        ("lfm2", "", "f32"),
        ("llama", "int8", "int8"),
        ("qwen2", "quantized", "int8"),
        ("qwen3", "q4", "int4"),
        ("gemma3_text", "q4", "int4"),
        ("phi3", "q4", "int4"),
    ],
)
def test_operators_without_their_configuration(tmp_path: Path, model_type: str, form: str, precision: str) -> None:
    """GroupQueryAttention beside `config.json` only; the rounded weights are numbers that rounding does not change."""
    model = tiny.make_model(model_type, **(SMALL | OPTIONS.get(model_type, {})))
    model = on_grid(model, form) if form else model
    folder = of_builder(model, tmp_path, [form], **CHANGES.get(model_type, {}))
    assert not (folder / "genai_config.json").exists()
    report = convert(folder, tmp_path / "package")
    assert report.kind == "past and present caches, attention operators of ONNX Runtime"
    assert report.agreement.is_good
    assert report.agreement.is_exact == (form != "q4")
    assert ModelConfig.read(tmp_path / "package").provenance.precision == precision
    prompts = [tiny.tokens(count, seed=count) for count in (5, 11, 23)]
    with tiny.loaded(tmp_path / "package") as llm:
        texts = [list(result.token_ids) for result in llm.generate(prompts, max_new_tokens=12, ignore_eos=True)]
    if not form:
        assert texts == [tiny.greedy(model, prompt, 12) for prompt in prompts]
    for prompt, text in zip(prompts, texts, strict=True):
        logits = tiny.expected(model, [*prompt, *text])[len(prompt) - 1 : -1]
        chosen = logits[np.arange(len(text)), text]
        assert ((logits.max(-1) - chosen) / logits.std()).max() < NEAR


@pytest.mark.parametrize(
    ("name", "form", "kernels"),
    [
        ("llama", "uint8", 15),
        ("qwen3", "q4f16", 15),
        ("gemma3", "fp16", 0),
        ("phi3", "bnb4", 0),
        ("gpt2", "int8", 9),
    ],
)
def test_forms_of_decomposed_graphs(tmp_path: Path, name: str, form: str, kernels: int) -> None:
    """Fused as their float originals are; what was rounded by others runs as MatMulNBits."""
    report = convert(of_optimum(name, tmp_path / "layout", [form]), tmp_path / "package")
    assert report.agreement.is_good
    assert report.agreement.is_exact == ("16" not in form)
    assert all(site.matched for site in report.fusions.sites)
    operators = [node.op_type for node in _graph(tmp_path / "package").node]
    assert operators.count("MatMulNBits") == kernels
    assert not {"DynamicQuantizeLinear", "MatMulInteger", "MatMulBnb4"} & set(operators)
    assert (report.rounded is not None) == bool(kernels)
    assert all(tensor.data_type != 10 for tensor in _graph(tmp_path / "package").initializer)  # no FLOAT16
    if form == "fp16":
        wanted = json.loads((OPTIMUM / name / "expected.json").read_text())
        with tiny.loaded(tmp_path / "package") as llm:
            results = llm.generate(wanted["prompts"], max_new_tokens=12, ignore_eos=True)
        assert [list(result.token_ids) for result in results] == wanted["texts"]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_merged_decoders(tmp_path: Path, name: str) -> None:
    """As optimum wrote them, and optimum-onnx 0.1's merge_decoders still does: the branch with past is the decoder."""
    folder = tmp_path / "layout"
    folder.mkdir()
    (folder / "config.json").write_bytes((OPTIMUM / name / "config.json").read_bytes())
    tiny.write_tokenizer(folder)
    onnx.save(merged(onnx.load(OPTIMUM / name / "model.onnx")), folder / "decoder_model_merged.onnx")
    report = convert(folder, tmp_path / "package")
    assert report.agreement.is_exact
    assert report.agreement.is_good
    wanted = json.loads((OPTIMUM / name / "expected.json").read_text())
    with tiny.loaded(tmp_path / "package") as llm:
        results = llm.generate(wanted["prompts"], max_new_tokens=12, ignore_eos=True)
    assert [list(result.token_ids) for result in results] == wanted["texts"]


def test_branches_that_no_input_chooses(tmp_path: Path) -> None:
    """An If on a value of the graph is no merged decoder."""
    folder = of_optimum("llama", tmp_path / "layout", [""])
    model = merged(onnx.load(OPTIMUM / "llama" / "model.onnx"))
    choice = model.graph.input.pop()
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [choice.name], value=_true()))
    onnx.save(model, folder / "onnx" / "model.onnx")
    with pytest.raises(UnsupportedModelError, match="1 If nodes, which choose by something else"):
        convert(folder, tmp_path / "package")


def _true() -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array([True]))


def test_a_precision_chooses_the_file_or_rounds_the_float_one(tmp_path: Path) -> None:
    folder = of_optimum("llama", tmp_path / "layout", ["", "q4", "fp16"])
    for options, file, precision in (
        ({}, "model.onnx", "f32"),
        ({"precision": "auto"}, "model_q4.onnx", "int4"),
        ({"precision": "int8"}, "model.onnx", "int8"),
        ({"precision": "f16"}, "model_fp16.onnx", "f16"),
        ({"file": "q4"}, "model_q4.onnx", "int4"),
        ({"file": "fp16", "precision": "int4"}, "model_fp16.onnx", "int4"),
    ):
        report = convert(folder, tmp_path / "package", ConvertOptions(**options))
        assert report.source.endswith(f"onnx/{file}")
        assert ModelConfig.read(tmp_path / "package").provenance.precision == precision


@pytest.mark.parametrize(("form", "precision"), [("q4", "f32"), ("int8", "int4"), ("q4", "int8")])
def test_a_file_that_comes_in_another_precision(tmp_path: Path, form: str, precision: Precision) -> None:
    graph = of_optimum("llama", tmp_path / "layout", [form]) / "onnx" / f"model_{form}.onnx"
    with pytest.raises(ConfigError, match=f"comes in int[48], not in {precision}, nothing was written"):
        convert(graph, tmp_path / "package", ConvertOptions(precision=precision))
    assert not (tmp_path / "package").exists()
    with pytest.raises(ConfigError, match="is one file, of which 'fp16' cannot be chosen"):
        convert(graph, tmp_path / "package", ConvertOptions(file="fp16"))


def test_bitsandbytes_is_rounded_as_floats_are(tmp_path: Path) -> None:
    convert(
        of_optimum("llama", tmp_path / "layout", ["bnb4"]) / "onnx" / "model_bnb4.onnx",
        tmp_path / "package",
        ConvertOptions(precision="int8"),
    )
    assert ModelConfig.read(tmp_path / "package").provenance.precision == "int8"


def _graph(package: Path) -> Any:
    return onnx.load(package / "model.onnx", load_external_data=False).graph


@pytest.mark.parametrize("kind", ["head_sink", "smooth_softmax", "head_sink and a window"])
def test_attention_sinks(tmp_path: Path, kind: str) -> None:
    """Scores that give nothing, as gpt-oss has them: ONNX Runtime's own operator is the oracle (`convert` asks it)."""
    folder = of_builder(tiny.make_model("llama", **SMALL), tmp_path, [""])
    model = onnx.load(folder / "onnx" / "model.onnx")
    rng = np.random.default_rng(0)
    for node in [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]:
        heads = next(attribute.i for attribute in node.attribute if attribute.name == "num_heads")
        if kind == "smooth_softmax":
            node.attribute.append(onnx.helper.make_attribute("smooth_softmax", 1))
            continue
        name = f"{node.name}.sinks"
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(heads).astype(np.float32) + 1, name)
        )
        node.input.extend([""] * (11 - len(node.input)))
        del node.input[11:]
        node.input.append(name)
        if "window" in kind:
            kept = [attribute for attribute in node.attribute if attribute.name != "local_window_size"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("local_window_size", 6)])
    onnx.save(model, folder / "onnx" / "model.onnx")
    report = convert(folder, tmp_path / "package")
    assert report.agreement.is_exact
    assert report.agreement.largest < 1e-4  # measured: 3.6e-6
    assert ModelConfig.read(tmp_path / "package").reserved_slots == 1
    prompts = [tiny.tokens(count, seed=count) for count in (5, 23)]
    with tiny.loaded(tmp_path / "package") as llm:
        together = [list(result.token_ids) for result in llm.generate(prompts, max_new_tokens=8, ignore_eos=True)]
        assert [
            list(llm.generate(prompt, max_new_tokens=8, ignore_eos=True).token_ids) for prompt in prompts
        ] == together
