"""Mixtures of experts: MoE, QMoE, MoEGroupRouter. Four experts of 32 -> 32 -> 32, two of them for each of 6 tokens."""

from __future__ import annotations

from functools import partial

from genai.conformance.case import HALF, Attributes, Case, Given, rows, tensor, weight

_BOTH = HALF[:2]
_ours = partial(rows, opsets=(24,), domain="com.microsoft")
_COMMON: Attributes = {"k": 2, "normalize_routing_weights": 1}
_FUSED: Attributes = {
    **_COMMON, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0,
}  # fmt: skip
_LIMITED: Attributes = {**_FUSED, "activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_limit": 1.0}
"""As gpt-oss has it, with a limit that is reached."""
_X, _ROUTER = tensor("input", 6, 32), tensor("router_probs", 6, 4)


def expert_cases() -> list[Case]:
    """All rows of the three."""
    return [*_of_floats(), *_of_integers(), *_router()]


def _of_floats() -> list[Case]:
    def given(*, wide: int = 32, has_bias: bool = False, has_third: bool = False) -> list[Given | None]:
        return [
            _X, _ROUTER, weight("fc1_experts_weights", 4, wide, 32),
            weight("fc1_experts_bias", 4, wide, kind="normal") if has_bias else None,
            weight("fc2_experts_weights", 4, 32, 32),
            weight("fc2_experts_bias", 4, 32, kind="normal") if has_bias else None,
            weight("fc3_experts_weights", 4, 32, 32) if has_third else None,
            weight("fc3_experts_bias", 4, 32, kind="normal") if has_third and has_bias else None,
        ]  # fmt: skip

    made = partial(_ours, "MoE", types=_BOTH, oracle="experts")
    by_axes = [tensor("input", 2, 3, 32), *given()[1:]]
    apart: Attributes = {**_FUSED, "swiglu_fusion": 0}
    return [
        *(row for kind in ("relu", "gelu", "silu", "identity") for row in made(
            kind, given(), types=HALF if kind == "silu" else _BOTH, attributes={**_COMMON, "activation_type": kind},
        )),
        *made("silu, 3 axes", by_axes, attributes={**_COMMON, "activation_type": "silu"}),
        *made("silu, biases", given(has_bias=True), attributes={**_COMMON, "activation_type": "silu"}),
        *made("silu, shares not normalised", given(),
              attributes={"k": 2, "normalize_routing_weights": 0, "activation_type": "silu"}),
        *made("silu, sparse mixer", given(),
              attributes={"k": 2, "use_sparse_mixer": 1, "activation_type": "silu"}),
        *made("swiglu, gate and up interleaved", given(wide=64), attributes=_FUSED),
        *made("swiglu, gate before up", given(wide=64), attributes={**_FUSED, "swiglu_fusion": 2}),
        *made("swiglu, gate and up apart", given(has_third=True), attributes=apart),
        *made("swiglu, gate and up apart, biases", given(has_third=True, has_bias=True), attributes=apart),
        *made("swiglu, biases, alpha, beta, limit", given(wide=64, has_bias=True), attributes=_LIMITED),
        *made("swiglu, limit after the activation", given(wide=64),
              attributes={**_LIMITED, "swiglu_limit_after_activation": 1}),
    ]  # fmt: skip


def _packed(name: str, height: int, bits: int, block: int | None, *, has_points: bool) -> list[Given | None]:
    """(weights, scales, zero points) of a projection of 32 numbers, with a scale a block or a row."""
    num_blocks = 32 // block if block else None
    scales = (4, height, num_blocks) if num_blocks else (4, height)
    zeros = (4, height, -(-num_blocks * bits // 8)) if num_blocks else (4, -(-height * bits // 8))
    return [
        Given(name=f"{name}_experts_weights", shape=(4, height, 32 * bits // 8), dtype="uint8", kind="bits",
              is_weight=True),
        weight(f"{name}_scales", *scales, kind="scale"),
        Given(name=f"{name}_zero_points", shape=zeros, dtype="uint8", kind="bits", is_weight=True)
        if has_points else None,
    ]  # fmt: skip


def _quantised(
    what: str,
    bits: int,
    *,
    block: int | None = 32,
    types: tuple[str, ...] = _BOTH,
    has_third: bool = False,
    outer_bits: int | None = None,
    more: Attributes | None = None,
) -> list[Case]:
    """QMoE's rows. outer_bits: of fc2, if they are others; `what` says which inputs there are."""
    is_gated = not what.startswith("silu")
    wide = 64 if is_gated and not has_third else 32
    points, bias = "zero points" in what, "biases" in what
    inner, inner_scales, inner_points = _packed("fc1", wide, bits, block, has_points=points)
    outer, outer_scales, outer_points = _packed("fc2", 32, outer_bits or bits, block, has_points=points)
    third, third_scales, third_points = _packed("fc3", 32, bits, block, has_points=points) if has_third else [None] * 3
    given = [
        _X, _ROUTER, inner, inner_scales, weight("fc1_experts_bias", 4, wide, kind="normal") if bias else None,
        outer, outer_scales, weight("fc2_experts_bias", 4, 32, kind="normal") if bias else None,
        third, third_scales, weight("fc3_experts_bias", 4, 32, kind="normal") if bias and has_third else None,
        inner_points, outer_points, third_points,
        Given(name="router_weights", shape=(6, 4), kind="small") if "router_weights" in what else None,
    ]  # fmt: skip
    told = {**(_FUSED if is_gated else {**_COMMON, "activation_type": "silu"}), "expert_weight_bits": bits}
    told |= {"block_size": block} if block else {}
    is_rounded = 8 in (bits, outer_bits) or (more or {}).get("accuracy_level") == 4
    return _ours(
        "QMoE", f"{what}, {bits} bits, {f'blocks of {block}' if block else 'a scale a row'}", given, types=types,
        attributes={**told, "quant_type": "int", "weights_prepacked": 0, **(more or {})}, oracle="experts",
        tolerance=4e-2 if is_rounded else None,
    )  # fmt: skip


def _of_integers() -> list[Case]:
    made = _quantised
    apart: Attributes = {"swiglu_fusion": 0}
    return [
        *(row for bits in (2, 4, 8) for row in made("swiglu", bits, types=HALF)),
        *(row for bits in (2, 4, 8) for row in made("swiglu, zero points", bits)),
        *(row for bits in (2, 4, 8) for row in made("swiglu", bits, block=None)),
        *(row for bits in (2, 4, 8) for row in made("swiglu, zero points", bits, block=None)),
        *made("swiglu", 4, block=16), *made("swiglu, zero points", 4, block=16),
        *made("swiglu, level 4", 4, types=("float32",), more={"accuracy_level": 4}),
        *made("swiglu, level 4, zero points", 4, types=("float32",), more={"accuracy_level": 4}),
        *made("swiglu, router_weights", 4), *made("swiglu, router_weights, zero points", 4),
        *made("swiglu, biases", 4),
        *made("swiglu, biases, alpha, beta, limit", 4, more=_LIMITED),
        *made("swiglu, limit after the activation", 4, more={**_LIMITED, "swiglu_limit_after_activation": 1}),
        *made("swiglu, gate before up", 4, more={"swiglu_fusion": 2}),
        *made("swiglu, gate and up apart", 4, has_third=True, more=apart),
        *made("swiglu, gate and up apart, biases, zero points", 4, has_third=True, more=apart),
        *made("swiglu, fc2 of 8 bits", 4, outer_bits=8,
              more={"fc1_expert_weight_bits": 4, "fc2_expert_weight_bits": 8, "fc3_expert_weight_bits": 4}),
        *made("silu", 4), *made("silu, sparse mixer", 4, more={"use_sparse_mixer": 1, "normalize_routing_weights": 0}),
        *made("swiglu, shares not normalised", 4, more={"normalize_routing_weights": 0}),
    ]  # fmt: skip


def _router() -> list[Case]:
    """8 experts in 4 groups, 2 of which are kept; or the scores of all."""
    made = partial(_ours, "MoEGroupRouter", types=HALF, oracle="group_router")
    bias = Given(name="expert_bias", shape=(8,), dtype="float32", is_weight=True)
    groups: Attributes = {"top_k": 3, "n_group": 4, "topk_group": 2, "group_topk": 2, "router_sentinel": -100.0}
    one: Attributes = {"top_k": 3, "n_group": 1, "topk_group": 1}
    whole = ("", "selection_scores", "router_weights")
    projected = [tensor("logits", 6, 256), bias, weight("projection_weight", 8, 256, kind="scale")]
    return [
        *made("groups", [tensor("logits", 6, 8), bias], attributes=groups, outputs=("router_probs",)),
        *made("all scores", [tensor("logits", 6, 8), bias], attributes=one, outputs=whole,
              types_of={"selection_scores": "float32", "router_weights": "float32"}),
        *made("all scores, projected", projected, attributes=one, outputs=whole,
              types_of={"selection_scores": "float32", "router_weights": "float32"}),
    ]  # fmt: skip
