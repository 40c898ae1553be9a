"""The operator matrix: what the installed ONNX Runtime does with the operators that generation stands on.

Each row is one operator with given inputs and attributes, at one opset and in one type: has it a kernel, is its
function inlined, or does it fail; is it right; is a cache written in place. `genai conformance` shows it.
"""

from __future__ import annotations

from genai.conformance.case import Case, Given, Growth
from genai.conformance.rows.attention import attention_cases
from genai.conformance.rows.contrib import contrib_cases
from genai.conformance.rows.contrib_attention import contrib_attention_cases
from genai.conformance.rows.experts import expert_cases
from genai.conformance.rows.recurrent import recurrent_cases
from genai.conformance.rows.standard import standard_cases
from genai.conformance.rows.weights import weight_cases

__all__ = ["Case", "Given", "Growth", "all_cases"]


def all_cases() -> list[Case]:
    """Every row, standard operators first."""
    return [
        *standard_cases(),
        *attention_cases(),
        *recurrent_cases("ai.onnx"),
        *contrib_attention_cases(),
        *recurrent_cases("com.microsoft"),
        *weight_cases(),
        *expert_cases(),
        *contrib_cases(),
    ]
