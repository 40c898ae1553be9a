"""Recurrent layers in foreign graphs: the reference evaluator's logits, and the plain loop's texts, padded or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import genai
from genai import contract
from genai.config import ModelConfig
from genai.convert import ConversionReport, ConvertOptions, convert
from genai.errors import UnsupportedModelError
from tests.build import tiny
from tests.convert import recurrent
from tests.convert.recurrent import CONTRIB, PRESENTS, Form

FORMS = {
    "gated delta rule": Form(),
    "decay by element, one rate": Form(by_element=True, one_rate=True, scale=0.5),
    "gated": Form(rule="gated", activation="none", has_bias=False),
    "gated by element": Form(rule="gated", by_element=True),
    "delta": Form(rule="delta", activation="swish"),
    "linear": Form(rule="linear", scale=1.0, opset=28),
}
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def write(model: onnx.ModelProto, folder: Path) -> Path:
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "model_type": "made_up"}))
    tiny.write_tokenizer(folder)
    return folder


def converted(form: Form, place: Path, options: ConvertOptions | None = None) -> ConversionReport:
    return convert(write(recurrent.decoder(form), place / "source"), place / "package", options)


def reference(form: Form) -> Run:
    """The graph as it is, on the standard's own evaluator."""
    session = ReferenceEvaluator(recurrent.decoder(form))
    names = ["logits", *PRESENTS.values()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def plain_loop(form: Form, prompt: Sequence[int], count: int) -> list[int]:
    """The most probable continuation, token by token, nothing padded."""
    run, feeds, tokens = reference(form), recurrent.empty(form), list(prompt)
    new = tokens
    for _ in range(count):
        outputs = run({"input_ids": np.array([new])} | feeds)
        feeds = {name: outputs[present] for name, present in PRESENTS.items()}
        new = [int(outputs["logits"][0, -1].argmax())]
        tokens += new
    return tokens[len(prompt) :]


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_the_reference_evaluators(tmp_path: Path, name: str) -> None:
    form, prompt = FORMS[name], tiny.tokens(15)
    report = converted(form, tmp_path)
    assert report.agreement.is_exact
    assert report.kind == "past and present caches, Attention operators, recurrent layers"
    outputs = reference(form)({"input_ids": np.array([prompt])} | recurrent.empty(form))
    with tiny.loaded(tmp_path / "package") as llm:
        np.testing.assert_allclose(llm.logits(prompt), outputs["logits"][0], atol=1e-5, rtol=0)  # measured: 6e-7


def test_texts_side_by_side_are_those_of_the_plain_loop(tmp_path: Path) -> None:
    """Prompts of several lengths share padded runs, and a chat goes on from its states."""
    form = Form()
    converted(form, tmp_path)
    prompts = [tiny.tokens(length, seed=length) for length in (1, 2, 7, 19)]
    wanted = [plain_loop(form, prompt, 9) for prompt in prompts]
    assert len({tuple(text) for text in wanted}) > 2  # none that any model would give
    with genai.load(tmp_path / "package", max_batch=4) as llm:
        options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 9, "ignore_eos": True}
        assert [made.token_ids for made in llm.generate(prompts, **options)] == wanted
        longer = prompts[2] + wanted[2] + [5]
        assert llm.generate(longer, **options).token_ids == plain_loop(form, longer, 9)


def test_what_the_package_says(tmp_path: Path) -> None:
    converted(Form(), tmp_path)
    config = ModelConfig.read(tmp_path / "package")
    assert (config.contract_version, config.num_layers) == (2, 3)
    inputs = {value.name: value for value in onnx.load(tmp_path / "package" / "model.onnx").graph.input}
    shapes = {
        name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
        for name, value in inputs.items()
        if contract.is_state(name)
    }
    channels = recurrent.STATES["past_conv.0"][0]
    assert shapes == {
        "conv_state.0": [3, channels],
        "recurrent_state.0": [2, 8, 6],
        "conv_state.2": [3, recurrent.HIDDEN],
    }
    assert [name for name in inputs if contract.is_cache(name)] == ["key_cache.1", "value_cache.1"]


@pytest.mark.parametrize("channels_first", [True, False])
def test_operators_of_onnxruntime(tmp_path: Path, channels_first: bool) -> None:
    """They mean what the standard's of the same name do."""
    form = Form(domain=CONTRIB, opset=24, channels_first=channels_first)
    converted(form, tmp_path)
    prompt = tiny.tokens(11)
    with tiny.loaded(tmp_path / "package") as llm:
        text = llm.generate(prompt, temperature=0.0, max_new_tokens=8, ignore_eos=True).token_ids
    assert text == plain_loop(Form(), prompt, 8)


@pytest.mark.parametrize("options", [ConvertOptions(quantize="int8"), ConvertOptions(dtype="f16")], ids=str)
def test_rounded(tmp_path: Path, options: ConvertOptions) -> None:
    """Products in few bits, activations in 16: states stay in float32."""
    report = converted(Form(), tmp_path, options)
    assert report.rounded is not None
    assert report.rounded.mean_kl < 1e-3
    graph = onnx.load(tmp_path / "package" / "model.onnx").graph
    types = {value.type.tensor_type.elem_type for value in graph.input if contract.is_state(value.name)}
    assert types == {onnx.TensorProto.FLOAT}


def set_attribute(kind: str, **values: object) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == kind)
        kept = [each for each in node.attribute if each.name not in values]
        del node.attribute[:]
        node.attribute.extend([*kept, *(onnx.helper.make_attribute(name, value) for name, value in values.items())])

    return change


def drop_input(kind: str, index: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == kind).input[index] = ""

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_attribute("LinearAttention", state_window=2), "has state_window=2"),
        (set_attribute("LinearAttention", update_rule="rwkv"), "has update_rule=rwkv"),
        (set_attribute("CausalConvWithState", dilation=2), "has dilation=2"),
        (set_attribute("CausalConvWithState", activation="gelu"), "has activation=gelu"),
        (set_attribute("CausalConvWithState", state_length=9), "has state_length=9"),
        (set_attribute("CausalConvWithState", mystery=1), "has the attribute mystery"),
        (drop_input("LinearAttention", 3), "does not read its state from an input"),
        (drop_input("CausalConvWithState", 3), "does not read its state from an input"),
        (drop_input("LinearAttention", 4), "lacks its input decay"),
        (drop_input("CausalConvWithState", 1), "Required input 'weight'"),
    ],
)
def test_refused_by_name(tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str) -> None:
    model = recurrent.decoder(Form(domain=CONTRIB, opset=24))
    change(model)
    with pytest.raises(UnsupportedModelError, match=message):
        convert(write(model, tmp_path / "source"), tmp_path / "package")
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize(
    ("known", "other", "message"),
    [
        ("LinearAttention", "GatedDeltaNet", "has 1 GatedDeltaNet nodes, to which the tokens of all texts come as one"),
        ("CausalConvWithState", "VarlenCausalConvWithState", "has 2 VarlenCausalConvWithState nodes"),
        ("LinearAttention", "Novel", "input 'past_recurrent.0', read by Novel: neither keys nor values"),
    ],
)
def test_other_recurrences_are_refused_by_name(tmp_path: Path, known: str, other: str, message: str) -> None:
    model = recurrent.decoder(Form(domain=CONTRIB, opset=24))
    for node in model.graph.node:
        node.op_type = other if node.op_type == known else node.op_type
    with pytest.raises(UnsupportedModelError, match=message):
        convert(write(model, tmp_path / "source"), tmp_path / "package")
