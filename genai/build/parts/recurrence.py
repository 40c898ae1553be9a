"""What parts with states share: a short convolution, a recurrence over a step's tokens, and which of these count.

    conv_state.i       the last inputs, newest last    [B, kernel - 1, channels]
    recurrent_state.i  one matrix for each head        [B, heads, key_dim, value_dim]

Both are float32 in every precision, and so is what is computed between a part's products. A step pads rows on the
right, and a row that sits it out is padding alone: `token_counts` says how many tokens are its own. The convolution's
state then is what lies before the padding, and the recurrence is given factors with which a token changes nothing. Each
state is read by one node, because it shares its memory with what it becomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genai import contract
from genai.build.graph import CONTRIB
from genai.build.parts.context import F32, Context
from genai.build.steps import convolved
from genai.contract import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """A recurrence's heads. key_heads: which of the key heads each of them reads; value_dim: elements of a result."""

    key_heads: tuple[int, ...]
    key_dim: int
    value_dim: int

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.key_heads)

    @property
    def num_key_heads(self) -> int:
        """How many there are of the keys, and of the queries."""
        return 1 + max(self.key_heads)

    @property
    def is_grouped(self) -> bool:
        """Whether neighbours share a key head."""
        return list(self.key_heads) == sorted(self.key_heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """A layer's short convolution. name: the module's; kernel: how many inputs each of the channels is a sum of."""

    name: str
    layer: int
    channels: int
    kernel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a step's tokens do to the heads' state, and what they read of it; all float32.

        S  =  exp(decay) S  +  k vᵀ                                   without a rate
        S  =  exp(decay) S  +  rate · k (v - exp(decay) Sᵀk)ᵀ         result: scale · Sᵀq

    queries, keys: [B, T, key heads, key_dim]; values: [B, T, heads, value_dim]; decay, rate: [B, T, heads]. Of padding
    decay and rate are zeros, or, without a rate, decay and values; the others whatever they are.
    """

    queries: str
    keys: str
    values: str
    decay: str
    rate: str | None = None
    scale: float = 1.0


def states(layer: int, kernel: int, channels: int, heads: Heads | None = None) -> tuple[State, ...]:
    """A layer's states: its convolution's, and its recurrence's if it has one."""
    conv = State(contract.conv_state(layer), (kernel - 1, channels), "float32")
    if heads is None:
        return (conv,)
    matrix = (heads.count, heads.key_dim, heads.value_dim)
    return conv, State(contract.recurrent_state(layer), matrix, "float32")


def causal_conv(ctx: Context, conv: Conv, x: str) -> str:
    """Each channel's weighted sum of its last inputs, and a bias where the checkpoint has one.

    x, and the result: [B, T, channels] float32.
    """
    graph, state = ctx.graph, contract.conv_state(conv.layer)
    weights = ctx.weights.read(f"{conv.name}.weight", (conv.channels, 1, conv.kernel))[:, 0]
    factors = [graph.weight(f"{conv.name}.{place}", weights[:, place]) for place in range(conv.kernel)]
    inputs = graph.op("Concat", state, x, axis=1)
    graph.op_into(contract.updated(state), "GatherND", inputs, ctx.tails[conv.kernel], batch_dims=1)
    total = convolved(graph, inputs, x, factors)
    if not ctx.weights.has(f"{conv.name}.bias"):
        return total
    return graph.op("Add", total, ctx.weights.vector(f"{conv.name}.bias", conv.channels, F32))


def recur(ctx: Context, heads: Heads, layer: int, tokens: Tokens) -> str:
    """A step's tokens through the heads' state, one after the other: their results, [B, T, heads * value_dim]."""
    if ctx.weights.plan.has_loops:
        return _in_a_loop(ctx, heads, layer, tokens)
    graph, state = ctx.graph, contract.recurrent_state(layer)
    queries = tokens.queries if heads.is_grouped else _spread(ctx, heads, tokens.queries)
    num_queries = heads.num_key_heads if heads.is_grouped else heads.count
    packed = [
        flat(ctx, queries, num_queries * heads.key_dim),
        flat(ctx, _spread(ctx, heads, tokens.keys), heads.count * heads.key_dim),
        flat(ctx, tokens.values, heads.count * heads.value_dim),
    ]
    results, _ = graph.ops_into(
        [None, contract.updated(state)], "LinearAttention", *packed, state, tokens.decay, tokens.rate, domain=CONTRIB,
        q_num_heads=num_queries, kv_num_heads=heads.count, scale=tokens.scale,
        update_rule="gated" if tokens.rate is None else "gated_delta",
    )  # fmt: skip
    return results


def own(ctx: Context, x: str) -> str:
    """Float32 values [B, T, …] of a row's own tokens; zeros for padding."""
    return ctx.graph.op("Where", ctx.is_own, x, ctx.graph.constant(0.0, F32))


def decay_rates(ctx: Context, name: str, count: int) -> str:
    """How fast each head forgets, [count] float32, below 0: `-exp(A_log)`; some checkpoints hold that as `A`."""
    if ctx.weights.has(f"{name}.A"):
        return ctx.weights.vector(f"{name}.A", count, F32)
    rates = -np.exp(ctx.weights.read(f"{name}.A_log", (count,)))
    return ctx.graph.weight(f"{name}.A", rates.astype(np.float32))


def softplus_of_biased(ctx: Context, x: str, name: str, count: int) -> str:
    """`softplus(x + dt_bias)` of a float32 value [..., count]."""
    biased = ctx.graph.op("Add", x, ctx.weights.vector(f"{name}.dt_bias", count, F32))
    return ctx.graph.op("Softplus", biased)


def silu(ctx: Context, x: str) -> str:
    """`x * sigmoid(x)` of a float32 value."""
    if not ctx.weights.plan.is_standard:
        return ctx.graph.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)
    return ctx.graph.op("Mul", x, ctx.graph.op("Sigmoid", x))


def split(ctx: Context, x: str, *sizes: int) -> list[str]:
    """Parts of a value along its last dimension."""
    return ctx.graph.ops("Split", x, ctx.graph.constant(sizes, np.int64), num_outputs=len(sizes), axis=-1)


def by_head(ctx: Context, x: str, count: int, dim: int) -> str:
    """[B, T, count * dim] -> [B, T, count, dim]."""
    return ctx.graph.op("Reshape", x, ctx.graph.constant([0, 0, count, dim], np.int64))


def flat(ctx: Context, x: str, size: int) -> str:
    """[B, T, …] -> [B, T, size]."""
    return ctx.graph.op("Reshape", x, ctx.graph.constant([0, 0, size], np.int64))


def _spread(ctx: Context, heads: Heads, x: str) -> str:
    """Queries or keys [B, T, key heads, key_dim] -> [B, T, heads, key_dim]."""
    if heads.count == heads.num_key_heads and heads.is_grouped:
        return x
    return ctx.graph.op("Gather", x, ctx.graph.constant(heads.key_heads, np.int64), axis=2)


def _in_a_loop(ctx: Context, heads: Heads, layer: int, tokens: Tokens) -> str:
    """`recur` in standard operators."""
    graph, state = ctx.graph, contract.recurrent_state(layer)

    def in_time(x: str, rank: int, *new_axes: int) -> str:
        """[B, T, …] -> [T, B, …, with new dimensions of 1]."""
        x = graph.op("Transpose", x, perm=[1, 0, *range(2, rank)])
        return graph.op("Unsqueeze", x, graph.constant(new_axes, np.int64))

    def step(old: str, items: Sequence[str]) -> tuple[str, str]:
        q, k, v, fade, *rate = items  # q, v: [B, heads, 1, dim]; k: [B, heads, dim, 1]
        old = graph.op("Mul", old, fade)
        if rate:
            known = graph.op("MatMul", graph.op("Transpose", k, perm=[0, 1, 3, 2]), old)
            v = graph.op("Mul", graph.op("Sub", v, known), rate[0])
        new = graph.op("Add", old, graph.op("Mul", k, v))
        return new, graph.op("MatMul", q, new)

    queries = graph.op("Mul", _spread(ctx, heads, tokens.queries), graph.constant(tokens.scale, F32))
    keys = _spread(ctx, heads, tokens.keys)
    sequences = [in_time(queries, 4, 3), in_time(keys, 4, 4), in_time(tokens.values, 4, 3)]
    factors = [graph.op("Exp", tokens.decay), *([tokens.rate] if tokens.rate else [])]
    sequences += [in_time(factor, 3, 3, 4) for factor in factors]
    results = graph.scan(contract.updated(state), state, sequences, step)
    return flat(ctx, graph.op("Transpose", results, perm=[1, 0, 2, 3, 4]), heads.count * heads.value_dim)
