"""From checkpoint tensors to products in the graph: reading, checking, fusing and storing weights.

Everything here works on names and shapes; what a layer is made of stands in `layers.py`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from genai.build.adapter_products import AdapterProducts, Fused, split
from genai.build.graph import CONTRIB, GraphBuilder, numpy_dtype
from genai.build.precision import IntegerForm, Plan, read_quantized
from genai.build.quantize import ByteArray, num_offset_columns, pack, with_offset_columns
from genai.build.repeated import Repeated, is_large
from genai.build.source import BlockWeight, FloatArray, WeightSource
from genai.build.sums import followed_by_sums
from genai.contract import AdapterRoom
from genai.errors import UnsupportedModelError, WeightsError

ACCURACY_LEVEL = 4
"""MatMulNBits on CPU rounds its input to 8-bit integers; below 4 a decode step is ten times slower."""


_PIECE_ELEMENTS = 1 << 22
"""Numbers of a table that are in memory at a time: Gemma 4 E2B's has 2.3 thousand million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredBlocks:
    """A weight [N, K] in the graph as integers: the names of its data and scales, and its form.

    has_offsets: columns for them follow (`with_offset_columns`).
    """

    data: str
    scales: str
    shape: tuple[int, int]
    bits: int
    block_size: int
    has_offsets: bool


class Weights:
    """Moves a checkpoint's tensors into a graph, one at a time, and remembers which were used."""

    def __init__(
        self, graph: GraphBuilder, source: WeightSource, plan: Plan, adapters: AdapterProducts | None = None
    ) -> None:
        """adapters: what writes their part of products, None for a graph without room for any.

        repeated: how a lone token is there twice in what products read, None in graphs without that.
        """
        self.graph = graph
        self.plan = plan
        self.adapters = adapters
        self.repeated: Repeated | None = None
        self.dtype = numpy_dtype(plan.dtype)
        self._source = source
        self._present = frozenset(source.names())
        self._used: set[str] = set()
        self._embedding: dict[str, str | _StoredBlocks] = {}  # by name, for a head that shares it
        self._with_sums: dict[tuple[str, int], str] = {}  # by value and block size, for all products that read it

    @property
    def adapter_room(self) -> AdapterRoom | None:
        """What the graph has room for, of all products so far."""
        return None if self.adapters is None else self.adapters.room

    def vector(self, name: str, size: int, dtype: np.dtype[np.generic], *, offset: float = 0.0) -> str:
        """A one-dimensional weight as a graph value."""
        values = self.read(name, (size,))
        return self.graph.weight(name, (values + np.float32(offset)).astype(dtype))

    def stacked(self, name: str, shape: tuple[int, int], dtype: np.dtype[np.generic], *, offset: float = 0.0) -> str:
        """Vectors [N, size] as one graph value, which the checkpoint has as one tensor, or as `name.0` and so on."""
        if self.has(f"{name}.weight"):
            values = self.read(f"{name}.weight", shape)
        else:
            values = np.stack([self.read(f"{name}.{i}.weight", shape[1:]) for i in range(shape[0])])
        return self.graph.weight(f"{name}.weight", (values + np.float32(offset)).astype(dtype))

    def rows(self, name: str, shape: tuple[int, int], dtype: np.dtype[np.generic], *, first: int = 0) -> str:
        """A table's rows from the first on, as a graph value."""
        return self.graph.weight(name, self.read(f"{name}.weight", shape)[first:].astype(dtype))

    def scalar(self, name: str) -> float:
        """The value of a tensor of one element. Raises: WeightsError."""
        self.require([name])
        if math.prod(shape := self._source.shape(name)) != 1:
            raise WeightsError(f"tensor {name!r} has shape {list(shape)}, it should hold one number")
        self._used.add(name)
        return self._source.read(name).item()

    def linears(self, x: str, names: Sequence[str], num_outputs: Sequence[int], num_inputs: int) -> list[str]:
        """`x @ weight.T + bias` of several checkpoint matrices, each [..., its num_outputs].

        Those that are held in the same form are one product: none is widened for another's sake.
        """
        outputs = dict(zip(names, num_outputs, strict=True))
        products = []
        for members, blocks in self._alike(names, num_outputs, num_inputs):
            sizes = {name: outputs[name] for name in members}
            products.append(Fused(self._product(x, sizes, num_inputs, blocks), sizes))
        parts = self._parts(x, products, num_inputs)
        return [parts[name] for name in names]

    def linear(self, x: str, name: str, num_outputs: int, num_inputs: int) -> str:
        """`x @ weight.T + bias` of one checkpoint matrix, whose bias is used where the checkpoint has one.

        x: [..., num_inputs]; the result: [..., num_outputs].
        """
        return self.linears(x, [name], [num_outputs], num_inputs)[0]

    def float_linear(self, x: str, name: str, num_outputs: int, num_inputs: int) -> str:
        """`x @ weight.T + bias` with the weight as floats, whatever the plan says: for small products that decide."""
        product = self.graph.op("MatMul", x, self._transposed(name, [name], [num_outputs], num_inputs))
        bias = self._fused_bias([name], [num_outputs], name)
        product = product if bias is None else self.graph.op("Add", product, bias)
        return self._parts(x, [Fused(product, {name: num_outputs})], num_inputs)[name]

    def products(self, values: Sequence[str], matrices: Iterable[tuple[str, BlockWeight]]) -> list[str]:
        """`x @ weight.T` of each value with its own matrix, in blocks under the name that it gets in the graph."""
        return [
            self._block_product(x, self._store(name, [block], len(block.values)), bias=None)
            for x, (name, block) in zip(values, matrices, strict=True)
        ]

    def embedding(self, ids: str, name: str, vocab_size: int, hidden_size: int) -> str:
        """Rows of the embedding for token ids: [B, T] -> [B, T, H]."""
        if self.plan.ends == "float":
            self._embedding[name] = self._table(name, vocab_size, hidden_size)
            return self.graph.op("Gather", name, ids, axis=0)
        stored = self._embedding[name] = self._block_table(name, vocab_size, hidden_size, self.plan.ends)
        # Three dimensions, so that the head can share the tensor: MatMulNBits wants [N, blocks, bytes of a block].
        num_blocks = -(-hidden_size // stored.block_size)
        scales = self.graph.alias(f"{name}.gather_scales", stored.scales, [vocab_size, num_blocks, 1])
        rows = self.graph.op(
            "GatherBlockQuantized", stored.data, ids, scales, domain=CONTRIB,
            bits=stored.bits, block_size=stored.block_size, gather_axis=0, quantize_axis=2,
        )  # fmt: skip
        rows = self.graph.op("Reshape", rows, self.graph.constant([0, 0, num_blocks * stored.block_size], np.int64))
        if hidden_size % stored.block_size == 0:
            return rows
        bounds = ([0], [hidden_size], [2])  # the last block is padded
        return self.graph.op("Slice", rows, *(self.graph.constant(bound, np.int64) for bound in bounds))

    def head(self, x: str, name: str, vocab_size: int, hidden_size: int, bias_of: str) -> str:
        """Logits [B, P, V] in the activations' type; `name` may be the embedding's: then they share its tensor.

        bias_of: the product whose bias is added, where the checkpoint has it.
        """
        graph, shared = self.graph, self._embedding.get(name)
        bias = self._fused_bias([bias_of], [vocab_size], bias_of)
        if self.plan.ends != "float":
            if not isinstance(shared, _StoredBlocks):
                shared = self._block_table(name, vocab_size, hidden_size, self.plan.ends)
            return self._block_product(x, shared, bias)
        table = name if shared else self._table(name, vocab_size, hidden_size)
        # Gemm reads the weight as stored ([V, H]): a tied head needs no transposed copy.
        flat = graph.op("Reshape", x, graph.constant([-1, hidden_size], np.int64))
        logits = graph.op("Gemm", flat, table, *([bias] if bias else []), transB=1)
        leading = graph.op("Shape", x, start=0, end=2)
        shape = graph.op("Concat", leading, graph.constant([vocab_size], np.int64), axis=0)
        return graph.op("Reshape", logits, shape)

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor."""
        return name in self._present

    def read(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """A tensor as float32 in this shape; one row may be stored as a vector, or a vector as one row.

        Raises: WeightsError if it is missing or has another shape.
        """
        self._check(name, shape)
        return self._source.read(name).reshape(shape)

    def read_blocks(self, name: str, shape: tuple[int, int], form: IntegerForm) -> BlockWeight:
        """A matrix of this shape in blocks without offsets: the checkpoint's own, or rounded. Raises: as `read`."""
        self._check(name, shape)
        return read_quantized(self._source, name, form, may_have_offsets=False)

    def read_stored_blocks(self, name: str, shape: tuple[int, int]) -> BlockWeight | None:
        """A matrix of this shape as the checkpoint's own blocks, None where it has none. Raises: as `read`."""
        self._check(name, shape)
        return self._source.read_blocks(name)

    def are_equal(self, first: str, second: str) -> bool:
        """Whether two tables hold the same; only a piece of one of them is in memory at a time."""
        return self._digest(first) == self._digest(second)

    def require(self, names: Sequence[str]) -> None:
        """Raises: WeightsError unless the checkpoint has all these tensors."""
        for name in names:
            if name not in self._present:
                raise WeightsError(f"the checkpoint has no tensor {name!r}, which its configuration calls for")

    def refuse_unused(self, ignored: Sequence[str] = ()) -> None:
        """Every tensor must have been used, or the graph would not be the model. Raises: UnsupportedModelError."""
        unused = sorted(name for name in self._present - self._used if not name.endswith(tuple(ignored)))
        if unused:
            raise UnsupportedModelError(
                f"the checkpoint has {len(unused)} tensors that its architecture does not use: {', '.join(unused[:5])}"
                f"{', …' if len(unused) > 5 else ''}; it is not the plain form of this model"
            )

    def _digest(self, name: str) -> bytes:
        digest = hashlib.sha256()
        for rows in _pieces(self._source.shape(name)):
            digest.update(np.ascontiguousarray(self._source.read(name, rows)).data)
        return digest.digest()

    def _table(self, name: str, vocab_size: int, hidden_size: int) -> str:
        """Embedding or head [V, H] as floats, read piece by piece."""
        shape, tensor = (vocab_size, hidden_size), f"{name}.weight"
        self._check(tensor, shape)
        pieces = (self._source.read(tensor, rows).astype(self.dtype, copy=False) for rows in _pieces(shape))
        return self.graph.stacked_weight(name, shape, self.dtype, pieces)

    def _block_table(self, name: str, vocab_size: int, hidden_size: int, form: IntegerForm) -> _StoredBlocks:
        """Embedding or head [V, H] in blocks, read piece by piece."""
        shape, tensor = (vocab_size, hidden_size), f"{name}.weight"
        self._check(tensor, shape)
        pieces = (
            read_quantized(self._source, tensor, form, may_have_offsets=False, rows=rows) for rows in _pieces(shape)
        )
        return self._store(name, pieces, vocab_size)

    def _transposed(self, label: str, names: Sequence[str], num_outputs: Sequence[int], num_inputs: int) -> str:
        """Several matrices side by side as MatMul reads them: [num_inputs, sum(num_outputs)]."""
        joined = np.empty((num_inputs, sum(num_outputs)), self.dtype)
        start = 0
        for name, size in zip(names, num_outputs, strict=True):
            joined[:, start : start + size] = self.read(f"{name}.weight", (size, num_inputs)).T
            start += size
        return self.graph.weight(label, joined)

    def _alike(
        self, names: Sequence[str], num_outputs: Sequence[int], num_inputs: int
    ) -> list[tuple[list[str], list[BlockWeight]]]:
        """Matrices by the form in which they are held, with their blocks where they are integers."""
        form = self.plan.matrices
        if form == "float":
            return [([*names], [])]
        groups: dict[tuple[int, int, bool], tuple[list[str], list[BlockWeight]]] = {}
        for name, size in zip(names, num_outputs, strict=True):
            self._check(f"{name}.weight", (size, num_inputs))
            block = read_quantized(self._source, f"{name}.weight", form, may_have_offsets=True)
            members, blocks = groups.setdefault((block.bits, block.block_size, block.offsets is None), ([], []))
            members.append(name)
            blocks.append(block)
        return [*groups.values()]

    def _product(self, x: str, sizes: Mapping[str, int], num_inputs: int, blocks: Sequence[BlockWeight]) -> str:
        """Several matrices of one form as one product; blocks: none where they are floats."""
        names, outputs = [*sizes], [*sizes.values()]
        label = "+".join(names)
        bias = self._fused_bias(names, outputs, label)
        if blocks:
            stored = self._store(label, [_concatenated(blocks)], sum(outputs))
            if self.repeated is None or not is_large(stored.bits, math.prod(stored.shape)):
                return self._block_product(x, stored, bias)
            return self.repeated.again(self.graph, self._block_product(self.repeated.once(self.graph, x), stored, bias))
        product = self.graph.op("MatMul", x, self._transposed(label, names, outputs, num_inputs))
        return product if bias is None else self.graph.op("Add", product, bias)

    def _parts(self, x: str, products: Sequence[Fused], num_inputs: int) -> dict[str, str]:
        """Each matrix's part of products that read x, with what adapters add to it, by name."""
        if self.adapters is not None:
            return self.adapters.adapted(x, products, num_inputs)
        parts: dict[str, str] = {}
        for each in products:
            parts |= zip(each.sizes, split(self.graph, each.value, [*each.sizes.values()]), strict=True)
        return parts

    def _block_product(self, x: str, stored: _StoredBlocks, bias: str | None) -> str:
        num_inputs = stored.shape[1]
        if stored.has_offsets:
            x = self._followed_by_sums(x, num_inputs, stored.block_size)
            num_inputs += 2 * num_offset_columns(num_inputs, stored.block_size)
        return self.graph.op(
            "MatMulNBits", x, stored.data, stored.scales, None, None, bias, domain=CONTRIB,
            N=stored.shape[0], K=num_inputs, bits=stored.bits, block_size=stored.block_size,
            accuracy_level=ACCURACY_LEVEL if self.plan.dtype == "float32" else None,
        )  # fmt: skip

    def _followed_by_sums(self, x: str, num_inputs: int, block_size: int) -> str:
        """A value [..., K] followed by its sums over blocks, twice, for weights with offsets; once for all of them."""
        if (known := self._with_sums.get((x, block_size))) is not None:
            return known
        extended = followed_by_sums(self.graph, x, 3, num_inputs, block_size)
        self._with_sums[x, block_size] = extended
        return extended

    def _store(self, name: str, pieces: Iterable[BlockWeight], num_rows: int) -> _StoredBlocks:
        """A weight that comes in pieces of one form, one after the other; its scales are kept until the end."""
        rest = iter(pieces)
        block = next(rest)
        first, first_scales = _packed(block)
        scales = np.empty((num_rows, *first_scales.shape[1:]), self.dtype)

        def packed() -> Iterator[ByteArray]:
            start = 0
            for data, own in chain([(first, first_scales)], map(_packed, rest)):
                scales[start : start + len(own)] = own
                start += len(own)
                yield data

        return _StoredBlocks(
            data=self.graph.stacked_weight(f"{name}.blocks", (num_rows, *first.shape[1:]), first.dtype, packed()),
            scales=self.graph.weight(f"{name}.scales", scales),
            shape=(num_rows, block.values.shape[1]),
            bits=block.bits,
            block_size=block.block_size,
            has_offsets=block.offsets is not None,
        )

    def _fused_bias(self, names: Sequence[str], sizes: Sequence[int], label: str) -> str | None:
        present = [f"{name}.bias" in self._present for name in names]
        if not any(present):
            return None
        parts = [
            self.read(f"{name}.bias", (size,)) if here else np.zeros(size, np.float32)
            for name, size, here in zip(names, sizes, present, strict=True)
        ]
        return self.graph.weight(f"{label}.bias", np.concatenate(parts).astype(self.dtype))

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        self.require([name])
        actual = self._source.shape(name)
        if _without_ones(actual) != _without_ones(shape):
            raise WeightsError(f"tensor {name!r} has shape {list(actual)}, its configuration says {list(shape)}")
        self._used.add(name)


def _concatenated(parts: Sequence[BlockWeight]) -> BlockWeight:
    """Weights of one form stacked by rows."""
    offsets = [part.offsets for part in parts if part.offsets is not None]
    return BlockWeight(
        values=np.concatenate([part.values for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        offsets=np.concatenate(offsets) if offsets else None,
        bits=parts[0].bits,
        block_size=parts[0].block_size,
    )


def _packed(block: BlockWeight) -> tuple[ByteArray, FloatArray]:
    return pack(block if block.offsets is None else with_offset_columns(block))


def _pieces(shape: Sequence[int]) -> Iterator[slice]:
    """A table's rows in pieces that are read one by one."""
    rows, columns = shape
    step = max(1, _PIECE_ELEMENTS // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
