"""Checkpoints exported through torch, against transformers; one export for each architecture."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from genai.convert import convert
from genai.export import Exported, export_plain
from tests.build import tiny
from tests.export.checkpoints import OPTIONS, PastPresent, make

pytestmark = pytest.mark.long

TOLERANCE = 1e-3
NORMS = {"gemma3_text": 6, "qwen3": 4}  # in each layer; 2 in the others


@dataclass(frozen=True, kw_only=True)
class Case:
    model_type: str
    source: Path
    exported: Exported

    @property
    def num_layers(self) -> int:
        return int(OPTIONS[self.model_type]["num_hidden_layers"])


@pytest.fixture(scope="module", params=OPTIONS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    source = make(request.param, folder / "checkpoint")
    return Case(model_type=request.param, source=source, exported=export_plain(source, folder / "plain"))


def test_logits_of_parts_are_those_of_the_whole(case: Case) -> None:
    tokens = np.array([tiny.tokens(20), tiny.tokens(20, seed=1)])
    logits = PastPresent(case.exported.path).in_parts(tokens, [9, 1, 7, 1, 2])
    model = tiny.load(case.source)
    for row, prompt in zip(logits, tokens, strict=True):
        np.testing.assert_allclose(row, tiny.expected(model, prompt.tolist()), atol=TOLERANCE)


def test_padding_on_the_left_changes_nothing(case: Case) -> None:
    short, long = tiny.tokens(12), tiny.tokens(17, seed=1)
    padded = np.array([[0] * 5 + short, long])
    mask = (np.arange(17) >= [[5], [0]]).astype(np.int64)
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    model = PastPresent(case.exported.path)
    model.start(2)
    first = model.add(padded[:, :14], mask[:, :14], positions[:, :14])
    logits = np.concatenate([first, model.add(padded[:, 14:], mask, positions[:, 14:])], axis=1)
    original = tiny.load(case.source)
    np.testing.assert_allclose(logits[0, 5:], tiny.expected(original, short), atol=TOLERANCE)
    np.testing.assert_allclose(logits[1], tiny.expected(original, long), atol=TOLERANCE)


def test_everything_is_fused(case: Case) -> None:
    fusions = case.exported.fusions
    counts = {pattern: len(fusions.of(pattern)) for pattern in fusions.patterns}
    assert all(site.matched for site in fusions.sites), fusions.as_text()
    has_layer_norms = case.model_type == "gpt2"  # and positions that are embedded
    assert counts == {
        "RMSNormalization": 0 if has_layer_norms else NORMS.get(case.model_type, 2) * case.num_layers + 1,
        "RotaryEmbedding": 0 if has_layer_norms else 2 * case.num_layers,
        "Attention": case.num_layers,
    }
    layers = {site.layer for site in fusions.sites if site.layer is not None}
    assert layers == set(range(case.num_layers))


def test_graph_is_clean(case: Case) -> None:
    model = onnx.load(case.exported.path / "model.onnx", load_external_data=False)
    operators = Counter(node.op_type for node in model.graph.node)
    assert not {"Softmax", "ReduceMean", "Neg", "Expand", "GatherND", "Where"} & set(operators)
    assert {node.domain for node in model.graph.node} == {""}
    is_tied = case.model_type in ("llama", "gemma3_text", "gpt2")
    assert operators["Transpose"] == is_tied, "of the embedding that is the head, too"
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert dims["input_ids"] == dims["position_ids"] == ["batch", "length"]
    assert dims["attention_mask"] == ["batch", "past + length"]
    assert dims["logits"] == ["batch", "length", tiny.VOCAB_SIZE]
    for layer in range(case.num_layers):
        assert dims[f"past_key_values.{layer}.key"][2] == "past"
        assert dims[f"present.{layer}.value"][2] == "past + length"


def test_weights_have_the_names_of_the_checkpoint(case: Case) -> None:
    model = onnx.load(case.exported.path / "model.onnx", load_external_data=False)
    names = {tensor.name.removesuffix(".transposed") for tensor in model.graph.initializer if len(tensor.dims) == 2}
    checkpoint = dict(tiny.load(case.source).named_parameters())
    assert names - checkpoint.keys() == set()
    matrices = {name for name, parameter in checkpoint.items() if parameter.dim() == 2}
    assert matrices - names == set()


def test_folder_says_what_was_done(case: Case) -> None:
    folder = case.exported.path
    made = json.loads((folder / "export.json").read_text())
    assert (made["source"], made["dtype"], made["accumulate"]) == ("checkpoint", "f32", "f32")
    assert made["fusions"] == case.exported.fusions.as_json()
    assert (folder / "tokenizer.json").is_file()
    assert (folder / "config.json").is_file()
    assert not list(folder.glob("*.safetensors"))
    properties = onnx.load(folder / "model.onnx", load_external_data=False).metadata_props
    assert {prop.key: prop.value for prop in properties}["accumulate"] == "f32"


def test_goes_onto_the_contract_with_the_same_text(case: Case, tmp_path: Path) -> None:
    report = convert(case.exported.path, tmp_path / "package")
    assert report.agreement.is_good
    prompt = tiny.tokens(11)
    with tiny.loaded(tmp_path / "package") as llm:
        text = llm.generate(prompt, max_new_tokens=8, temperature=0, ignore_eos=True)
    assert list(text.token_ids) == tiny.greedy(tiny.load(case.source), prompt, 8)
