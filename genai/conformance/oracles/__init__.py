"""What an operator should give: onnx.reference for what the standard has, NumPy for what ONNX Runtime adds.

Values of 16 and 8 bits are made float32 first, so that only the runtime rounds. A result is NaN where the operator may
leave anything: slots of a cache that nobody wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from genai.conformance.case import Array, Case
from genai.conformance.oracles import attention, experts, recurrent, small, weights
from genai.conformance.oracles.node import Floats, Node

_INTEGERS = ("int32", "int64", "bool")


def expected(case: Case) -> dict[str, Floats]:
    """The outputs by name, those that are asked for.

    Raises: Exception, the reference's own, where onnx is too old for the operator.
    """
    given = case.values()
    values = {
        each.name: value if str(value.dtype) in _INTEGERS or each.kind == "bits" else value.astype(np.float32)
        for each in case.given()
        if (value := given.get(each.name)) is not None
    }
    results = _by_reference(case, values) if case.oracle == "onnx.reference" else _by_numpy(case, values)
    return {name: np.asarray(results[name], np.float64) for name in case.outputs if name}


def _by_reference(case: Case, values: Mapping[str, Array]) -> Mapping[str, Array]:
    from onnx.reference import ReferenceEvaluator

    if case.domain == "com.microsoft":  # the standard's operator of that name means the same
        case = dataclasses.replace(case, domain="ai.onnx", opset=27)
    plain = dataclasses.replace(
        case,
        inputs=tuple(
            each and dataclasses.replace(each, dtype=None if each.dtype not in _INTEGERS else each.dtype)
            for each in case.inputs
        ),
    )
    results = ReferenceEvaluator(plain.model("float32")).run(None, dict(values))
    return dict(zip((name for name in case.outputs if name), results, strict=True))


def _by_numpy(case: Case, values: Mapping[str, Array]) -> Mapping[str, Floats]:
    floats = {
        name: np.asarray(value, np.float64) if value.dtype == np.float32 else value for name, value in values.items()
    }
    types = {each.name: each.dtype or case.dtype for each in case.given()}
    return ORACLES[case.oracle](Node(given=floats, attributes=case.attributes, types=types))


ORACLES: Mapping[str, Callable[[Node], Mapping[str, Floats]]] = {
    "causal_conv": recurrent.causal_conv,
    "experts": experts.experts,
    "fast_gelu": small.fast_gelu,
    "gated_delta_net": recurrent.gated_delta_net,
    "gated_rms_norm": small.gated_rms_norm,
    "gather_blocks": weights.gather_blocks,
    "group_query_attention": attention.group_query_attention,
    "group_router": experts.group_router,
    "matmul_nbits": weights.matmul_nbits,
    "multi_head_attention": attention.multi_head_attention,
    "quick_gelu": small.quick_gelu,
    "rotary": small.rotary,
    "skip_layer_norm": small.skip_layer_norm,
    "skip_rms_norm": small.skip_rms_norm,
    "swiglu": small.swiglu,
    "windowed_linear_attention": recurrent.windowed_linear_attention,
}
"""By name, as rows have it: from a node to all of its outputs."""
