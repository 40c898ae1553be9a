"""Experts as the operators read them: which blocks are kept exactly, in what order, and one expert at a time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from genai.build.experts import BlockForm, StoredExperts, store_experts
from genai.build.gguf.blocks import BLOCK_FORMATS, block_weight
from genai.build.graph import ExternalData, GraphBuilder
from genai.build.precision import Plan
from genai.build.quantize import quantize
from genai.build.source import BlockWeight, FloatArray
from genai.build.spec import MoeSpec, RouterSpec
from genai.build.weights import Weights
from tests.build.gguf.test_blocks import random_blocks
from tests.build.parts.test_moe import PREFIX, Arrays

EXPERTS, HIDDEN, SIZE = 3, 256, 512
SPEC = MoeSpec(num_experts=EXPERTS, top_k=2, size=SIZE, router=RouterSpec())
SHAPES = {"gate_proj": (SIZE, HIDDEN), "up_proj": (SIZE, HIDDEN), "down_proj": (HIDDEN, SIZE)}
KEPT = [name for name, form in BLOCK_FORMATS.items() if not form.has_offsets]


def names() -> list[tuple[str, tuple[int, int]]]:
    return [(f"{PREFIX}.experts.{e}.{name}.weight", shape) for e in range(EXPERTS) for name, shape in SHAPES.items()]


def of_file(kinds: Mapping[str, str]) -> Arrays:
    """Experts in a GGUF file's formats, by matrix."""
    blocks = {}
    for name, (rows, columns) in names():
        kind = kinds[name.split(".")[-2]]
        block = block_weight(random_blocks(kind, rows, columns // BLOCK_FORMATS[kind].elements), kind)
        assert block is not None
        blocks[name] = block
    return Arrays({}, blocks)


def store(source: Arrays, folder: Path, precision: str) -> tuple[StoredExperts, FloatArray, FloatArray]:
    """What was stored, and the numbers of both stacks, gate before up again: [E, 2·I, H], [E, H, I]."""
    with ExternalData(folder / "data") as data:
        graph = GraphBuilder(data)
        weights = Weights(graph, source, Plan.of(precision, "cpu"))  # type: ignore[arg-type]
        stored = store_experts(weights, SPEC, PREFIX, HIDDEN)
        weights.refuse_unused()
        tensors = {tensor.name: tensor for tensor in graph.model([], [], {}).graph.initializer}
    raw = (folder / "data").read_bytes()

    def array(name: str | None, dtype: type[np.generic]) -> np.ndarray:
        assert name is not None
        place = {entry.key: entry.value for entry in tensors[name].external_data}
        start, length = int(place["offset"]), int(place["length"])
        return np.frombuffer(raw[start : start + length], dtype).reshape(tensors[name].dims)

    def numbers(parts: tuple[str, str | None, str | None]) -> FloatArray:
        if stored.form is None:
            return array(parts[0], np.float32)
        data = array(parts[0], np.uint8)
        if stored.form.bits == 4:
            data = np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:-1], -1)
        scales = np.repeat(array(parts[1], np.float32), stored.form.block_size, axis=-1)
        return (data.astype(np.float32) - 2 ** (stored.form.bits - 1)) * scales

    inner = numbers(stored.inner)
    return stored, np.concatenate([inner[:, 0::2], inner[:, 1::2]], axis=1), numbers(stored.outer)


def whole(source: Arrays) -> tuple[FloatArray, FloatArray]:
    def stack(name: str) -> FloatArray:
        return np.stack([source.arrays[f"{PREFIX}.experts.{e}.{name}.weight"] for e in range(EXPERTS)])

    return np.concatenate([stack("gate_proj"), stack("up_proj")], axis=1), stack("down_proj")


@pytest.mark.parametrize("down", KEPT)
@pytest.mark.parametrize("inner", KEPT)
def test_a_files_own_blocks_are_kept_exactly(tmp_path: Path, inner: str, down: str) -> None:
    source = of_file({"gate_proj": inner, "up_proj": inner, "down_proj": down})
    stored, *actual = store(source, tmp_path, "auto")
    forms = [BLOCK_FORMATS[inner], BLOCK_FORMATS[down]]
    assert stored.form == BlockForm(
        bits=8 if any(form.bits == 8 for form in forms) else 4, block_size=min(form.block_size for form in forms)
    )
    for ours, theirs in zip(actual, whole(source), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_no_kernel_holds_is_rounded_once_beside_what_is_kept(tmp_path: Path) -> None:
    """Q4_K has offsets; Q6_K has none."""
    source = of_file({"gate_proj": "Q4_K", "up_proj": "Q4_K", "down_proj": "Q6_K"})
    stored, inner, outer = store(source, tmp_path, "auto")
    wanted = whole(source)
    assert stored.form == BlockForm(bits=8, block_size=16)
    np.testing.assert_array_equal(outer, wanted[1])
    rounded = np.stack([quantize(each, bits=8, block_size=16).dequantize() for each in wanted[0]])
    np.testing.assert_array_equal(inner, rounded)


@pytest.mark.parametrize(
    ("precision", "kind", "form"),
    [
        ("int8", "Q4_0", BlockForm(bits=8, block_size=32)),
        ("int8", "Q8_0", BlockForm(bits=8, block_size=32)),
        ("int8", "Q4_K", BlockForm(bits=8, block_size=64)),
        ("int4", "Q4_0", BlockForm(bits=4, block_size=32)),
        ("int4", "Q8_0", BlockForm(bits=4, block_size=32)),
        ("auto", "Q4_K", BlockForm(bits=8, block_size=64)),
    ],
)
def test_forms(tmp_path: Path, precision: str, kind: str, form: BlockForm) -> None:
    source = of_file(dict.fromkeys(SHAPES, kind))
    stored, *actual = store(source, tmp_path, precision)
    assert stored.form == form
    for ours, theirs in zip(actual, whole(source), strict=True):
        # Half a step is 1/254 of a block's largest weight in 8 bits, about 1/16 in 4. Most seen: 0.005 and 0.08.
        assert np.abs(ours - theirs).mean() < (0.01 if form.bits == 8 else 0.15) * np.abs(theirs).mean()


def test_floats_are_kept_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = Arrays({name: rng.standard_normal(shape).astype(np.float32) for name, shape in names()})
    stored, *actual = store(source, tmp_path, "f32")
    assert stored.form is None
    for ours, theirs in zip(actual, whole(source), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_expert_of_another_form_than_the_first_is_rounded(tmp_path: Path) -> None:
    source = of_file(dict.fromkeys(SHAPES, "Q4_0"))
    other = f"{PREFIX}.experts.1.up_proj.weight"
    source.blocks[other] = quantize(source.arrays[other] * 1.1, bits=8, block_size=32)
    source.arrays[other] = source.blocks[other].dequantize()
    stored, inner, outer = store(source, tmp_path, "auto")
    assert stored.form == BlockForm(bits=4, block_size=32)
    wanted = whole(source)
    np.testing.assert_array_equal(inner[0], wanted[0][0])
    np.testing.assert_array_equal(outer, wanted[1])
    assert 0 < np.abs(inner[1] - wanted[0][1]).mean() < 0.2 * np.abs(wanted[0][1]).mean()


class Drawn:
    """A checkpoint of many experts that are made when they are read."""

    config: Mapping[str, object] = {}

    def __init__(self, count: int, shapes: Mapping[str, tuple[int, int]]) -> None:
        self._shapes = {
            f"{PREFIX}.experts.{e}.{name}.weight": shape for e in range(count) for name, shape in shapes.items()
        }

    def names(self) -> list[str]:
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        return np.random.default_rng(0).standard_normal(self._shapes[name], np.float32)

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        return None


@pytest.mark.parametrize("precision", ["f32", "int8", "int4"])
def test_memory_stays_near_one_expert(tmp_path: Path, precision: str) -> None:
    count, shapes = 64, {"gate_proj": (128, 256), "up_proj": (128, 256), "down_proj": (256, 128)}
    spec = MoeSpec(num_experts=count, top_k=2, size=128, router=RouterSpec())
    expert = 4 * 3 * 128 * 256
    with ExternalData(tmp_path / "data") as data:
        weights = Weights(GraphBuilder(data), Drawn(count, shapes), Plan.of(precision, "cpu"))  # type: ignore[arg-type]
        tracemalloc.start()
        store_experts(weights, spec, PREFIX, 256)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    scales = 0 if precision == "f32" else count * expert // 4 * 4 // 64
    # Most seen: 2.7 times an expert as floats and all scales.
    assert peak < 4 * (expert + scales) < count * expert / 4
