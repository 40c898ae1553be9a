"""Norms between the parts: each kind, fused with the residual addition or not, against its formula in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from genai import contract
from genai.build.graph import CONTRIB, ExternalData, GraphBuilder
from genai.build.parts import context
from genai.build.parts.context import Context
from genai.build.precision import Plan
from genai.build.spec import DecoderSpec, NormSpec
from genai.build.weights import Weights

HIDDEN, HEADS = 48, 3
EPSILON = 1e-3  # large enough to be missed where it is forgotten
RNG = np.random.default_rng(0)
TENSORS = {
    name: RNG.standard_normal(shape, np.float32)
    for name, shape in {
        "first.weight": HIDDEN, "first.bias": HIDDEN, "second.weight": HIDDEN, "second.bias": HIDDEN,
        "stacked.weight": (HEADS, HIDDEN // HEADS),
        **{f"apart.{head}.weight": HIDDEN // HEADS for head in range(HEADS)},
    }.items()
}  # fmt: skip
X, DELTA = (3 + 2 * RNG.standard_normal((2, 5, HIDDEN), np.float32) for _ in range(2))
PLANS = {
    "standard": Plan(dtype="float32", matrices="float", ends="float"),
    "contrib": Plan(dtype="float32", matrices="int8", ends="int8"),
    "exact": Plan(dtype="float32", matrices="exact", ends="exact"),
}
KINDS = ["rms", "layer", "layer without bias"]


class Source:
    """A checkpoint that is a dictionary."""

    config: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self._tensors = tensors

    def names(self) -> Any:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        return self._tensors[name][rows or slice(None)]

    def read_blocks(self, _: str, __: slice | None = None) -> None:
        return None


class Written:
    """A graph of inputs x and delta; `run` computes values of it."""

    def __init__(self, folder: Path, norm: NormSpec, plan: str, tensors: dict[str, np.ndarray] = TENSORS) -> None:
        self._path = folder / "model.onnx"
        self._data = ExternalData(folder / "model.onnx.data")
        self.graph = GraphBuilder(self._data)
        spec = DecoderSpec(
            vocab_size=8, hidden_size=HIDDEN, max_position=8, blocks=(), norm=norm, is_head_tied=True
        )  # fmt: skip
        self.ctx = Context.build(Weights(self.graph, Source(tensors), PLANS[plan]), spec)

    def run(self, *values: str) -> list[np.ndarray]:
        import onnxruntime

        shape = ("B", "T", HIDDEN)
        inputs = [contract.TensorType(name=name, dtype="float32", shape=shape) for name in ("x", "delta")]
        model = self.graph.model(inputs, [], {})
        for value in values:
            model.graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
        self._data.__exit__()
        self.kinds = [(node.domain, node.op_type) for node in model.graph.node]
        onnx.save(model, self._path)
        session = onnxruntime.InferenceSession(self._path, providers=["CPUExecutionProvider"])
        outputs: list[np.ndarray] = session.run(values, {"x": X, "delta": DELTA})
        return outputs


def spec_of(kind: str, offset: float = 0.0) -> NormSpec:
    return NormSpec(kind="rms" if kind == "rms" else "layer", eps=EPSILON, offset=offset)


def formula(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, kind: str) -> np.ndarray:
    x = x.astype(np.float64)
    if kind != "rms":
        x = x - x.mean(axis=-1, keepdims=True)
    normed = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON) * weight
    return normed if bias is None else normed + bias


def wanted(x: np.ndarray, name: str, kind: str, offset: float = 0.0) -> np.ndarray:
    bias = TENSORS[f"{name}.bias"] if kind == "layer" else None
    return formula(x, TENSORS[f"{name}.weight"] + np.float32(offset), bias, kind)


def tensors_of(kind: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in TENSORS.items() if kind != "layer without bias" or "bias" not in name}


def close(actual: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(actual, right, atol=5e-6)  # measured: at most 1.6e-6


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_of_the_sum(tmp_path: Path, kind: str, plan: str, offset: float) -> None:
    written = Written(tmp_path, spec_of(kind, offset), plan, tensors_of(kind))
    total, normed = written.run(*context.add_and_norm(written.ctx, "x", "delta", "first"))
    close(total, X + DELTA)
    close(normed, wanted(X + DELTA, "first", kind, offset))
    fused = "SkipSimplifiedLayerNormalization" if kind == "rms" else "SkipLayerNormalization"
    assert written.kinds[0] == (("", "Add") if plan == "standard" else (CONTRIB, fused))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_for_each_part(tmp_path: Path, kind: str, plan: str) -> None:
    written = Written(tmp_path, spec_of(kind), plan, tensors_of(kind))
    total, normed = context.add_and_norms(written.ctx, "x", "delta", ["first", "second"])
    total, first, second = written.run(total, *normed)
    close(total, X + DELTA)
    close(first, wanted(X + DELTA, "first", kind))
    close(second, wanted(X + DELTA, "second", kind))


@pytest.mark.parametrize("name", ["stacked", "apart"])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_weight_for_each_head(tmp_path: Path, kind: str, name: str) -> None:
    written = Written(tmp_path, spec_of(kind, offset=1.0), "standard")
    shape = (HEADS, HIDDEN // HEADS)
    split = written.graph.op("Reshape", "x", written.graph.constant([0, 0, *shape], np.int64))
    (normed,) = written.run(context.norm_of_each(written.ctx, split, name, shape))
    weights = [TENSORS[f"apart.{head}.weight"] for head in range(HEADS)]
    weight = TENSORS["stacked.weight"] if name == "stacked" else np.stack(weights)
    close(normed, formula(X.reshape(2, 5, *shape), weight + 1, None, kind))
