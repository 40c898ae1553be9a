"""The mixture of experts against NumPy: every kind of router, floats and integers, alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from genai.build.graph import ExternalData, GraphBuilder
from genai.build.parts import mlp, moe
from genai.build.parts.context import Context
from genai.build.precision import Plan
from genai.build.quantize import quantize
from genai.build.source import BlockWeight, FloatArray
from genai.build.spec import BlockSpec, DecoderSpec, MlpSpec, MoeSpec, NormSpec, RouterSpec
from genai.build.weights import Weights
from genai.contract import TensorType
from genai.errors import UnsupportedModelError
from tests.build.tiny import load_session

HIDDEN, SIZE, EXPERTS, TOP_K = 64, 32, 8, 3
PREFIX = "model.layers.0.mlp"
PLAIN = MoeSpec(num_experts=EXPERTS, top_k=TOP_K, size=SIZE, router=RouterSpec())
GPT_OSS = replace(PLAIN, alpha=1.702, beta=1.0, limit=0.5, is_interleaved=True, has_biases=True)
CORRECTED = RouterSpec(score="sigmoid", has_correction=True)


class Arrays:
    """A checkpoint in memory, of floats or of blocks."""

    def __init__(self, arrays: dict[str, FloatArray], blocks: dict[str, BlockWeight] | None = None) -> None:
        self.config: dict[str, object] = {}
        self.blocks = blocks or {}
        self.arrays = arrays | {name: block.dequantize() for name, block in self.blocks.items()}

    def names(self) -> Collection[str]:
        return self.arrays.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        return self.arrays[name][rows or slice(None)]

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        return self.blocks.get(name)


def checkpoint(spec: MoeSpec, *, is_fused: bool = False) -> dict[str, FloatArray]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> FloatArray:
        return (rng.standard_normal(shape) * 1.5 / shape[-1] ** 0.5).astype(np.float32)

    shapes: dict[str, tuple[int, ...]] = {"gate.weight": (EXPERTS, HIDDEN)}
    inner = {"gate_up_proj": 2 * spec.size} if is_fused else {"gate_proj": spec.size, "up_proj": spec.size}
    for expert in range(EXPERTS):
        for name, rows in inner.items():
            shapes[f"experts.{expert}.{name}.weight"] = (rows, HIDDEN)
        shapes[f"experts.{expert}.down_proj.weight"] = (HIDDEN, spec.size)
    tensors = {f"{PREFIX}.{name}": draw(*shape) for name, shape in shapes.items()}
    if spec.has_biases:
        tensors |= {name.replace("weight", "bias"): draw(len(tensor)) * 2 for name, tensor in list(tensors.items())}
    if spec.router.has_correction:
        tensors[f"{PREFIX}.gate.e_score_correction_bias"] = draw(EXPERTS)
    return tensors


def expert_output(spec: MoeSpec, tensors: dict[str, FloatArray], expert: int, x: FloatArray) -> FloatArray:
    def product(name: str, value: FloatArray) -> FloatArray:
        name = f"{PREFIX}.experts.{expert}.{name}"
        return value @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", np.float32(0))

    if f"{PREFIX}.experts.0.gate_up_proj.weight" in tensors:
        both = product("gate_up_proj", x)
        g, u = (both[..., 0::2], both[..., 1::2]) if spec.is_interleaved else np.split(both, 2, axis=-1)
    else:
        g, u = product("gate_proj", x), product("up_proj", x)
    if spec.limit is not None:
        g, u = np.minimum(g, spec.limit), np.clip(u, -spec.limit, spec.limit)
    return product("down_proj", g / (1 + np.exp(-spec.alpha * g)) * (u + spec.beta))


def routed(spec: MoeSpec, tensors: dict[str, FloatArray], x: FloatArray) -> dict[int, float]:
    """What each chosen expert counts for one token, as the papers have it."""
    router = spec.router
    logits = x @ tensors[f"{PREFIX}.gate.weight"].T + tensors.get(f"{PREFIX}.gate.bias", np.float32(0))
    if router.score == "sparse_mixer":
        return sparse_mixed(spec, logits)
    softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    scores = softmax if router.score == "softmax" else 1 / (1 + np.exp(-logits))
    choice = scores + tensors.get(f"{PREFIX}.gate.e_score_correction_bias", np.float32(0))
    groups = np.sort(choice.reshape(router.groups, -1), axis=1)
    best = groups[:, -1] if router.group_score == "best" else groups[:, -2:].sum(axis=1)
    kept = set(np.argsort(-best)[: router.kept_groups])
    size = EXPERTS // router.groups
    order = sorted((e for e in range(EXPERTS) if e // size in kept), key=lambda e: -choice[e])[: spec.top_k]
    total = sum(scores[e] for e in order) if router.is_normalised else 1.0
    return {e: scores[e] / total * router.scale for e in order}


def sparse_mixed(spec: MoeSpec, logits: FloatArray) -> dict[int, float]:
    counts, left = {}, set(range(EXPERTS))
    for _ in range(spec.top_k):
        best = max(left, key=lambda e: logits[e])
        top = logits[best]
        near = [e for e in left if (top - logits[e]) / max(abs(logits[e]), top) <= 2 * spec.router.jitter]
        counts[best] = 1 / sum(np.exp(logits[e] - top) for e in near)
        left.remove(best)
    return {e: count * spec.router.scale for e, count in counts.items()}


def expected(spec: MoeSpec, tensors: dict[str, FloatArray], x: FloatArray) -> FloatArray:
    result = np.zeros_like(x)
    for place in np.ndindex(x.shape[:-1]):
        for expert, count in routed(spec, tensors, x[place]).items():
            if spec.router.multiplies == "input":
                result[place] += expert_output(spec, tensors, expert, x[place] * np.float32(count))
            else:
                result[place] += np.float32(count) * expert_output(spec, tensors, expert, x[place])
    return result


Write = Callable[[Context], str]


def run(source: Arrays, folder: Path, plan: Plan, x: FloatArray, write: Write) -> FloatArray:
    """What the nodes that `write` adds make of x."""
    (folder / "model.onnx").unlink(missing_ok=True)
    spec = DecoderSpec(
        vocab_size=9, hidden_size=HIDDEN, max_position=9, norm=NormSpec(eps=1e-6), is_head_tied=True,
        blocks=(BlockSpec(layer=0, parts=(PLAIN,), norm_in=None),),
    )  # fmt: skip
    with ExternalData(folder / "model.onnx.data") as data:
        graph = GraphBuilder(data)
        context = Context.build(Weights(graph, source, plan), spec)  # type: ignore[arg-type]
        graph.op_into("y", "Identity", write(context))
        shape = ("batch", "length", HIDDEN)
        values = [TensorType(name=name, dtype=plan.dtype, shape=shape) for name in ("x", "y")]
        model = graph.model(values[:1], values[1:], {})
    onnx.save(model, folder / "model.onnx")
    result: FloatArray = load_session(folder).run(None, {"x": x.astype(plan.dtype)})[0]
    return result.astype(np.float32)


def through(spec: MoeSpec) -> Write:
    return lambda context: moe.finish(context, spec, "x", 0)


def inputs(seed: int = 1) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((2, 7, HIDDEN)).astype(np.float32)


CASES = {
    "softmax": PLAIN,
    "shares of all": replace(PLAIN, router=RouterSpec(is_normalised=False)),
    "scaled": replace(PLAIN, router=RouterSpec(scale=2.5)),
    "one": replace(PLAIN, top_k=1),
    "all": replace(PLAIN, top_k=EXPERTS),
    "gate and up in one": PLAIN,
    "gpt-oss": GPT_OSS,
    "biases": replace(PLAIN, has_biases=True),
    "sigmoid": replace(PLAIN, router=RouterSpec(score="sigmoid")),
    "corrected": replace(PLAIN, router=CORRECTED),
    "corrected softmax": replace(PLAIN, router=RouterSpec(has_correction=True)),
    "corrected, not normalised": replace(PLAIN, router=replace(CORRECTED, is_normalised=False, scale=1.5)),
    "groups by two": replace(PLAIN, router=replace(CORRECTED, groups=4, kept_groups=2, group_score="two_best")),
    "groups by one": replace(PLAIN, router=RouterSpec(groups=2, kept_groups=1, is_normalised=False, scale=3.0)),
    "sparse mixer": replace(PLAIN, top_k=2, router=RouterSpec(score="sparse_mixer", jitter=0.3, is_normalised=False)),
    "input": replace(PLAIN, top_k=1, router=RouterSpec(score="sigmoid", multiplies="input", is_normalised=False)),
}


FUSED = ("gate and up in one", "gpt-oss")
"""Cases in which the checkpoint holds gate and up as one matrix."""


@pytest.mark.parametrize("name", CASES)
def test_floats(tmp_path: Path, name: str) -> None:
    spec, x = CASES[name], inputs()
    tensors = checkpoint(spec, is_fused=name in FUSED)
    result = run(Arrays(tensors), tmp_path, Plan.of("f32", "cpu"), x, through(spec))
    # Most seen: 9e-6, where shares are scaled.
    np.testing.assert_allclose(result, expected(spec, tensors, x), atol=2e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_integers(tmp_path: Path, name: str, precision: str) -> None:
    """Against the numbers that the blocks hold; the kernel rounds what it multiplies them with to eight bits."""
    spec, x = CASES[name], inputs()
    source = in_blocks(checkpoint(spec, is_fused=name in FUSED), 8 if precision == "int8" else 4)
    result = run(source, tmp_path, Plan.of(precision, "cpu"), x, through(spec))  # type: ignore[arg-type]
    wanted = expected(spec, source.arrays, x)
    # Most seen: 0.0145 of the spread.
    assert (result - wanted).std() < 0.02 * wanted.std()


@pytest.mark.parametrize("name", CASES)
def test_half_precision(tmp_path: Path, name: str) -> None:
    spec, x = CASES[name], inputs()
    tensors = checkpoint(spec, is_fused=name in FUSED)
    result = run(Arrays(tensors), tmp_path, Plan.of("f16", "cpu"), x, through(spec))
    wanted = expected(spec, tensors, x)
    # Most seen: 0.005 of the spread; none of these tokens' choices is so close that rounding decides it.
    np.testing.assert_allclose(result, wanted, atol=0.01 * wanted.std())


def in_blocks(tensors: dict[str, FloatArray], bits: int) -> Arrays:
    """The experts' matrices as integers of so many bits in blocks of 32, which are kept."""
    blocks = {
        name: quantize(tensor, bits=8 if bits == 8 else 4, block_size=32)
        for name, tensor in tensors.items()
        if ".experts." in name and tensor.ndim == 2
    }
    return Arrays(tensors, blocks)


def test_a_router_stays_a_float(tmp_path: Path) -> None:
    run(in_blocks(checkpoint(PLAIN), 8), tmp_path, Plan.of("int8", "cpu"), inputs(), through(PLAIN))
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node]
    assert kinds == ["MatMul", "Reshape", "QMoE", "Identity"]


def test_a_shared_expert_has_a_gate(tmp_path: Path) -> None:
    spec = MlpSpec(size=SIZE, name="mlp.shared", output_gate="mlp.shared_gate")
    rng, x = np.random.default_rng(5), inputs()
    shapes = {"gate_proj": (SIZE, HIDDEN), "up_proj": (SIZE, HIDDEN), "down_proj": (HIDDEN, SIZE)}
    tensors = {f"{PREFIX}.shared.{name}.weight": rng.standard_normal(shape) / 8 for name, shape in shapes.items()}
    tensors[f"{PREFIX}.shared_gate.weight"] = rng.standard_normal((1, HIDDEN)) / 8
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    result = run(Arrays(tensors), tmp_path, Plan.of("f32", "cpu"), x, lambda ctx: mlp.finish(ctx, spec, "x", 0))
    g, u = (x @ tensors[f"{PREFIX}.shared.{name}.weight"].T for name in ("gate_proj", "up_proj"))
    inner = g / (1 + np.exp(-g)) * u
    share = 1 / (1 + np.exp(-(x @ tensors[f"{PREFIX}.shared_gate.weight"].T)))
    np.testing.assert_allclose(result, share * (inner @ tensors[f"{PREFIX}.shared.down_proj.weight"].T), atol=1e-5)


def test_sizes_that_no_block_divides_are_refused(tmp_path: Path) -> None:
    spec = replace(PLAIN, size=40)
    tensors = checkpoint(spec)
    with pytest.raises(UnsupportedModelError, match=r"map 64 and 40 elements: blocks of 16 weights must divide them"):
        run(Arrays(tensors), tmp_path, Plan.of("int8", "cpu"), inputs(), through(spec))
