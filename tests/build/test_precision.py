"""Precisions: what is stored and computed in which type, and how far results may be from the original's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import genai.build.weights
from genai.build.architectures import spec_of
from genai.build.architectures.config import ConfigReader
from genai.build.decoder import build_decoder
from genai.build.graph import ExternalData, GraphBuilder
from genai.build.precision import Plan, read_quantized
from genai.build.quantize import quantize, quantize_with_offsets, with_offset_columns
from genai.build.safetensors import SafetensorsSource
from genai.build.source import JSON, BlockWeight, FloatArray
from genai.build.weights import Weights
from genai.config import PRECISIONS, ModelConfig, Precision
from genai.errors import ConfigError, RuntimeUnavailableError
from tests.build import tiny

torch = pytest.importorskip("torch")

GEMMA = {"head_dim": 32, "sliding_window": 5}
ODD = {"hidden_size": 60, "head_dim": 10, "intermediate_size": 77}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "gemma3": ("gemma3_text", GEMMA),
    "granite": ("granite", {"attention_multiplier": 0.3, "residual_multiplier": 0.5, "embedding_multiplier": 2.0}),
    "odd sizes, tied": ("llama", ODD | {"tie_word_embeddings": True}),
    "odd sizes, untied": ("phi3", {"hidden_size": 40, "num_key_value_heads": 4, "intermediate_size": 50}),
}
HALVES = {"f16": "float16", "bf16": "bfloat16"}
PROMPT = tiny.tokens(48)


def logits(package: Path, graph: tiny.Graph | None = None) -> np.ndarray:
    graph = graph or tiny.Graph(package)
    return np.concatenate([graph.add(PROMPT[:40])[0], graph.add(PROMPT[40:])[0]])


def error(actual: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the difference, in units of the logits' own spread."""
    return float(np.sqrt(np.mean((actual - wanted) ** 2)) / wanted.std())


def graph_of(package: Path) -> onnx.ModelProto:
    return onnx.load(package / "model.onnx", load_external_data=False)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


@pytest.mark.parametrize(
    ("precision", "device", "plan"),
    [
        ("f32", "cpu", ("float32", "float", "float")),
        ("f32", "cuda", ("float32", "float", "float")),
        ("f16", "cpu", ("float16", "float", "float")),
        ("bf16", "cuda", ("bfloat16", "float", "float")),
        ("int8", "cpu", ("float32", "int8", "int8")),
        ("int8", "cuda", ("float16", "int8", "int8")),
        ("int4", "cpu", ("float32", "int4", "exact")),
        ("int4", "cuda", ("float16", "int4", "exact")),
        ("auto", "cpu", ("float32", "exact", "exact")),
        ("auto", "cuda", ("float16", "float", "float")),
    ],
)
def test_plans(precision: Precision, device: str, plan: tuple[Any, Any, Any]) -> None:
    dtype, matrices, ends = plan
    assert Plan.of(precision, device) == Plan(dtype=dtype, matrices=matrices, ends=ends)


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"precision='int2': must be one of auto, f32, f16, bf16, int8, int4"):
        Plan.of("int2", "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_types_in_the_graph(tmp_path: Path, model: str, precision: Precision, device: str) -> None:
    model_type, options = MODELS[model]
    package = tiny.build(tiny.make_model(model_type, **options), tmp_path, precision=precision, device=device)
    plan, graph = Plan.of(precision, device), graph_of(package)
    caches = {name: cache.dtype.name for name, cache in tiny.Graph(package, run=lambda _: []).caches.items()}
    assert set(caches.values()) == {plan.dtype} == {ModelConfig.read(package).cache_dtype}
    assert graph.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    domains = {node.domain for node in graph.graph.node}
    assert domains == ({""} if plan.is_standard else {"", "com.microsoft"})
    for node in graph.graph.node:
        given = attributes(node)
        if node.op_type == "RMSNormalization":
            assert given["stash_type"] == onnx.TensorProto.FLOAT
        if node.op_type == "Attention":
            assert given.get("softmax_precision") == (None if plan.dtype == "float32" else onnx.TensorProto.FLOAT)
        if node.op_type == "MatMulNBits":
            stays_wide = "v_proj" in node.input[1] or node.input[1].startswith(("lm_head", "model.embed_tokens"))
            assert given["bits"] == (4 if precision == "int4" and not stays_wide else 8)
            assert given["block_size"] == (64 if given["bits"] == 8 and given["K"] % 64 == 0 else 32)
            assert given.get("accuracy_level") == (4 if device == "cpu" else None)
    onnx.checker.check_model(package / "model.onnx")


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("model", ["llama", "gemma3"])
def test_what_stays_in_float32_among_halves(tmp_path: Path, model: str, precision: Precision) -> None:
    """Angles always, activations in bfloat16, and Gemma's residual stream in float16."""
    model_type, options = MODELS[model]
    package = tiny.build(tiny.make_model(model_type, **options), tmp_path, precision=precision)
    onnx.checker.check_model(package / "model.onnx", full_check=True)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(package / "model.onnx"), strict_mode=True)
    types = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in inferred.graph.value_info
    }
    by_kind: dict[str, set[str]] = {}
    for node in inferred.graph.node:
        if node.output[0] in types:
            by_kind.setdefault(node.op_type, set()).add(types[node.output[0]])
    half = HALVES[precision]
    wide = "float32" if model == "gemma3" and precision == "f16" else half
    assert by_kind["Cos"] == by_kind["Sin"] == {"float32"}
    assert by_kind["Gelu" if model == "gemma3" else "Sigmoid"] == {"float32" if precision == "bf16" else half}
    assert by_kind["MatMul"] == by_kind["Gemm"] == by_kind["Attention"] == by_kind["RotaryEmbedding"] == {half}
    assert types["layer.1/Add"] == wide


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("model", ["llama", "gemma3", "granite"])
def test_halves_are_as_close_as_transformers_own(tmp_path: Path, model: str, precision: Precision) -> None:
    """Rounding errors of the same size: at most twice those that transformers makes in the same type."""
    model_type, options = MODELS[model]
    original = tiny.make_model(model_type, **options)
    package = tiny.build(original, tmp_path, precision=precision)
    evaluator = ReferenceEvaluator(str(package / "model.onnx"))
    run = tiny.in_onnxruntime(package) if precision == "f16" else lambda feeds: evaluator.run(None, feeds)
    wanted = tiny.expected(original, PROMPT)
    theirs = tiny.expected(original.to(getattr(torch, HALVES[precision])), PROMPT)
    assert error(logits(package, tiny.Graph(package, run=run)), wanted) < 2 * error(theirs, wanted)


@pytest.mark.parametrize(("precision", "device", "tolerance"), [("f16", "cpu", 0.01), ("int8", "cuda", 0.05)])
def test_gemmas_large_residual_stream_survives_f16(
    tmp_path: Path, precision: Precision, device: str, tolerance: float
) -> None:
    original = tiny.make_model("gemma3_text", **GEMMA)
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            if "post_" in name:
                parameter.mul_(1e5)
    ids = torch.tensor([PROMPT])
    assert original(ids, output_hidden_states=True).hidden_states[-2].abs().max() > 100_000
    package = tiny.build(original, tmp_path, precision=precision, device=device)
    wanted = tiny.expected(original, PROMPT)
    assert error(logits(package), wanted) < tolerance
    assert not np.isfinite(tiny.expected(original.half(), PROMPT)).all(), "transformers' float16 does not"


def test_bf16_on_the_cpu_is_one_clear_error(tmp_path: Path) -> None:
    package = tiny.build(tiny.make_model("llama"), tmp_path, precision="bf16")
    message = r"Attention in bfloat16 is missing or wrong; build the model in f32, int8 or int4 instead"
    with pytest.raises(RuntimeUnavailableError, match=message) as caught, tiny.loaded(package):
        pass
    assert "\n" not in str(caught.value)


def stored_with_offsets(block: BlockWeight) -> np.ndarray:
    """A weight with offsets as it is in the graph: the offsets are rounded twice, too."""
    rows, columns = block.values.shape
    wide = with_offset_columns(block).dequantize()
    offsets = wide[:, columns:].reshape(rows, 2, -1).sum(axis=1)[:, : columns // block.block_size]
    return wide[:, :columns] + np.repeat(offsets, block.block_size, axis=1)


def rounded(weight: np.ndarray, bits: Any) -> np.ndarray:
    """A weight in 4-bit blocks of 32 with offsets, else in blocks of 64, of 32 if its rows are no multiple of 64."""
    if bits == 4 and weight.shape[1] % 32 == 0:
        return stored_with_offsets(quantize_with_offsets(weight))
    block_size = 64 if weight.shape[1] % 64 == 0 else 32
    block = quantize(weight, bits=bits, block_size=block_size)
    scales = np.repeat(block.scales, block_size, axis=1)[:, : weight.shape[1]]
    return scales * (block.values.astype(np.float32) - 2 ** (bits - 1))


@pytest.mark.parametrize("accuracy_level", [0, 4])
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("model", MODELS)
def test_integers_compute_what_their_weights_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, precision: Precision, accuracy_level: int
) -> None:
    """Against the original with its weights rounded alike: exact but for level 4, which rounds activations to 8 bits.

    That costs 3 to 4 % of the logits' spread on random weights; 6 % are allowed.
    """
    monkeypatch.setattr(genai.build.weights, "ACCURACY_LEVEL", accuracy_level)
    model_type, options = MODELS[model]
    original = tiny.make_model(model_type, **options)
    package = tiny.build(original, tmp_path, precision=precision)
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            if parameter.dim() == 2:
                bits = 4 if precision == "int4" and "_proj" in name and ".v_proj" not in name else 8
                parameter.copy_(torch.from_numpy(rounded(parameter.numpy(), bits)))
    wanted = tiny.expected(original, PROMPT)
    assert error(logits(package), wanted) < (0.06 if accuracy_level else 1e-5)


class BlockSource:
    """A checkpoint whose matrices are held in blocks, of another form for each: what `read` gives is exact."""

    def __init__(self, source: SafetensorsSource, forms: Sequence[tuple[int, int, bool]]) -> None:
        self._source = source
        self._forms = forms

    @property
    def config(self) -> Mapping[str, JSON]:
        return self._source.config

    def names(self) -> Collection[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        block = self.read_blocks(name, rows)
        return self._source.read(name, rows) if block is None else block.dequantize()

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        if len(self.shape(name)) != 2:
            return None
        bits, block_size, has_offsets = self._forms[sum(name.encode()) % len(self._forms)]
        block = quantize(self._source.read(name, rows), bits=bits, block_size=block_size)  # type: ignore[arg-type]
        offsets = block.scales * np.sin(np.arange(block.scales.shape[1], dtype=np.float32)) if has_offsets else None
        return BlockWeight(values=block.values, scales=block.scales, bits=bits, block_size=block_size, offsets=offsets)


SYMMETRIC, WITH_OFFSETS = ((4, 32, False), (8, 64, False), (8, 32, False)), ((4, 32, True), (4, 16, True))
ROUNDED_ANEW = ((8, 16, False), (8, 32, True))


def build_from_blocks(folder: Path, precision: Precision, forms: Sequence[tuple[int, int, bool]]) -> onnx.ModelProto:
    with SafetensorsSource(folder) as checkpoint, ExternalData(folder / "model.onnx.data") as data:
        source = BlockSource(checkpoint, forms)
        weights = Weights(GraphBuilder(data), source, Plan.of(precision, "cpu"))
        model = build_decoder(spec_of(ConfigReader(source.config)), weights, {})
    onnx.save(model, folder / "model.onnx")
    return model


@pytest.mark.parametrize("is_tied", [True, False])
def test_auto_holds_a_files_own_blocks_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_tied: bool) -> None:
    """Weights of different forms that read one value are products of their own."""
    monkeypatch.setattr(genai.build.weights, "ACCURACY_LEVEL", 0)
    folder = tiny.save(tiny.make_model("llama", tie_word_embeddings=is_tied), tmp_path)
    build_from_blocks(folder, "f32", SYMMETRIC)
    wanted = logits(folder)
    model = build_from_blocks(folder, "auto", SYMMETRIC)
    assert error(logits(folder), wanted) < 1e-5
    forms = {
        (given["bits"], given["block_size"])
        for node in model.graph.node
        if node.op_type == "MatMulNBits" and (given := attributes(node))
    }
    assert {(4, 32), (8, 32), (8, 64)} == forms
    for precision, bits in (("int8", {8}), ("int4", {4, 8})):
        model = build_from_blocks(folder, precision, SYMMETRIC)
        assert {attributes(node)["bits"] for node in model.graph.node if node.op_type == "MatMulNBits"} == bits
        assert error(logits(folder), wanted) < (1e-5 if precision == "int8" else 1.0)


@pytest.mark.parametrize("precision", ["auto", "int4"])
def test_offsets_are_further_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision) -> None:
    """Of 4-bit blocks of any length; what is off here is the embedding's and the head's, which are 8-bit: 3 %."""
    monkeypatch.setattr(genai.build.weights, "ACCURACY_LEVEL", 0)
    folder = tiny.save(tiny.make_model("llama", tie_word_embeddings=False), tmp_path)
    build_from_blocks(folder, "f32", WITH_OFFSETS)
    wanted = logits(folder)
    model = build_from_blocks(folder, precision, WITH_OFFSETS)
    assert error(logits(folder), wanted) < 0.05
    products = [attributes(node) for node in model.graph.node if node.op_type == "MatMulNBits"]
    inside = [(given["bits"], given["K"]) for given in products[:-1]]
    assert {bits for bits, _ in inside} == {4}
    assert {size for _, size in inside} == {64 + 2 * 32, 64 + 2 * 16, 96 + 2 * 32, 96 + 2 * 16}


@pytest.mark.parametrize(("form", "block_size"), [((8, 32, False), 32), ((8, 32, True), 32), ((8, 16, False), 64)])
def test_blocks_of_what_has_8_bits(tmp_path: Path, form: tuple[int, int, bool], block_size: int) -> None:
    """Those of a file's own that have offsets keep their length when they are rounded anew."""
    with SafetensorsSource(tiny.save(tiny.make_model("llama"), tmp_path)) as checkpoint:
        source = BlockSource(checkpoint, [form])
        name = "model.layers.0.self_attn.q_proj.weight"
        block = read_quantized(source, name, "exact", may_have_offsets=True)
        wanted = source.read(name)
    assert (block.bits, block.block_size, block.offsets) == (8, block_size, None)
    assert error(block.dequantize(), wanted) < 0.01


def test_other_blocks_are_rounded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8-bit blocks of 16, and those with offsets, in 8 bits: 3 % of the logits' spread on these random weights."""
    monkeypatch.setattr(genai.build.weights, "ACCURACY_LEVEL", 0)
    folder = tiny.save(tiny.make_model("llama"), tmp_path)
    build_from_blocks(folder, "f32", ROUNDED_ANEW)
    wanted = logits(folder)
    build_from_blocks(folder, "auto", ROUNDED_ANEW)
    assert error(logits(folder), wanted) < 0.05
