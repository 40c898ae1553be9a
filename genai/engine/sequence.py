"""One text in the making: its tokens, how it is continued, and when things happened to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from genai.config import GenerationConfig
from genai.decoding.sampler import Sampler

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A prompt and what has been generated after it.

    tokens: prompt and generated tokens; num_cached: prompt tokens whose keys and values were there already;
    row: its row in the cache while it runs; finish_reason: None until the sequence has ended.
    Times are `time.perf_counter()` seconds.
    """

    tokens: list[int]
    num_prompt: int
    config: GenerationConfig
    eos_token_ids: frozenset[int]
    sampler: Sampler
    max_tokens: int
    row: int | None = None
    num_cached: int = 0
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    submitted: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0

    @property
    def generated(self) -> list[int]:
        """The tokens after the prompt."""
        return self.tokens[self.num_prompt :]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """What a step did to a sequence: one more token, or its end, or both.

    token: None when the sequence ended without a further token.
    """

    sequence: Sequence
    token: int | None
    finish_reason: FinishReason | None
