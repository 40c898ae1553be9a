"""How much a model is to reason, as its chat template knows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_SWITCHES = ("enable_thinking", "thinking")
_LEVELS: Mapping[str, str] = {
    **dict.fromkeys(("none", "minimal", "low"), "low"),
    "medium": "medium",
    **dict.fromkeys(("high", "xhigh", "max"), "high"),
}
"""OpenAI's efforts, and those that templates know."""


def reasoning_variables(
    known: Collection[str], reasoning_effort: str | None = None, reasoning_budget: int | None = None
) -> dict[str, object]:
    """The variables that tell a template of an effort and a budget of tokens; known: those that it reads."""
    effort, budget = reasoning_effort, reasoning_budget
    variables: dict[str, object] = {}
    if effort is not None:
        variables |= {name: effort != "none" for name in _SWITCHES if name in known}
        if "reasoning_effort" in known:
            variables["reasoning_effort"] = _LEVELS[effort]
    if "thinking_budget" in known and (budget is not None or effort == "none"):
        variables["thinking_budget"] = 0 if effort == "none" else budget
    return variables
