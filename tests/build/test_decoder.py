"""The graph itself: what it is made of, that it is valid, and that the ONNX reference evaluator agrees with it."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from genai import contract
from genai.build.package import build_package
from genai.config import CONTRACT_VERSION, ModelConfig
from genai.contract import TensorType, check_signature
from tests.build import tiny
from tests.families.cases import CASES, MODEL_TYPES
from tests.families.cases.gemma_gpt_oss import GEMMA4
from tests.families.made import save

torch = pytest.importorskip("torch")

OPTIONS: dict[str, Any] = {
    "gemma4_text": GEMMA4,
    "gemma3_text": {"head_dim": 32, "sliding_window": 5, "final_logit_softcapping": 8.0, "attn_logit_softcapping": 4.0},
}
RAGGED = [tiny.tokens(19), tiny.tokens(6, seed=1)]


def build(model_type: str, folder: Path, **options: Any) -> Path:
    return tiny.build(tiny.make_model(model_type, **OPTIONS.get(model_type, {})), folder, **options)


def graph_of(package: Path) -> onnx.ModelProto:
    return onnx.load(package / "model.onnx", load_external_data=False)


def attentions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Each layer's Attention of several tokens; that of one stands in the other branch."""
    branches = [(each.name, each.g) for node in model.graph.node if node.op_type == "If" for each in node.attribute]
    return [
        node
        for name, branch in branches
        if name == "else_branch"
        for node in branch.node
        if node.op_type == "Attention"
    ]


def tensor_types(values: Any) -> list[TensorType]:
    return [
        TensorType(
            name=value.name,
            dtype=onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            shape=tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim),
        )
        for value in values
    ]


@pytest.fixture(scope="module", name="kinds")
def kinds_fixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packages in f32 that together have every form of every operator that any family has, by the families' names.

    Families whose operators another has all are left out, and those with experts, which no standard operator computes.
    """
    folder, seen, result = tmp_path_factory.mktemp("kinds"), set(), {}
    for model_type, name in MODEL_TYPES.items():
        if CASES[name].tower is not None:
            continue
        save(CASES[name], folder / model_type)
        package = build_package(folder / model_type, folder / f"{model_type}-package", precision="f32")
        forms = forms_of(graph_of(package).graph)
        if not forms <= seen and not any(domain for domain, *_ in forms):
            seen |= forms
            result[model_type] = package
    return result


def forms_of(graph: onnx.GraphProto) -> set[tuple[str, str, frozenset[str], int]]:
    """Operators as (domain, name, attributes, inputs), those within others too."""
    found = set()
    for node in graph.node:
        attributes = frozenset(attribute.name for attribute in node.attribute)
        found.add((node.domain, node.op_type, attributes, sum(map(bool, node.input))))
        for attribute in node.attribute:
            found |= forms_of(attribute.g) if attribute.HasField("g") else set()
    return found


def test_f32_graphs_are_standard_and_valid(kinds: dict[str, Path]) -> None:
    assert len(kinds) > 8
    for package in kinds.values():
        check_standard(package)


def check_standard(package: Path) -> None:
    model = graph_of(package)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 24)]
    assert model.ir_version == 11
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(package / "model.onnx", full_check=True)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(package / "model.onnx"), strict_mode=True, data_prop=True)
    assert {tensor.dtype for tensor in tensor_types(inferred.graph.value_info)} <= {"float32", "int64", "bool"}
    config = ModelConfig.read(package)
    shape = check_signature(tensor_types(model.graph.input), tensor_types(model.graph.output))
    width = config.num_kv_heads * config.head_dim
    assert shape.output.width == tiny.VOCAB_SIZE
    if config.contract_version == CONTRACT_VERSION:
        assert shape.caches == contract.uniform_caches(config.num_layers, width)


def test_the_reference_evaluator_agrees(kinds: dict[str, Path]) -> None:
    """Operators as ONNX defines them, nothing replaced: prefill of a ragged batch, then two decoding steps."""
    for package in kinds.values():
        check_in_the_evaluator(package)


def check_in_the_evaluator(package: Path) -> None:
    evaluator = ReferenceEvaluator(str(package / "model.onnx"))
    graphs = [tiny.Graph(package, 2), tiny.Graph(package, 2, run=lambda feeds: evaluator.run(None, feeds))]
    for rows in (RAGGED, [[7], [8]], [[9], [10]]):
        ours, reference = (graph.add(*rows) for graph in graphs)
        for actual, wanted in zip(ours, reference, strict=True):
            np.testing.assert_allclose(actual, wanted, atol=1e-4, rtol=0)
    for name, cache in graphs[0].caches.items():
        for row, length in enumerate(graphs[0].valid):
            np.testing.assert_allclose(cache[row, :length], graphs[1].caches[name][row, :length], atol=1e-4, rtol=0)


def attention(num_tokens: int, mask: bool = False) -> onnx.ModelProto:
    """Attention alone as the decoder uses it: 4 query heads and 2 key/value heads of 8."""
    floats = {"q": ["B", num_tokens, 32], "k": ["B", "S", 16], "v": ["B", "S", 16]}
    inputs = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in floats.items()]
    inputs.append(onnx.helper.make_tensor_value_info("valid", 7, ["B"]))
    inputs += [onnx.helper.make_tensor_value_info("mask", 1, ["B", 1, num_tokens, "S"])] if mask else []
    node = onnx.helper.make_node(
        "Attention", ["q", "k", "v", "mask" if mask else "", "", "", "valid"], ["y"],
        is_causal=1, q_num_heads=4, kv_num_heads=2, scale=0.3, softcap=2.0,
    )  # fmt: skip
    output = onnx.helper.make_tensor_value_info("y", 1, ["B", num_tokens, 32])
    graph = onnx.helper.make_graph([node], "attention", inputs, [output])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)], ir_version=11)


def attention_in_numpy(feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Query t of a row sees key j iff j <= t + valid - T: bottom-right alignment; scores are capped before the mask."""
    q, k, v = (feeds[name].reshape(*feeds[name].shape[:2], -1, 8).transpose(0, 2, 1, 3) for name in "qkv")
    k, v = k.repeat(2, axis=1), v.repeat(2, axis=1)
    num_tokens, capacity = q.shape[2], k.shape[2]
    scores = 2.0 * np.tanh(0.3 * q @ k.swapaxes(-1, -2) / 2.0)
    newest = feeds["valid"][:, None, None, None] - num_tokens + np.arange(num_tokens)[:, None]
    scores = np.where(np.arange(capacity) <= newest, scores + feeds.get("mask", 0), -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(feeds["q"].shape)


@pytest.mark.parametrize("num_tokens", [1, 5])
@pytest.mark.parametrize("has_mask", [False, True])
def test_attention_means_the_same_everywhere(num_tokens: int, has_mask: bool) -> None:
    """ONNX Runtime, the reference evaluator and NumPy, with rows of different length."""
    import onnxruntime

    rng = np.random.default_rng(0)
    feeds = {"q": rng.standard_normal((2, num_tokens, 32), np.float32), "valid": np.array([num_tokens, 11], np.int64)}
    feeds |= {name: rng.standard_normal((2, 12, 16), np.float32) for name in "kv"}
    if has_mask:  # a window of 3 keys
        newest = feeds["valid"][:, None, None] - num_tokens + np.arange(num_tokens)[:, None]
        feeds["mask"] = np.where(np.arange(12) < newest - 2, -np.inf, 0).astype(np.float32)[:, None]
    model = attention(num_tokens, has_mask)
    wanted = attention_in_numpy(feeds)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, feeds)[0], wanted, atol=1e-5)
    np.testing.assert_allclose(session.run(None, feeds)[0], wanted, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gemma4_text"])
def test_only_the_wanted_positions_get_logits(tmp_path: Path, model_type: str) -> None:
    """Wherever they are: of Gemma 4's layers the last, with windows and without, see nothing else of the tokens."""
    package = build(model_type, tmp_path)
    session, graph = tiny.load_session(package), tiny.Graph(package, 2)
    whole = graph.add(*RAGGED)
    feeds = {
        contract.INPUT_IDS: np.array([RAGGED[0], RAGGED[1] + [0] * 13]),
        contract.POSITION_IDS: np.tile(np.arange(19), (2, 1)),
        contract.WRITE_INDICES: np.zeros(2, np.int64),
        contract.NONPAD_KV_SEQLEN: np.full(2, 19),
        contract.LOGITS_POSITIONS: np.array([[18, 3, 0], [5, 5, 1]]),
    }
    caches = {name: np.zeros_like(cache) for name, cache in graph.caches.items()}
    logits = session.run([contract.LOGITS], feeds | caches)[0]
    assert logits.shape == (2, 3, tiny.VOCAB_SIZE)
    tolerance = 1e-5 * whole[0].std()  # most seen: 3e-6
    np.testing.assert_allclose(logits[0], whole[0][[18, 3, 0]], atol=tolerance)
    np.testing.assert_allclose(logits[1], whole[1][[5, 5, 1]], atol=tolerance)


def test_layers_that_read_anothers_keys_run_for_the_wanted_positions_alone(tmp_path: Path) -> None:
    model = graph_of(build("gemma4_text", tmp_path))
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    lengths = {tensor.name: tensor.shape[1] for tensor in tensor_types(inferred) if len(tensor.shape) > 1}
    reading = attentions(model)[5:]
    sources = ["key_cache.3", "key_cache.3", "key_cache.4"]
    assert [node.input[1] for node in reading] == [contract.updated(source) for source in sources]
    assert lengths[reading[0].input[0]] == "P"  # of what follows a choice of two branches no length is inferred
    caches = contract.caches_of(tensor_types(model.graph.input))
    assert [(cache.layer, cache.width) for cache in caches if cache.is_key] == [
        (0, 32), (1, 32), (2, 64), (3, 32), (4, 64)
    ]  # fmt: skip


def test_what_stands_behind_the_valid_part_does_not_matter(tmp_path: Path) -> None:
    package = build("gemma3_text", tmp_path)
    clean, dirty = tiny.Graph(package), tiny.Graph(package)
    for cache in dirty.caches.values():
        cache[:] = np.random.default_rng(0).standard_normal(cache.shape) * 100
    for rows in ([tiny.tokens(23)], [[5]]):
        np.testing.assert_array_equal(clean.add(*rows)[0], dirty.add(*rows)[0])


def test_products_of_one_input_are_one_product(tmp_path: Path) -> None:
    kinds = Counter(node.op_type for node in graph_of(build("llama", tmp_path)).graph.node)
    assert kinds["MatMul"] == 3 * 4  # q/k/v, o, gate/up, down
    assert kinds["Gemm"] == 1
    assert kinds["TensorScatter"] == 3 * 2
    assert kinds["Cos"] == kinds["Sin"] == 1


@pytest.mark.parametrize("precision", ["f32", "int8", "int4"])
def test_a_tied_head_is_stored_once(tmp_path: Path, precision: str) -> None:
    sizes = {}
    for is_tied in (True, False):
        model = tiny.make_model("llama", tie_word_embeddings=is_tied)
        package = tiny.build(model, tmp_path / str(is_tied), precision=precision)
        sizes[is_tied] = (package / "model.onnx.data").stat().st_size
        onnx.checker.check_model(package / "model.onnx")
        uses = Counter(name for node in graph_of(package).graph.node for name in node.input)
        shared = "model.embed_tokens" + ("" if precision == "f32" else ".blocks")
        assert uses[shared] == (2 if is_tied else 1)
    table = tiny.VOCAB_SIZE * 64 * (4 if precision == "f32" else 1)
    assert sizes[False] - sizes[True] >= table


def test_external_data_holds_every_weight_and_little_else(tmp_path: Path) -> None:
    package = build("qwen2", tmp_path)
    model = graph_of(package)
    stored = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert sum(tensor.ByteSize() for tensor in model.graph.initializer) < 20_000
    places = sorted((int(t.external_data[1].value), int(t.external_data[2].value)) for t in stored)
    for (start, length), (following, _) in itertools.pairwise(places):
        assert start + length <= following
    assert sum(places[-1]) == (package / "model.onnx.data").stat().st_size
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["precision"] == "f32"
    assert metadata["sha256"] == ModelConfig.read(package).provenance.sha256


def test_a_shorter_context_drops_windows_that_cannot_bite(tmp_path: Path) -> None:
    folder = tiny.save(tiny.make_model("mistral", sliding_window=32), tmp_path / "checkpoint")
    for limit, window in ((64, 32), (32, None), (16, None), (1000, 32)):
        package = build_package(folder, tmp_path / "package", precision="f32", max_seq_len=limit)
        config = ModelConfig.read(package)
        assert (config.max_position, config.sliding_window) == (min(limit, 256), window)
        has_mask = any(node.input[3] for node in attentions(graph_of(package)))
        assert has_mask == (window is not None)
