"""The rows of ONNX Runtime's own operators that decoders are made of, beside the standard ones for comparison."""

from __future__ import annotations

from functools import partial

from genai.conformance.case import Attributes, Case, Given, Growth, rows
from genai.conformance.table import causal_conv, linear_attention

_OPSETS = (24,)
_ours = partial(rows, domain="com.microsoft", opsets=_OPSETS)


def contrib_cases() -> list[Case]:
    """All rows of the domain com.microsoft."""
    return [*_group_query_attention(), *_recurrent(), *_matmul(), *_gather(), *_experts(), *_small()]


def _group_query_attention() -> list[Case]:
    def given(num_tokens: int, *valid: int, **more: Given) -> list[Given | None]:
        told = {
            "query": Given(name="query", shape=(2, num_tokens, 64)),
            "key": Given(name="key", shape=(2, num_tokens, 32)),
            "value": Given(name="value", shape=(2, num_tokens, 32)),
            "past_key": Given(name="past_key", shape=(2, 2, 11, 16)),
            "past_value": Given(name="past_value", shape=(2, 2, 11, 16)),
            "seqlens_k": Given(name="seqlens_k", shape=(2,), dtype="int32", kind="values", values=valid),
            "total_sequence_length": Given(
                name="total_sequence_length", dtype="int32", kind="values", values=(max(valid) + 1,)
            ),
        } | more
        names = ("cos_cache", "sin_cache", "position_ids", "attention_bias", "head_sink", "k_scale", "v_scale")
        return [*[told[name] for name in list(told)[:7]], *(told.get(name) for name in names)]

    heads = {"num_heads": 4, "kv_num_heads": 2}
    loops = {"present_key": "past_key", "present_value": "past_value"}
    ours = partial(
        _ours, "GroupQueryAttention", oracle="group_query_attention", outputs=("output", *loops), loops=loops
    )
    tables = {
        f"{name}_cache": Given(name=f"{name}_cache", shape=(11, 8), kind="table", is_weight=True)
        for name in ("cos", "sin")
    }
    growth = Growth(capacity=11, valid={"seqlens_k": 0, "total_sequence_length": 1})
    sink = Given(name="head_sink", shape=(4,))
    eight = {
        **{name: Given(name=name, shape=(2, 2, 11, 16), dtype="int8") for name in ("past_key", "past_value")},
        **{
            name: Given(name=name, shape=(1,), dtype="float32", kind="values", values=(0.03,))
            for name in ("k_scale", "v_scale")
        },
    }
    types: Attributes = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
    return [
        *ours("a prompt", given(3, 2, 2), attributes=heads),
        *ours(
            "one token", given(1, 7, 4), types=("float32", "float16", "bfloat16"), attributes=heads, growth=growth
        ),
        *ours("one token, rotary", given(1, 7, 4, **tables), attributes={**heads, "do_rotary": 1}),
        *ours("one token, window", given(1, 7, 4), attributes={**heads, "local_window_size": 3}),
        *ours("one token, softcap", given(1, 7, 4), attributes={**heads, "softcap": 2.0}),
        *ours("one token, sinks", given(1, 7, 4, head_sink=sink), attributes=heads),
        *ours(
            "one token, cache of int8", given(1, 7, 4, **eight), types=("float32", "float16"),
            attributes={**heads, **types}, growth=growth, tolerance=2e-2,
        ),
    ]  # fmt: skip


def _recurrent() -> list[Case]:
    told = partial(linear_attention, opsets=_OPSETS, domain="com.microsoft")
    conv = partial(causal_conv, opsets=_OPSETS, domain="com.microsoft")
    gates = [
        Given(name="X", shape=(2, 3, 32)),
        Given(name="scale", shape=(8,), is_weight=True),
        Given(name="gate", shape=(2, 3, 32)),
    ]
    return [
        *told("gated"),
        *told("gated_delta", types=("float32", "float16")),
        *told("gated_delta", what="gated_delta, one token", num_tokens=1),
        *conv("silu", types=("float32", "float16")),
        *conv("silu", what="silu, one token", num_tokens=1),
        *_ours(
            "GatedRMSNorm", "silu", gates, attributes={"activation": "silu", "epsilon": 1e-5}, oracle="gated_rms_norm"
        ),
    ]  # fmt: skip


def _matmul() -> list[Case]:
    def made(
        what: str,
        bits: int,
        block: int,
        *,
        zeros: str | None = None,
        level: int = 0,
        types: tuple[str, ...] = ("float32",),
    ) -> list[Case]:
        return _ours(
            "MatMulNBits", f"{bits} bits, blocks of {block}{what}",
            _packed(bits, block, zeros, with_bias="bias" in what),
            attributes={"bits": bits, "block_size": block, "K": 256, "N": 24, "accuracy_level": level},
            types=types, oracle="matmul_nbits", tolerance=2e-2 if level == 4 and zeros is None else None,
        )  # fmt: skip

    half = ("float32", "float16", "bfloat16")
    return [
        *made("", 4, 32, types=half),
        *made("", 8, 32, types=half),
        *made("", 2, 32),
        *(each for block in (16, 64, 128, 256) for each in made("", 4, block)),
        *made(", bias", 4, 32),
        *(each for bits in (2, 4, 8) for each in made(", level 4", bits, 32, level=4)),
        *made(", zero points", 4, 32, zeros="uint8"),
        *made(", zero points", 8, 32, zeros="uint8"),
        *made(", float zero points", 4, 32, zeros="float32"),
        *made(", float zero points, level 4", 4, 32, zeros="float32", level=4),
    ]


def _packed(bits: int, block: int, zeros: str | None, *, with_bias: bool) -> list[Given | None]:
    """MatMulNBits' inputs for K = 256, N = 24."""
    num_blocks = 256 // block
    points = None
    if zeros == "uint8":
        points = Given(
            name="zero_points", shape=(24, -(-num_blocks * bits // 8)), dtype="uint8", kind="bits", is_weight=True
        )
    elif zeros is not None:
        points = Given(name="zero_points", shape=(24, num_blocks), is_weight=True)
    return [
        Given(name="A", shape=(2, 3, 256)),
        Given(name="B", shape=(24, num_blocks, block * bits // 8), dtype="uint8", kind="bits", is_weight=True),
        Given(name="scales", shape=(24, num_blocks), kind="scale", is_weight=True),
        points,
        None,
        Given(name="bias", shape=(24,), is_weight=True) if with_bias else None,
    ]


def _gather() -> list[Case]:
    indices = Given(name="indices", shape=(2, 3), dtype="int64", kind="values", values=(0, 5, 2, 6, 1, 0))
    made: list[Case] = []
    for bits in (4, 8):
        data = Given(name="data", shape=(7, 64 * bits // 8), dtype="uint8", kind="bits", is_weight=True)
        scales = Given(name="scales", shape=(7, 2), kind="scale", is_weight=True)
        made += _ours(
            "GatherBlockQuantized", f"{bits} bits, blocks of 32", [data, indices, scales],
            attributes={"bits": bits, "block_size": 32, "quantize_axis": 1, "gather_axis": 0}, oracle="gather_blocks",
        )  # fmt: skip
    return made


def _experts() -> list[Case]:
    """Four experts of 32 → 32 → 32, two of them for each of 6 tokens."""
    x, router = Given(name="input", shape=(6, 32)), Given(name="router_probs", shape=(6, 4))

    def weight(name: str, *shape: int) -> Given:
        return Given(name=name, shape=shape, kind="small", is_weight=True)

    def scale(name: str, *shape: int) -> Given:
        return Given(name=name, shape=shape, kind="scale", is_weight=True)

    def packed(name: str, *shape: int) -> Given:
        return Given(name=name, shape=shape, dtype="uint8", kind="bits", is_weight=True)

    common: Attributes = {"k": 2, "normalize_routing_weights": 1}
    fused: Attributes = {
        **common,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
    }
    inner, outer = "fc1_experts_weights", "fc2_experts_weights"
    made = [
        *_ours(
            "MoE", "silu", [x, router, weight(inner, 4, 32, 32), None, weight(outer, 4, 32, 32)],
            types=("float32", "float16"), attributes={**common, "activation_type": "silu"}, oracle="experts",
        ),
        *_ours(
            "MoE", "swiglu, gate and up interleaved",
            [x, router, weight(inner, 4, 64, 32), None, weight(outer, 4, 32, 32)],
            attributes=fused, oracle="experts",
        ),
    ]  # fmt: skip
    for bits in (4, 8):
        size = 32 * bits // 8
        inputs = [
            x, router, packed(inner, 4, 64, size), scale("fc1_scales", 4, 64, 1), None,
            packed(outer, 4, 32, size), scale("fc2_scales", 4, 32, 1),
        ]  # fmt: skip
        made += _ours(
            "QMoE", f"swiglu, {bits} bits, blocks of 32", inputs, types=("float32", "float16"),
            attributes={**fused, "expert_weight_bits": bits, "block_size": 32}, oracle="experts",
            tolerance=4e-2 if bits == 8 else None,
        )  # fmt: skip
    return made


def _small() -> list[Case]:
    x, skip = Given(name="input", shape=(2, 3, 32)), Given(name="skip", shape=(2, 3, 32))
    scale = Given(name="gamma", shape=(32,), kind="small", is_weight=True)
    return _ours(
        "SkipSimplifiedLayerNormalization", "with the sum", [x, skip, scale], types=("float32", "float16"),
        attributes={"epsilon": 1e-5}, outputs=("output", "", "", "input_skip_bias_sum"), oracle="skip_norm",
    )  # fmt: skip
