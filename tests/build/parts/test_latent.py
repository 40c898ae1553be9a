"""Latent attention in every precision: what is in the graph, and how near its logits stay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from genai import contract
from genai.config import ModelConfig, Precision
from tests.build import tiny

HEADS, LAYERS, LATENT, ROTARY = 4, 3, 64, 16
OPTIONS = {
    "kv_lora_rank": LATENT,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": ROTARY,
    "v_head_dim": 32,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "q_lora_rank": 64,
    "first_k_dense_replace": LAYERS,
    "n_group": 1,
    "topk_group": 1,
    "num_hidden_layers": LAYERS,
}
"""Without experts: of random ones any rounding chooses others, which would hide all else."""
LIMITS: dict[Precision, float] = {"f32": 1e-5, "f16": 0.005, "int8": 0.12, "auto": 0.12, "int4": 0.6}
"""Of the error against the logits' spread. Measured: 1.2e-6, 0.0027, 0.070, 0.070 and 0.39."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    pytest.importorskip("torch")
    model = tiny.make_model("deepseek_v3", **OPTIONS)
    return {each: tiny.build(model, tmp_path_factory.mktemp(each), precision=each) for each in LIMITS}


def graph(package: Path) -> onnx.GraphProto:
    return onnx.load(package / "model.onnx", load_external_data=False).graph


@pytest.mark.parametrize("precision", LIMITS)
def test_logits_stay_near(packages: dict[Precision, Path], precision: Precision) -> None:
    prompt = tiny.tokens(40)
    wanted = tiny.expected(tiny.make_model("deepseek_v3", **OPTIONS), prompt)
    logits = tiny.Graph(packages[precision]).add(prompt)[0].astype(np.float32)
    assert (logits - wanted).std() < LIMITS[precision] * wanted.std()


@pytest.mark.parametrize("precision", LIMITS)
def test_a_layer_has_one_cache(packages: dict[Precision, Path], precision: Precision) -> None:
    inputs = {value.name: value for value in graph(packages[precision]).input if contract.is_cache(value.name)}
    assert list(inputs) == [contract.key_cache(layer) for layer in range(LAYERS)]
    assert {value.type.tensor_type.shape.dim[2].dim_value for value in inputs.values()} == {LATENT + ROTARY}
    config = ModelConfig.read(packages[precision])
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (HEADS, 1, LATENT + ROTARY)


@pytest.mark.parametrize("precision", LIMITS)
def test_heads_are_one_operator_as_floats_and_one_each_as_integers(
    packages: dict[Precision, Path], precision: Precision
) -> None:
    made = graph(packages[precision])
    weights = [tensor for tensor in made.initializer if "k_b_proj" in tensor.name and "scales" not in tensor.name]
    readers = Counter(node.op_type for node in made.node if any("k_b_proj" in name for name in node.input))
    if precision in ("f32", "f16"):
        assert {tuple(tensor.dims) for tensor in weights} == {(HEADS, 32, LATENT)}
        assert readers == {"MatMul": LAYERS}
    else:
        assert {(tensor.dims[0], math.prod(tensor.dims)) for tensor in weights} == {(LATENT, LATENT * 32)}
        assert readers == {"MatMulNBits": LAYERS * HEADS}


@pytest.mark.parametrize("precision", LIMITS)
def test_steps_of_one_token_are_told_apart_on_cpu(packages: dict[Precision, Path], precision: Precision) -> None:
    """That both give the same is seen by the families' logits: one by one, and whole."""
    choices = [node for node in graph(packages[precision]).node if node.op_type == "If"]
    assert len(choices) == (0 if precision == "f16" else LAYERS)
    for node in choices:
        branches = {attribute.name: attribute.g.node for attribute in node.attribute}
        assert {name: heads_of(nodes) for name, nodes in branches.items()} == {"then_branch": 1, "else_branch": HEADS}


def heads_of(nodes: Sequence[onnx.NodeProto]) -> int:
    (attention,) = (node for node in nodes if node.op_type == "Attention")
    return int(next(each.i for each in attention.attribute if each.name == "q_num_heads"))
