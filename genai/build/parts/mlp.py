"""The feed-forward part: gated or plain."""

from __future__ import annotations

import numpy as np

from genai.build.graph import CONTRIB
from genai.build.parts.context import F32, Context, scaled
from genai.build.spec import Activation, MlpSpec


def finish(ctx: Context, mlp: MlpSpec, x: str, layer: int) -> str:
    """`down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))` without a gate; [..., H] -> [..., H]."""
    graph, weights, hidden, size = ctx.graph, ctx.weights, ctx.spec.hidden_size, mlp.size
    prefix = f"model.layers.{layer}.{mlp.name}"
    if not mlp.is_gated:
        inner = activated(ctx, weights.linear(x, f"{prefix}.up_proj", size, hidden), mlp.activation, prefix)
    else:
        if mlp.is_fused:
            fused = weights.linear(x, f"{prefix}.gate_up_proj", 2 * size, hidden)
            gate, up = graph.ops("Split", fused, graph.constant([size, size], np.int64), num_outputs=2, axis=-1)
        else:
            gate, up = weights.linears(x, [f"{prefix}.gate_proj", f"{prefix}.up_proj"], [size, size], hidden)
        inner = graph.op("Mul", activated(ctx, gate, mlp.activation, prefix), up)
    result = weights.linear(inner, f"{prefix}.down_proj", hidden, size)
    if mlp.output_gate is None:
        return result
    share = graph.cast(weights.float_linear(x, f"model.layers.{layer}.{mlp.output_gate}", 1, hidden), ctx.dtype, F32)
    return graph.op("Mul", result, graph.cast(graph.op("Sigmoid", share), F32, ctx.dtype))


def activated(ctx: Context, x: str, activation: Activation, module: str) -> str:
    """The activation function of a value; module: where the checkpoint has its parameters, if it has any."""
    graph = ctx.graph
    if not ctx.weights.plan.is_standard and activation == "silu":
        return graph.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x): SiLU in one node
    # Runtimes have float16 kernels for these operators, but not everywhere bfloat16 ones.
    dtype = ctx.dtype if ctx.dtype in (F32, np.float16) else F32
    x = graph.cast(x, ctx.dtype, dtype)
    match activation:
        case "gelu_tanh":
            x = graph.op("Gelu", x, approximate="tanh")
        case "gelu":
            x = graph.op("Gelu", x)
        case "relu":
            x = graph.op("Relu", x)
        case "relu2":
            x = graph.op("Relu", x)
            x = graph.op("Mul", x, x)
        case "silu":
            x = graph.op("Mul", x, graph.op("Sigmoid", x))
        case "xielu":
            x = _xielu(ctx, x, dtype, f"{module}.act_fn")
    return graph.cast(x, dtype, ctx.dtype)


def _xielu(ctx: Context, x: str, dtype: np.dtype[np.generic], name: str) -> str:
    """`beta x + positive x²` above zero, `beta x + negative (exp(min(x, eps)) - 1 - x)` below (arXiv 2411.13010).

    Both factors are learned, as what softplus makes positive. Below zero `Elu` is the exponential less 1.
    """
    graph, weights = ctx.graph, ctx.weights
    beta, eps = weights.scalar(f"{name}.beta"), weights.scalar(f"{name}.eps")
    positive = np.logaddexp(0, weights.scalar(f"{name}.alpha_p"))
    negative = beta + np.logaddexp(0, weights.scalar(f"{name}.alpha_n"))
    above = scaled(graph, graph.op("Mul", x, x), positive, dtype)
    below = graph.op("Sub", graph.op("Elu", graph.op("Min", x, graph.constant(eps, dtype))), x)
    is_above = graph.op("Greater", x, graph.constant(0.0, dtype))
    curved = graph.op("Where", is_above, above, scaled(graph, below, negative, dtype))
    return graph.op("Add", curved, scaled(graph, x, beta, dtype))
