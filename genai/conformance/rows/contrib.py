"""ONNX Runtime's smaller operators: norms with a residual, positions, activations."""

from __future__ import annotations

from functools import partial

from genai.conformance.case import HALF, Attributes, Case, Given, numbers, rows, tensor, weight

_BOTH = HALF[:2]
_ours = partial(rows, opsets=(24,), domain="com.microsoft")


def contrib_cases() -> list[Case]:
    """All of their rows."""
    return [*_norms(), *_rotary(), *_activations()]


def _norms() -> list[Case]:
    x, skip, gamma = tensor("input", 2, 3, 32), tensor("skip", 2, 3, 32), weight("gamma", 32)
    beta, bias = weight("beta", 32, kind="normal"), weight("bias", 32, kind="normal")
    total = ("output", "", "", "input_skip_bias_sum")
    root = partial(_ours, "SkipSimplifiedLayerNormalization", oracle="skip_rms_norm", attributes={"epsilon": 1e-5})
    layer = partial(_ours, "SkipLayerNormalization", oracle="skip_layer_norm", attributes={"epsilon": 1e-5})
    flat = [tensor("input", 6, 32), tensor("skip", 6, 32), gamma]
    return [
        *root("plain", [x, skip, gamma], types=_BOTH),
        *root("with the sum", [x, skip, gamma], types=HALF, outputs=total),
        *root("with the sum, bias", [x, skip, gamma, bias], types=_BOTH, outputs=total),
        *root("with the sum, 2 axes", flat, types=_BOTH, outputs=total),
        *layer("with the sum", [x, skip, gamma, beta], types=HALF, outputs=total),
        *layer("with the sum, bias, no beta", [x, skip, gamma, None, bias], types=_BOTH, outputs=total),
        *layer("skip of one row", [x, tensor("skip", 3, 32), gamma, beta], types=_BOTH),
    ]  # fmt: skip


def _rotary() -> list[Case]:
    places = numbers("position_ids", 0, 1, 2, 5, 6, 7, shape=(2, 3))
    tables = [Given(name=f"{name}_cache", shape=(11, 4), kind="table", is_weight=True) for name in ("cos", "sin")]
    short = [Given(name=f"{name}_cache", shape=(11, 2), kind="table", is_weight=True) for name in ("cos", "sin")]
    flat, four = tensor("input", 2, 3, 32), tensor("input", 2, 4, 3, 8)
    made = partial(_ours, "RotaryEmbedding", types=_BOTH, oracle="rotary")
    part: Attributes = {"num_heads": 4, "rotary_embedding_dim": 4}
    return [
        *made("3 axes", [flat, places, *tables], types=HALF),
        *made("3 axes, from a place", [flat, numbers("position_ids", 5), *tables]),
        *made("3 axes, interleaved", [flat, places, *tables], attributes={"interleaved": 1}),
        *made("3 axes, part of a head", [flat, places, *short], attributes=part),
        *made("4 axes", [four, places, *tables]),
        *made("4 axes, part of a head", [four, places, *short], attributes=part),
        *made("3 axes, is_packed_batching", [flat, places, *tables], attributes={"is_packed_batching": 1}),
    ]


def _activations() -> list[Case]:
    x, halves = [tensor("X", 2, 3, 32)], [tensor("gate", 2, 3, 32), tensor("up", 2, 3, 32)]
    limited: Attributes = {"activation_alpha": 1.702, "activation_beta": 1.0, "limit": 1.0}
    swiglu = partial(_ours, "SwiGLU", oracle="swiglu")
    return [
        *_ours("QuickGelu", "alpha 1", x, types=HALF, attributes={"alpha": 1.0}, oracle="quick_gelu"),
        *_ours("QuickGelu", "alpha 1.702", x, types=_BOTH, oracle="quick_gelu"),
        *_ours("FastGelu", "plain", x, types=HALF, oracle="fast_gelu"),
        *_ours("FastGelu", "bias", [*x, weight("bias", 32, kind="normal")], types=_BOTH, oracle="fast_gelu"),
        *swiglu("plain", halves, types=HALF),
        *swiglu("both halves in one", [tensor("gate", 2, 3, 64)], types=_BOTH),
        *swiglu("alpha, beta, limit, rounded", halves, types=_BOTH, attributes={**limited, "round_activation": 1}),
    ]
