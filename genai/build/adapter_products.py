"""What adapters add to products: `x · A · B · scale`, in the rows of the batch that use one.

    x ──► the product ─────────────────────────────────────► + ──► q, k, v
    └─► rows of each adapter ─► · A ─► · B ─► by row ─► · scale ─┘   only where some row uses one (`If`)

Rows are put together by adapter, [G, M, T, K], so that each matrix is read once however many rows use it, and where it
lies: the products are batches of G × M small ones. Where no row uses any, what the base gives goes on as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genai import contract
from genai.build.graph import GraphBuilder, numpy_dtype
from genai.build.precision import Plan
from genai.contract import AdaptedProduct, AdapterRoom

_F32 = np.dtype(np.float32)


class AdapterProducts:
    """Writes the adapters' part of each product, and remembers which products there are. rank: the largest."""

    def __init__(self, graph: GraphBuilder, plan: Plan, rank: int) -> None:
        self._graph = graph
        self._rank = rank
        self._dtype = numpy_dtype(plan.dtype)
        # Beside integers half the bytes are read, and rounding them is nothing to that of the weights.
        self._stored = self._dtype if plan.matrices == "float" else np.dtype(np.float16)
        self._products: list[AdaptedProduct] = []
        with graph.scope("adapters"):
            count = graph.op("Size", contract.ADAPTER_ROWS)
            self._is_used = graph.op("Greater", count, graph.constant(0, np.int64))
            self._scales = graph.cast(contract.ADAPTER_SCALES, _F32, self._dtype)

    @property
    def room(self) -> AdapterRoom:
        """What the graph has room for."""
        return AdapterRoom(products=tuple(self._products), rank=self._rank, dtype=self._stored.name)

    def adapted(self, x: str, product: str, names: Sequence[str], sizes: Sequence[int], num_inputs: int) -> list[str]:
        """The parts of a product of several matrices, with what adapters add to them.

        x: [B, T, num_inputs]; product: [B, T, sum(sizes)].
        """
        self._products += [AdaptedProduct(name, num_inputs, size) for name, size in zip(names, sizes, strict=True)]

        def with_adapters() -> list[str]:
            return split(self._graph, self._added(x, product, names), sizes)

        def as_it_is() -> list[str]:
            return split(self._graph, product, sizes) if len(sizes) > 1 else [self._graph.op("Identity", product)]

        return self._graph.choose_all(self._is_used, with_adapters, as_it_is, self._dtype)

    def _added(self, x: str, product: str, names: Sequence[str]) -> str:
        graph = self._graph
        rows = graph.op("Gather", x, contract.ADAPTER_ROWS, axis=0)  # [G, M, T, K]
        parts = []
        for name in names:
            first, second = (
                graph.cast(stack, self._stored, self._dtype) for stack in (contract.lora_a(name), contract.lora_b(name))
            )
            parts.append(graph.op("MatMul", graph.op("MatMul", rows, first), second))
        added = parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=-1)
        # Not a ScatterND that adds: where fewer than M rows use an adapter, two updates of one row would race.
        by_row = graph.op("GatherND", added, contract.ADAPTER_PLACES)  # [B, T, N]
        return graph.op("Add", product, graph.op("Mul", by_row, self._scales))


def split(graph: GraphBuilder, x: str, sizes: Sequence[int]) -> list[str]:
    """Parts of a value along its last axis."""
    if len(sizes) == 1:
        return [x]
    return graph.ops("Split", x, graph.constant(sizes, np.int64), num_outputs=len(sizes), axis=-1)
