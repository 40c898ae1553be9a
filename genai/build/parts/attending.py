"""Attention over caches, in two forms that give each token the same bits: of several tokens, and of one.

CPU kernels add up in another order where a product has a single row, as it has for one head's query of one token, than
where it has several. What is decoded would differ from what is prefilled in the last bits, and activations that are
rounded to 8 bits make visible differences of these. So where a step gives each row one token, the heads of a group are
given to the operator as so many tokens of one head, that see all there is; the cache is read once a group then, too:

    [B, 1, kv_heads · group · D]  ─►  [B, group, kv_heads · D]  ─►  Attention of kv_heads heads  ─►  and back

A head that shares its keys with no other is given twice. Where the one token may be there twice for the products
(`build/repeated.py`), it is again in what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genai.build.parts.context import F32, FLOAT, Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Attending:
    """What attends to what.

    queries: [B, T, num_heads * D]; keys, values: caches [B, S, num_kv_heads * …]; valid: [B], how many of their slots
    are written; mask: [B, 1 or num_heads, T, S], None for none; is_per_head: which of the two; scale, softcap: as in
    `AttentionSpec`.
    """

    queries: str
    keys: str
    values: str
    valid: str
    num_heads: int
    num_kv_heads: int
    scale: float
    softcap: float | None = None
    mask: str | None = None
    is_per_head: bool = False

    @property
    def group(self) -> int:
        """Heads of queries to a head of keys."""
        return self.num_heads // self.num_kv_heads


def attended(ctx: Context, what: Attending) -> str:
    """The heads' results side by side, [B, T, num_heads * …]."""

    def of_several() -> str:
        is_causal = 0 if ctx.is_narrowed else 1
        return _attention(ctx, what, what.queries, what.mask, num_heads=what.num_heads, is_causal=is_causal)

    def of_one() -> str:
        made = _doubled(ctx, what) if what.group == 1 else _as_tokens(ctx, what)
        return made if ctx.repeated is None or ctx.is_narrowed else ctx.repeated.again(ctx.graph, made)

    if ctx.has_one_token is None:
        return of_several()
    return ctx.graph.choose(ctx.has_one_token, of_one, of_several, ctx.dtype)


def _as_tokens(ctx: Context, what: Attending) -> str:
    """The heads of each group as tokens."""
    graph, heads, group = ctx.graph, what.num_kv_heads, what.group
    queries = graph.op("Reshape", what.queries, graph.constant([0, heads, group, -1], np.int64))
    queries = graph.op("Reshape", _exchanged(ctx, what, queries), graph.constant([0, group, -1], np.int64))
    if what.mask is None or not what.is_per_head:
        mask = _repeated(ctx, what.mask, group)
    else:
        mask = graph.op("Reshape", what.mask, graph.constant([0, heads, group, -1], np.int64))
    made = _attention(ctx, what, queries, mask, num_heads=heads, is_causal=0)
    made = graph.op("Reshape", made, graph.constant([0, group, heads, -1], np.int64))
    return graph.op("Reshape", _exchanged(ctx, what, made), graph.constant([0, 1, -1], np.int64))


def _exchanged(ctx: Context, what: Attending, x: str) -> str:
    """Heads of keys and those of their groups in the other order; as they lie where one of both is one."""
    return x if what.num_kv_heads == 1 else ctx.graph.op("Transpose", x, perm=[0, 2, 1, 3])


def _doubled(ctx: Context, what: Attending) -> str:
    """The token twice, and what comes of the first."""
    graph = ctx.graph
    queries = graph.op("Concat", what.queries, what.queries, axis=1)
    made = _attention(ctx, what, queries, _repeated(ctx, what.mask, 2), num_heads=what.num_heads, is_causal=0)
    return graph.op("Slice", made, *(graph.constant(bound, np.int64) for bound in ([0], [1], [1])))


def _repeated(ctx: Context, mask: str | None, count: int) -> str | None:
    """One token's mask for so many tokens."""
    if mask is None:
        return None
    return ctx.graph.op("Expand", mask, ctx.graph.constant([1, 1, count, 1], np.int64))


def _attention(ctx: Context, what: Attending, queries: str, mask: str | None, *, num_heads: int, is_causal: int) -> str:
    return ctx.graph.op(
        "Attention", queries, what.keys, what.values, mask, None, None, what.valid,
        is_causal=is_causal, q_num_heads=num_heads, kv_num_heads=what.num_kv_heads, scale=what.scale,
        softcap=what.softcap, softmax_precision=None if ctx.dtype == F32 else FLOAT,
    )  # fmt: skip
