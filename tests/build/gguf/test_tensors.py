"""Stacked experts one by one, blocks that predict further tokens, and lists of one value per layer."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import HealthCheck, given, settings

from genai.build.gguf.blocks import BLOCK_FORMATS
from genai.build.gguf.file import GgufFile
from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.source import GgufSource
from genai.errors import UnsupportedModelError, WeightsError
from tests.build.gguf.test_blocks import random_blocks
from tests.build.gguf.test_file import MUTATIONS, NOT_DEQUANTIZED

RNG = np.random.default_rng(3)
E, M, K = 5, 6, 256
FLOATS = ("F32", "F16", "BF16")
BLOCKS = [kind.name for kind in GGMLQuantizationType if GGML_QUANT_SIZES[kind][0] > 1]
READABLE = [*FLOATS, *(name for name in BLOCKS if name not in NOT_DEQUANTIZED)]


def stack(name: str, *shape: int) -> np.ndarray:
    """Bytes, or numbers, of a stack of matrices in a type."""
    if name == "F32":
        return RNG.standard_normal(shape).astype(np.float32)
    if name == "F16":
        return RNG.standard_normal(shape).astype(np.float16)
    elements, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    rows = int(np.prod(shape[:-1]))
    if name in BLOCK_FORMATS:
        raw = random_blocks(name, rows, shape[-1] // elements)
    else:
        raw = RNG.integers(0, 60, (rows, shape[-1] // elements * nbytes), dtype=np.uint8)
    return raw.reshape(*shape[:-1], -1)


def numbers(raw: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(gguf.dequantize(raw, GGMLQuantizationType[name]), np.float32)


def write(
    path: Path,
    tensors: Mapping[str, tuple[np.ndarray, str]],
    *,
    arch: str = "experts",
    num_blocks: int = 1,
    change: Callable[[Any], None] = lambda writer: None,
) -> Path:
    """A file of the size of a model of `num_blocks` blocks, with these tensors beside one norm in each."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(num_blocks)
    writer.add_context_length(64)
    writer.add_embedding_length(K)
    writer.add_feed_forward_length(M)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(E)
    change(writer)
    tensors = {"token_embd.weight": (np.ones((8, K), np.float32), "F32"), **tensors}
    for block in range(num_blocks):
        tensors.setdefault(f"blk.{block}.attn_norm.weight", (np.ones(K, np.float32), "F32"))
    for name, (tensor, kind) in tensors.items():
        writer.add_tensor(name, tensor, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def name_of(expert: int, part: str, kind: str = "weight") -> str:
    return f"model.layers.0.mlp.experts.{expert}.{part}_proj.{kind}"


@pytest.mark.parametrize("kind", READABLE)
def test_every_expert_reads_as_its_part_of_the_stack(tmp_path: Path, experts_arch: str, kind: str) -> None:
    stacks = {part: stack(kind, E, M, K) for part in ("gate", "up")} | {"down": stack(kind, E, K, 256)}
    path = write(
        tmp_path / "m.gguf", {f"blk.0.ffn_{part}_exps.weight": (tensor, kind) for part, tensor in stacks.items()}
    )
    with GgufSource(path) as source:
        assert {name for name in source.names() if ".experts." in name} == {
            name_of(expert, part) for expert in range(E) for part in stacks
        }
        for part, tensor in stacks.items():
            expected = numbers(tensor, kind)
            for expert in range(E):
                name = name_of(expert, part)
                assert source.shape(name) == expected.shape[1:]
                np.testing.assert_array_equal(source.read(name), expected[expert])
                block = source.read_blocks(name)
                assert (block is not None) == (kind in BLOCK_FORMATS)
                if block is not None:
                    # As in test_blocks.py: with offsets, only the order of one addition differs.
                    largest = 0.0 if block.offsets is None else max(np.abs(expected).max(), np.abs(block.offsets).max())
                    np.testing.assert_allclose(block.dequantize(), expected[expert], rtol=0, atol=3e-7 * largest)


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_K", "MXFP4"])
def test_gate_and_up_in_one_stack(tmp_path: Path, experts_arch: str, kind: str) -> None:
    both, biases = stack(kind, E, 2 * M, K), stack("F32", E, 2 * M)
    tensors = {"blk.0.ffn_gate_up_exps.weight": (both, kind), "blk.0.ffn_gate_up_exps.bias": (biases, "F32")}
    expected = numbers(both, kind)
    with GgufSource(write(tmp_path / "m.gguf", tensors)) as source:
        for expert in range(E):
            for part, rows in (("gate", slice(0, M)), ("up", slice(M, 2 * M))):
                np.testing.assert_array_equal(source.read(name_of(expert, part)), expected[expert, rows])
                np.testing.assert_array_equal(source.read(name_of(expert, part, "bias")), biases[expert, rows])


def test_biases_and_experts_of_their_own(tmp_path: Path, experts_arch: str) -> None:
    biases, alone = stack("F32", E, M), stack("Q8_0", M, K)
    tensors = {"blk.0.ffn_up_exps.bias": (biases, "F32"), "blk.0.ffn_gate.3.weight": (alone, "Q8_0")}
    with GgufSource(write(tmp_path / "m.gguf", tensors)) as source:
        np.testing.assert_array_equal(source.read(name_of(4, "up", "bias")), biases[4])
        assert source.read_blocks(name_of(4, "up", "bias")) is None
        np.testing.assert_array_equal(source.read(name_of(3, "gate")), numbers(alone, "Q8_0"))


def test_one_expert_is_read_without_the_others(tmp_path: Path, experts_arch: str) -> None:
    big = np.zeros((64, 256, 512 // 32 * 34), np.uint8)
    path = write(
        tmp_path / "m.gguf", {"blk.0.ffn_gate_exps.weight": (big, "Q8_0")}, change=lambda w: w.add_expert_count(64)
    )
    with GgufSource(path) as source:
        tracemalloc.start()
        try:
            source.read(name_of(63, "gate"))
            source.read_blocks(name_of(63, "gate"))
            assert tracemalloc.get_traced_memory()[1] < big.nbytes / 2  # measured: 2.2 of 8.9 MB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("tensor", "shape", "match"),
    [
        ("ffn_gate_exps.weight", (E + 1, M, K), r"\(6, 6, 256\), which is no stack of 5 experts"),
        ("ffn_gate_exps.weight", (E, K), "no stack of 5 experts"),
        ("ffn_gate_exps.bias", (E, M, K), "no stack of 5 experts"),
        ("ffn_gate_up_exps.weight", (E, 7, K), "no stack of 5 experts"),
    ],
)
def test_what_is_no_stack_is_refused(
    tmp_path: Path, experts_arch: str, tensor: str, shape: tuple[int, ...], match: str
) -> None:
    path = write(tmp_path / "m.gguf", {f"blk.0.{tensor}": (stack("F32", *shape), "F32")})
    with pytest.raises(WeightsError, match=match) as caught:
        GgufSource(path)
    assert str(path) in str(caught.value)


def test_the_same_expert_twice_is_refused(tmp_path: Path, experts_arch: str) -> None:
    tensors = {
        "blk.0.ffn_gate_up_exps.weight": (stack("F32", E, 2 * M, K), "F32"),
        "blk.0.ffn_up_exps.weight": (stack("F32", E, M, K), "F32"),
    }
    with pytest.raises(
        WeightsError, match=r"gate_up_exps.*and 'blk.0.ffn_up_exps.weight\[0\]' are both model.layers.0"
    ):
        GgufSource(write(tmp_path / "m.gguf", tensors))


def test_parts_of_a_tensor_are_bounded(tmp_path: Path) -> None:
    tensors = {
        "stack": (stack("Q4_0", 3, 4, 64), "Q4_0"),
        "row": (stack("Q4_0", 1, 64)[0], "Q4_0"),
        "vector": (stack("F32", 8), "F32"),
    }
    with GgufFile(write(tmp_path / "m.gguf", tensors, arch="llama")) as file:
        info = file.info("stack")
        np.testing.assert_array_equal(file.read(info.item(2).rows(1, 3)), file.read("stack")[2, 1:3])
        np.testing.assert_array_equal(file.read(file.info("vector").rows(2, 5)), file.read("vector")[2:5])
        for start, stop in ((-1, 1), (0, 4), (2, 2), (3, 4)):
            with pytest.raises(WeightsError, match=r"'stack' of \(3, 4, 64\) \(Q4_0\) has no part"):
                info.rows(start, stop)
        with pytest.raises(WeightsError, match="no part 0:32"):
            file.info("row").rows(0, 32)  # within a block, whatever the numbers
        with pytest.raises(WeightsError, match="is no stack"):
            file.info("vector").item(0)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=MUTATIONS)
def test_any_mutation_of_stacks_reads_or_is_refused(
    tmp_path: Path, experts_arch: str, mutations: list[tuple[int, bytes]]
) -> None:
    original = tmp_path / "original.gguf"
    if not original.exists():
        tensors = {
            "blk.0.ffn_gate_up_exps.weight": (stack("Q8_0", E, 2 * M, 32), "Q8_0"),
            "blk.0.ffn_down_exps.bias": (stack("F32", E, 8), "F32"),
        }
        write(original, tensors)
    content = bytearray(original.read_bytes())
    for position, patch in mutations:
        start = position % len(content)
        content[start : start + len(patch)] = patch
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    try:
        with GgufSource(path) as source:
            for name in source.names():
                assert source.read(name).shape == source.shape(name)
                source.read_blocks(name)
    except (WeightsError, UnsupportedModelError) as error:
        assert "\n" not in str(error)  # noqa: PT017


def predicting(num_nextn: int, *blocks: int) -> dict[str, Any]:
    return {
        "change": lambda w: w.add_nextn_predict_layers(num_nextn),
        "tensors": {f"blk.{block}.nextn.eh_proj.weight": (stack("F32", 4, 4), "F32") for block in blocks},
    }


def test_blocks_that_predict_further_tokens_are_left_out(
    tmp_path: Path, experts_arch: str, caplog: pytest.LogCaptureFixture
) -> None:
    with GgufSource(write(tmp_path / "m.gguf", num_blocks=4, **predicting(1, 3))) as source:
        assert source.config["num_hidden_layers"] == 3
        assert not any("layers.3" in name or "nextn" in name for name in source.names())
        assert "model.layers.2.input_layernorm.weight" in source.names()
    assert [record.message for record in caplog.records if record.name.startswith("genai")] == [
        f"{tmp_path / 'm.gguf'}: block 3 predicts further tokens and is left out"
    ]


def test_converters_may_have_left_them_out(tmp_path: Path, experts_arch: str) -> None:
    """The key stays, and the blocks are counted or not."""
    path = write(tmp_path / "counted.gguf", {}, num_blocks=3, change=lambda w: (
        w.add_nextn_predict_layers(1), w.kv_data[0].pop("experts.block_count"), w.add_block_count(4)))  # fmt: skip
    assert GgufSource(path).config["num_hidden_layers"] == 3
    path = write(tmp_path / "not.gguf", num_blocks=3, **predicting(1))
    assert GgufSource(path).config["num_hidden_layers"] == 3


@pytest.mark.parametrize(("num_nextn", "blocks"), [(0, (3,)), (1, (2,)), (2, (3,)), (1, (2, 3)), (4, (0, 1, 2, 3))])
def test_other_blocks_that_predict_are_refused(
    tmp_path: Path, experts_arch: str, num_nextn: int, blocks: tuple[int, ...]
) -> None:
    with pytest.raises(WeightsError, match=r"predict further tokens, but|tensors for 4 layers"):
        GgufSource(write(tmp_path / "m.gguf", num_blocks=4, **predicting(num_nextn, *blocks)))


def changed(key: str, value: Any) -> Callable[[Any], None]:
    def change(writer: Any) -> None:
        writer.kv_data[0].pop(f"experts.{key}", None)
        if isinstance(value, list):
            writer.add_array(f"experts.{key}", value)
        else:
            writer.add_uint32(f"experts.{key}", value)

    return change


def metadata(path: Path, key: str, value: Any, num_blocks: int = 3) -> ArchitectureMetadata:
    return ArchitectureMetadata(
        GgufFile(write(path / "m.gguf", {}, num_blocks=num_blocks, change=changed(key, value))), "experts"
    )


def test_lists_of_one_value_per_layer(tmp_path: Path) -> None:
    assert metadata(tmp_path, "attention.head_count_kv", [2, 0, 1]).sizes("attention.head_count_kv") == [2, 0, 1]
    assert metadata(tmp_path, "attention.head_count_kv", 2).sizes("attention.head_count_kv") == [2, 2, 2]
    assert metadata(tmp_path, "other", 2).sizes("absent", 7) == [7, 7, 7]
    key = "attention.sliding_window_pattern"
    assert metadata(tmp_path, key, [True, False, True]).flags(key) == [True, False, True]
    assert metadata(tmp_path, key, 4).flags(key) is None
    with pytest.raises(UnsupportedModelError, match="head_count_kv differs from layer to layer"):
        metadata(tmp_path, "attention.head_count_kv", [2, 0, 1]).size("attention.head_count_kv")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([2, 1], r"is '\[2, 1\]'; it should be 3 flags or numbers"),
        ([2, -1, 2], "is '-1'; it should be a whole number, or"),
        ([0.5, 1.0, 2.0], "is '0.5'"),
        (["a", "b", "c"], "a whole number, or a list"),
    ],
)
def test_other_lists_are_refused(tmp_path: Path, value: Any, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        metadata(tmp_path, "feed_forward_length", value).sizes("feed_forward_length")


def test_the_largest_stands_for_all_where_an_architecture_says_so(tmp_path: Path, experts_arch: str) -> None:
    change = changed("feed_forward_length", [6, 12, 0])
    config = GgufSource(write(tmp_path / "m.gguf", {}, num_blocks=3, change=change)).config
    assert config["intermediate_size"] == 12
    # One value more for a block that predicts further tokens.
    blocks = predicting(1, 3)
    blocks["change"] = lambda w: (w.add_nextn_predict_layers(1), changed("feed_forward_length", [6, 7, 8, 99])(w))
    assert GgufSource(write(tmp_path / "n.gguf", num_blocks=4, **blocks)).config["intermediate_size"] == 8


def test_more_experts_than_anybody_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte for each would take hundreds of bytes here."""
    monkeypatch.setattr("genai.build.gguf.tensors.MAX_TENSORS", 2 * E)
    names = [f"blk.0.ffn_{part}_exps.weight" for part in ("gate", "up", "down")]
    path = write(tmp_path / "m.gguf", {name: (stack("F32", E, M, K), "F32") for name in names}, arch="qwen3moe")
    with pytest.raises(UnsupportedModelError, match="has more than 10 tensors, experts counted one by one"):
        GgufSource(path)
