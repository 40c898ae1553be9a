"""Efforts and budgets in the variables of templates."""

from __future__ import annotations

import pytest

from genai.chat.reasoning import reasoning_variables
from genai.chat.template import ChatTemplate
from genai.options.generation_config import EFFORTS

GPT_OSS = (
    "{% macro m() %}{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
    "{% endmacro %}"
)
DEEPSEEK = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ messages[0].thinking }}"
SEED = "{% if not thinking_budget is defined %}{% set thinking_budget = -1 %}{% endif %}"
QWEN = "{% if enable_thinking is defined and enable_thinking is false %}x{% endif %}"


@pytest.mark.parametrize(
    ("source", "effort", "budget", "told"),
    [
        (GPT_OSS, "minimal", None, {"reasoning_effort": "low"}),
        (GPT_OSS, "xhigh", 5, {"reasoning_effort": "high"}),
        (GPT_OSS, None, 5, {}),
        (DEEPSEEK, "low", None, {"thinking": True}),
        (DEEPSEEK, "none", None, {"thinking": False}),
        (QWEN, "none", None, {"enable_thinking": False}),
        (QWEN, "max", None, {"enable_thinking": True}),
        (SEED, None, 512, {"thinking_budget": 512}),
        (SEED, "none", 512, {"thinking_budget": 0}),
        (SEED, "high", None, {}),
        ("{{ messages[0].enable_thinking }}", "none", 5, {}),
    ],
)
def test_a_template_is_told_by_the_variables_that_it_reads(
    source: str, effort: str | None, budget: int | None, told: dict[str, object]
) -> None:
    assert reasoning_variables(ChatTemplate(source).variables, effort, budget) == told


def test_every_effort_is_known() -> None:
    for effort in EFFORTS:
        assert reasoning_variables({"reasoning_effort"}, effort)["reasoning_effort"] in ("low", "medium", "high")
