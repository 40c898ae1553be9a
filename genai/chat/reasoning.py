"""The markers that models put around their reasoning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningMarkers:
    """What stands before and after reasoning text."""

    open: str
    close: str


KNOWN_REASONING = (
    ReasoningMarkers(open="<think>", close="</think>"),  # Qwen3, DeepSeek R1, SmolLM3, Olmo 3, Granite 3.3, Phi-4
    ReasoningMarkers(open="[THINK]", close="[/THINK]"),  # Magistral and later models of Mistral
    ReasoningMarkers(open="<seed:think>", close="</seed:think>"),  # Seed-OSS
    ReasoningMarkers(open="<|START_THINKING|>", close="<|END_THINKING|>"),  # Command A Reasoning
    ReasoningMarkers(open="◁think▷", close="◁/think▷"),  # Kimi-VL
    ReasoningMarkers(open="<|begin_of_thought|>", close="<|end_of_thought|>"),  # OpenThinker, Sky-T1
)


def reasoning_begun(prompt: str | None, known: Sequence[ReasoningMarkers]) -> ReasoningMarkers | None:
    """The markers inside which an answer to this prompt begins: templates may open the reasoning themselves."""
    end = (prompt or "").rstrip()
    return next((markers for markers in known if end.endswith(markers.open)), None)
