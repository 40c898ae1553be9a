"""What adapters add to products: `x · A · B · scale`, in the rows of the batch that use one.

    x ──► the products ───────────────────────────────────────────────────────────► + ──► q, k, v
    └─► rows of each adapter ─► · A of q, k, v ─┬─► · B of q ─┬─► by row ─► · scale ─┘
                                                ├─► · B of k ─┤
                                                └─► · B of v ─┘   only where some row uses one (`If`)

Rows are put together by adapter, [G, M·T, K], so that each matrix is read once however many rows use it, and where it
lies. Products that read one value have their first matrices side by side. Where no row uses any, what the base gives
goes on as it is.

Beside weights of floats the adapters are floats of their type. Beside integers on the CPU they are bytes, since reading
them is what they cost: each value of a token, and what A makes of it, is rounded to a byte by its largest number, and
sums of bytes are exact, so that an adapter adds the same bits however many tokens are run together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genai import contract
from genai.build.graph import CONTRIB, GraphBuilder, numpy_dtype
from genai.build.precision import Plan
from genai.contract import ADAPTER_BYTES, AdaptedProduct, AdapterRoom

_F32 = np.dtype(np.float32)
_LARGEST = 127
"""What the largest number becomes; bytes are that and 128."""


@dataclass(frozen=True, slots=True)
class Fused:
    """One product of several matrices: the value [B, T, sum of sizes], and each matrix's outputs by its name."""

    value: str
    sizes: Mapping[str, int]


class AdapterProducts:
    """Writes the adapters' part of each product, and remembers which products there are. rank: the largest."""

    def __init__(self, graph: GraphBuilder, plan: Plan, rank: int) -> None:
        self._graph = graph
        self._rank = rank
        self._dtype = numpy_dtype(plan.dtype)
        self._are_bytes = plan.matrices != "float" and self._dtype == _F32
        self._stored = ADAPTER_BYTES if self._are_bytes else self._dtype.name
        self._groups: list[tuple[AdaptedProduct, ...]] = []
        self._shapes: dict[int, str] = {}
        with graph.scope("adapters"):
            count = graph.op("Size", contract.ADAPTER_ROWS)
            self._is_used = graph.op("Greater", count, graph.constant(0, np.int64))
            self._scales = graph.cast(contract.ADAPTER_SCALES, _F32, self._dtype)
            self._members = graph.op("Shape", contract.ADAPTER_ROWS)

    @property
    def room(self) -> AdapterRoom:
        """What the graph has room for."""
        return AdapterRoom(groups=tuple(self._groups), rank=self._rank, dtype=self._stored)

    def adapted(self, x: str, products: Sequence[Fused], num_inputs: int) -> dict[str, str]:
        """The parts of products that read x [B, T, num_inputs], with what adapters add to them, by name."""
        graph = self._graph
        group = tuple(AdaptedProduct(name, num_inputs, size) for each in products for name, size in each.sizes.items())
        self._groups.append(group)
        for stack in contract.adapter_stacks(AdapterRoom(groups=(group,), rank=self._rank, dtype=self._stored)):
            graph.optional_input(stack)
        shape = self._by_member(sum(each.num_outputs for each in group))

        def with_adapters() -> list[str]:
            base = _joined(graph, [each.value for each in products])
            total = graph.op("Add", base, self._added(x, group, shape))
            return split(graph, total, [each.num_outputs for each in group])

        def as_it_is() -> list[str]:
            return [*itertools.chain(*(_as_it_is(graph, each) for each in products))]

        values = graph.choose_all(self._is_used, with_adapters, as_it_is, self._dtype)
        return dict(zip((each.name for each in group), values, strict=True))

    def _by_member(self, num_outputs: int) -> str:
        """The shape [G, M, T, num_outputs], made once for all products of so many."""
        if num_outputs not in self._shapes:
            rest = self._graph.constant([-1, num_outputs], np.int64)
            with self._graph.scope("adapters"):
                self._shapes[num_outputs] = self._graph.op("Concat", self._members, rest, axis=0)
        return self._shapes[num_outputs]

    def _added(self, x: str, group: Sequence[AdaptedProduct], shape: str) -> str:
        """What adapters add to all products of a group, side by side: [B, T, N]."""
        graph = self._graph
        rows = graph.op("Gather", x, contract.ADAPTER_ROWS, axis=0)  # [G, M, T, K]
        rows = graph.op("Reshape", rows, graph.constant([0, -1, group[0].num_inputs], np.int64))
        added = self._of_bytes(rows, group) if self._are_bytes else self._of_floats(rows, group)
        # Not a ScatterND that adds: where fewer than M rows use an adapter, two updates of one row would race.
        by_row = graph.op("GatherND", graph.op("Reshape", added, shape), contract.ADAPTER_PLACES)
        return graph.op("Mul", by_row, self._scales)

    def _of_floats(self, rows: str, group: Sequence[AdaptedProduct]) -> str:
        """Rows [G, M·T, K] times both matrices of each product, side by side: [G, M·T, N]."""
        graph = self._graph
        inner = graph.op("MatMul", rows, contract.lora_a(each.name for each in group))
        parts = zip(split(graph, inner, [self._rank] * len(group)), group, strict=True)
        return _joined(graph, [graph.op("MatMul", part, contract.lora_b(each.name)) for part, each in parts])

    def _of_bytes(self, rows: str, group: Sequence[AdaptedProduct]) -> str:
        """The same of matrices that are bytes. The factors of A's columns have been multiplied into B's rows."""
        graph = self._graph
        data, largest = self._as_bytes(rows)
        inner = self._byte_product(data, contract.lora_a(each.name for each in group), 1)
        data, largest_inner = self._as_bytes(inner)
        parts = zip(split(graph, data, [self._rank] * len(group)), group, strict=True)
        factor = _LARGEST**-2
        added = [
            self._byte_product(part, contract.lora_b(each.name), factor, contract.lora_scales(each.name))
            for part, each in parts
        ]
        return graph.op("Mul", _joined(graph, added), graph.op("Mul", largest, largest_inner))

    def _as_bytes(self, x: str) -> tuple[str, str]:
        """A value's bytes, and the largest number of each row, which they are fractions of.

        A row of zeros has any bytes, and zero as its largest number.
        """
        graph = self._graph
        largest = graph.op("ReduceMax", graph.op("Abs", x), graph.constant([-1], np.int64), keepdims=1)
        step = graph.constant(1 / _LARGEST, np.float32)
        return graph.op("QuantizeLinear", graph.op("Div", x, largest), step, self._zero), largest

    def _byte_product(self, x: str, matrices: str, factor: float, scales: str | None = None) -> str:
        """Bytes [G, rows, K] times bytes [G, K, N], times a factor and scales [G, 1, N]; sums are exact."""
        graph = self._graph
        one = graph.constant(1, np.float32)
        return graph.op(
            "MatMulIntegerToFloat", x, matrices, graph.constant(factor, np.float32), scales or one,
            self._zero, self._zero, domain=CONTRIB,
        )  # fmt: skip

    @property
    def _zero(self) -> str:
        return self._graph.constant(contract.ADAPTER_ZERO, np.uint8)


def split(graph: GraphBuilder, x: str, sizes: Sequence[int]) -> list[str]:
    """Parts of a value along its last axis."""
    if len(sizes) == 1:
        return [x]
    return graph.ops("Split", x, graph.constant(sizes, np.int64), num_outputs=len(sizes), axis=-1)


def _as_it_is(graph: GraphBuilder, product: Fused) -> list[str]:
    """A product's parts as values of a branch."""
    if len(product.sizes) == 1:
        return [graph.op("Identity", product.value)]
    return split(graph, product.value, [*product.sizes.values()])


def _joined(graph: GraphBuilder, parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=-1)
