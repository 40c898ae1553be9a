"""The short convolution between two gates, as `ShortConvSpec` says."""

from __future__ import annotations

from genai.build.parts import recurrence
from genai.build.parts.context import F32, Context
from genai.build.parts.recurrence import Conv
from genai.build.spec import ShortConvSpec
from genai.contract import State


def states(conv: ShortConvSpec, layer: int, hidden_size: int) -> tuple[State, ...]:
    """The layer's state."""
    return recurrence.states(layer, conv.kernel, hidden_size)


def mix(ctx: Context, conv: ShortConvSpec, x: str, layer: int) -> str:
    """[B, T, H] -> [B, T, H]: all but the output product."""
    graph, hidden, prefix = ctx.graph, ctx.spec.hidden_size, f"model.layers.{layer}.{conv.name}"
    projected = ctx.weights.linear(x, f"{prefix}.in_proj", 3 * hidden, hidden)
    before, after, x = recurrence.split(ctx, graph.cast(projected, ctx.dtype, F32), hidden, hidden, hidden)
    inner = Conv(name=f"{prefix}.conv", layer=layer, channels=hidden, kernel=conv.kernel)
    x = recurrence.causal_conv(ctx, inner, graph.op("Mul", before, x))
    return graph.cast(graph.op("Mul", after, x), F32, ctx.dtype)


def finish(ctx: Context, conv: ShortConvSpec, x: str, layer: int) -> str:
    """The output product: [..., H] -> [..., H]."""
    hidden = ctx.spec.hidden_size
    return ctx.weights.linear(x, f"model.layers.{layer}.{conv.name}.out_proj", hidden, hidden)
