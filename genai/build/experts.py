"""Experts' weights as the operators MoE and QMoE read them: stacked, one expert after the other.

    gate_proj, up_proj  [I, H]   ─►   inner  [E, 2·I, H], their rows alternating
    down_proj           [H, I]   ─►   outer  [E, H, I]

One expert at a time is in memory. As integers, all experts of a part have one form, because the operator has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from genai.build.quantize import Bits, pack, quantize, refined
from genai.build.source import BlockWeight, FloatArray
from genai.build.spec import MoeSpec
from genai.build.weights import Weights
from genai.errors import UnsupportedModelError

_BLOCK_SIZES: dict[Bits, tuple[int, ...]] = {8: (64, 32, 16), 4: (32, 16)}
"""Of what is rounded anew, the longest that divides first. 4 bits in blocks of 64 cost 1.1 times the KL of a dense
model in blocks of 32, in blocks of 32 as much as that (`tests/families/test_precision.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockForm:
    """How all experts of a part are held as integers."""

    bits: Bits
    block_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExperts:
    """The operators' inputs by name, in the order data, scales, bias; form: None for floats."""

    inner: tuple[str, str | None, str | None]
    outer: tuple[str, str | None, str | None]
    form: BlockForm | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matrix:
    """One of an expert's two products: what it is made of in the checkpoint, and what of.

    names: of its modules within the expert; shape: of all of them together; is_interleaved: their rows alternate
    already.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    is_interleaved: bool = True

    @property
    def part_shape(self) -> tuple[int, int]:
        """The shape of each of the checkpoint's matrices."""
        return self.shape[0] // len(self.names), self.shape[1]

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The expert's rows in the operators' order: gate and up alternate."""
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self.is_interleaved:
            return whole
        return np.stack([whole[: len(whole) // 2], whole[len(whole) // 2 :]], axis=1).reshape(whole.shape)


def store_experts(weights: Weights, moe: MoeSpec, prefix: str, hidden_size: int) -> StoredExperts:
    """Write a part's experts in the form that the plan asks for.

    prefix: the part's, `model.layers.3.mlp`. Raises: WeightsError for missing or misshapen tensors,
    UnsupportedModelError for sizes that no block divides.
    """
    experts = [f"{prefix}.experts.{expert}" for expert in range(moe.num_experts)]
    is_fused = weights.has(f"{experts[0]}.gate_up_proj.weight")
    inner = _Matrix(
        names=("gate_up_proj",) if is_fused else ("gate_proj", "up_proj"),
        shape=(2 * moe.size, hidden_size),
        is_interleaved=is_fused and moe.is_interleaved,
    )
    outer = _Matrix(names=("down_proj",), shape=(hidden_size, moe.size))
    form = None if weights.plan.matrices == "float" else _form(weights, experts[0], (inner, outer))
    return StoredExperts(
        inner=_store(weights, experts, inner, form, f"{prefix}.experts.gate_up"),
        outer=_store(weights, experts, outer, form, f"{prefix}.experts.down"),
        form=form,
    )


def _store(
    weights: Weights, experts: Sequence[str], matrix: _Matrix, form: BlockForm | None, label: str
) -> tuple[str, str | None, str | None]:
    graph, (rows, columns), count = weights.graph, matrix.shape, len(experts)
    bias = _store_bias(weights, experts, matrix, label)
    if form is None:
        items = (matrix.joined(_floats(weights, expert, matrix)) for expert in experts)
        return graph.stacked_weight(label, (count, rows, columns), weights.dtype, items), None, bias
    scales = np.empty((count, rows, columns // form.block_size), np.float32)

    def packed() -> Iterator[np.ndarray]:
        for index, expert in enumerate(experts):
            parts = [_in_form(weights, f"{expert}.{name}.weight", matrix.part_shape, form) for name in matrix.names]
            data = [pack(part)[0].reshape(len(part.values), -1) for part in parts]
            scales[index] = matrix.joined([part.scales for part in parts])
            yield matrix.joined(data)

    shape = (count, rows, columns * form.bits // 8)
    data = graph.stacked_weight(f"{label}.blocks", shape, np.dtype(np.uint8), packed())
    return data, graph.weight(f"{label}.scales", scales.astype(weights.dtype)), bias


def _store_bias(weights: Weights, experts: Sequence[str], matrix: _Matrix, label: str) -> str | None:
    """The experts' biases, in the order of their rows; None where the checkpoint has none."""
    if not weights.has(f"{experts[0]}.{matrix.names[0]}.bias"):
        return None
    size = matrix.part_shape[:1]
    biases = [
        matrix.joined([weights.read(f"{expert}.{name}.bias", size) for name in matrix.names]) for expert in experts
    ]
    return weights.graph.weight(f"{label}.bias", np.stack(biases).astype(weights.dtype))


def _floats(weights: Weights, expert: str, matrix: _Matrix) -> list[FloatArray]:
    return [weights.read(f"{expert}.{name}.weight", matrix.part_shape) for name in matrix.names]


def _form(weights: Weights, expert: str, matrices: Sequence[_Matrix]) -> BlockForm:
    """The form of a part, told by its first expert: a file's own where it has one that is kept, else that of the plan.

    Kept blocks of several forms are held in the widest numbers and the shortest blocks among them, which is exact.
    """
    asked: Bits = 4 if weights.plan.matrices == "int4" else 8
    sizes = _BLOCK_SIZES[asked]
    largest = next((size for size in sizes if all(m.shape[1] % size == 0 for m in matrices)), None)
    if largest is None:
        raise UnsupportedModelError(
            f"experts that map {' and '.join(str(m.shape[1]) for m in matrices)} elements: blocks of "
            f"{sizes[-1]} weights must divide them; build with precision f32 or f16"
        )
    stored = [
        weights.read_stored_blocks(f"{expert}.{name}.weight", matrix.part_shape)
        for matrix in matrices
        for name in matrix.names
    ]
    kept = [block for block in stored if block is not None and _is_kept(block, asked)]
    is_exact = len(kept) == len(stored) and weights.plan.matrices == "exact"
    bits: Bits = 4 if asked == 4 or (is_exact and all(block.bits == 4 for block in kept)) else 8
    return BlockForm(bits=bits, block_size=min([largest, *(block.block_size for block in kept)]))


def _is_kept(block: BlockWeight, bits: int) -> bool:
    return block.offsets is None and block.bits <= bits


def _in_form(weights: Weights, name: str, shape: tuple[int, int], form: BlockForm) -> BlockWeight:
    """One of an expert's matrices: its own blocks where the form holds them exactly, else rounded once."""
    stored = weights.read_stored_blocks(name, shape)
    if stored is not None and _is_kept(stored, form.bits) and stored.block_size % form.block_size == 0:
        return refined(stored, form.bits, form.block_size)
    return quantize(weights.read(name, shape), bits=form.bits, block_size=form.block_size)
