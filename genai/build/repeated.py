"""A lone token that is run twice: 4-bit products get it as two rows, what else takes time as the one token that it is.

Kernels whose products of one row have bits of their own (`runtime/same_bits.py`) are given two rows. Of a whole run of
two positions attention would take twice the time, or more: it could not take the heads of a group as tokens
(`attending.py`); and 8-bit products, the head's too, give one row the bits of many. So `input_ids` may be longer than
`position_ids`:

    x [1, 2, H] ─► products ─► [1, 2, …] ─► every second ─► attention of T = 1 ─► twice ─► products ─► … ─► head

Whether that is so is the run's business: of equal lengths all stays as it is. A head of 4 bits would have other bits
for one row; loading finds that out, and pads the whole run. The nodes that it takes cost a small model more than they
save: SmolLM2-135M at 64 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genai import contract
from genai.build.graph import GraphBuilder
from genai.build.precision import Plan
from genai.build.spec import DecoderSpec

_LARGE = 1024
"""Hidden size from which it pays."""
_LARGE_PRODUCT = 1 << 22
"""Weights of a product of 8 bits from which it pays to read the token out and to repeat what comes: both are nodes."""
_END = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """How often a step's tokens are there: once, or a lone one twice. times: [1]; tiles: [1, times, 1]."""

    times: str
    tiles: str

    @classmethod
    def build(cls, graph: GraphBuilder) -> Repeated:
        """Write what is the same for all layers."""
        one = graph.constant([1], np.int64)
        given, own = (graph.op("Shape", each, start=1, end=2) for each in (contract.INPUT_IDS, contract.POSITION_IDS))
        times = graph.op("Div", given, own)
        return cls(times=times, tiles=graph.op("Concat", one, times, one, axis=0))

    def once(self, graph: GraphBuilder, x: str) -> str:
        """Each token once: [B, N, K] -> [B, T, K]."""
        bounds = (graph.constant([bound], np.int64) for bound in (0, _END, 1))
        return graph.op("Slice", x, *bounds, self.times)

    def again(self, graph: GraphBuilder, x: str) -> str:
        """Each token as often as it is there for products: [B, T, K] -> [B, N, K]."""
        return graph.op("Tile", x, self.tiles)

    def of_logits(self, graph: GraphBuilder) -> str:
        """`logits_positions` for what products read: [B, P], or twice as many."""
        times = graph.op("Slice", self.tiles, *(graph.constant([bound], np.int64) for bound in (0, 2)))
        return graph.op("Tile", contract.LOGITS_POSITIONS, times)


def pays(spec: DecoderSpec, plan: Plan) -> bool:
    """Whether a graph is written so: of a large decoder of plain attention, whose products may have 4 bits."""
    has_other_parts = bool(spec.latents or spec.kernels)
    return plan.matrices in ("exact", "int4") and spec.hidden_size >= _LARGE and not has_other_parts


def is_large(bits: int, num_weights: int) -> bool:
    """Whether a product reads its tokens once: the bits of one row are those of many, and it takes long."""
    return bits == 8 and num_weights >= _LARGE_PRODUCT
