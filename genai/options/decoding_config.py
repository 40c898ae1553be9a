"""The parts of a `GenerationConfig`: how a token is chosen, how texts are compared, what a text must look like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from genai.errors import ConfigError
from genai.options.values import (
    SIZE_MAX,
    require,
    set_defaults,
    set_field,
    size,
    strings,
    token_ids,
    unlimited,
    whole,
)

StopCriteria: TypeAlias = Literal["EARLY", "HEURISTIC", "NEVER"]
ConstraintKind: TypeAlias = Literal["json_schema", "regex", "lark", "choices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class XtcConfig:
    """Exclude top choices: with `probability`, drop all but the least probable of the tokens above `threshold`.

    probability: 0 switches it off. Source: github.com/oobabooga/text-generation-webui, pull request 6335.
    """

    probability: float = 0.0
    threshold: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, "xtc_probability", self.probability, "between 0 and 1 (0: off)")
        require(0 <= self.threshold <= 1, "xtc_threshold", self.threshold, "between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DryConfig:
    """Don't repeat yourself: lower tokens that would prolong a repetition of what stands in the text already.

    A repetition of n ≥ allowed_length tokens costs multiplier * base ** (n - allowed_length). multiplier: 0 switches it
    off; window: tokens looked back at, None for all; sequence_breakers: repetitions do not reach across tokens with
    one of these. Source: github.com/oobabooga/text-generation-webui, pull request 5677.
    """

    multiplier: float = 0.0
    base: float = 1.75
    allowed_length: int = 2
    window: int | None = None
    sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.multiplier) and self.multiplier >= 0, "dry_multiplier", self.multiplier, "at least 0"
        )
        require(math.isfinite(self.base) and self.base >= 1, "dry_base", self.base, "at least 1")
        require(self.allowed_length >= 1, "dry_allowed_length", self.allowed_length, "at least 1")
        set_field(self, "window", unlimited(self.window, "dry_window"))
        set_field(self, "sequence_breakers", strings(self.sequence_breakers, "dry_sequence_breakers"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen from the logits.

    Steps apply in this order, and only those that are asked for: constraint, bad words, allowed tokens, logit bias,
    repetition, presence and frequency penalties, no-repeat n-grams, DRY; and when sampling: temperature, top-k,
    typical-p, top-p, min-p, XTC. None, 0 and SIZE_MAX switch a filter off, and so does a top_p, typical_p or
    repetition_penalty of 1.

    do_sample: False takes the most probable token; rng_seed: None for a different text each time; presence_penalty and
    frequency_penalty count generated tokens, repetition_penalty also those of the prompt; bad_words: strings or lists
    of token ids that must not come; allowed_token_ids: None for all.
    """

    do_sample: bool = False
    rng_seed: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str | tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    xtc: XtcConfig = field(default_factory=XtcConfig)
    dry: DryConfig = field(default_factory=DryConfig)

    def __post_init__(self) -> None:
        set_defaults(self)
        for name in ("top_k", "no_repeat_ngram_size"):
            set_field(self, name, size(getattr(self, name), name))
        for name in ("top_p", "typical_p", "repetition_penalty"):
            if getattr(self, name) == 0:
                set_field(self, name, 1.0)
        require(self.temperature > 0 and math.isfinite(self.temperature), "temperature", self.temperature, "above 0")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1 (1: off)")
        require(0 < self.typical_p <= 1, "typical_p", self.typical_p, "above 0 and at most 1 (1: off)")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1 (0: off)")
        penalty = self.repetition_penalty
        require(penalty > 0 and math.isfinite(penalty), "repetition_penalty", penalty, "above 0 (1: off)")
        for name in ("presence_penalty", "frequency_penalty"):
            require(math.isfinite(getattr(self, name)), name, getattr(self, name), "a finite number (0: off)")
        if self.rng_seed is not None:
            set_field(self, "rng_seed", whole(self.rng_seed, "rng_seed", 0, "between 0 and 2**64 - 1"))
            require(self.rng_seed <= SIZE_MAX, "rng_seed", self.rng_seed, "between 0 and 2**64 - 1")
        self._normalize_tokens()

    def _normalize_tokens(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            raise ConfigError("logit_bias maps token ids to what is added to their logits")
        try:
            bias = {int(token): float(value) for token, value in self.logit_bias.items()}
        except (TypeError, ValueError):
            raise ConfigError("logit_bias maps token ids to what is added to their logits") from None
        for token, value in bias.items():
            require(value < math.inf, f"logit_bias[{token}]", value, "a number below infinity")
        set_field(self, "logit_bias", bias)
        given: object = self.bad_words
        words = (given,) if isinstance(given, str) else self.bad_words
        words = tuple(word if isinstance(word, str) else token_ids(word, "bad_words") for word in words)
        set_field(self, "bad_words", words)
        if any(not word for word in self.bad_words):
            raise ConfigError("bad_words: every one is a non-empty string or list of token ids")
        if self.allowed_token_ids is not None:
            set_field(self, "allowed_token_ids", token_ids(self.allowed_token_ids, "allowed_token_ids"))
            require(bool(self.allowed_token_ids), "allowed_token_ids", [], "None for all, or at least one token")


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchConfig:
    """How several continuations are kept and compared; `num_beams=1` switches it off.

    length_penalty: a finished text's score is its log probability over length ** length_penalty; diversity_penalty:
    taken from a token's score for each earlier group that has chosen it in the same step; stop_criteria: "EARLY" ends
    when num_beams texts have ended, "HEURISTIC" when no better one is likely, "NEVER" when none is possible.
    """

    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    num_return_sequences: int = 1
    no_repeat_ngram_size: int = 0
    stop_criteria: StopCriteria = "HEURISTIC"

    def __post_init__(self) -> None:
        set_defaults(self)
        for name in ("num_beams", "num_beam_groups", "num_return_sequences"):
            set_field(self, name, whole(getattr(self, name), name, 1, "at least 1"))
        set_field(self, "no_repeat_ngram_size", size(self.no_repeat_ngram_size, "no_repeat_ngram_size"))
        for name in ("diversity_penalty", "length_penalty"):
            require(math.isfinite(getattr(self, name)), name, getattr(self, name), "a finite number")
        require(self.diversity_penalty >= 0, "diversity_penalty", self.diversity_penalty, "at least 0")
        require(self.stop_criteria in _STOP_CRITERIA, "stop_criteria", self.stop_criteria, "EARLY, HEURISTIC or NEVER")
        if self.num_beams % self.num_beam_groups:
            raise ConfigError(f"num_beams={self.num_beams} cannot be shared by num_beam_groups={self.num_beam_groups}")
        if self.num_return_sequences > self.num_beams:
            raise ConfigError(f"num_return_sequences={self.num_return_sequences} is above num_beams={self.num_beams}")
        if self.diversity_penalty and self.num_beam_groups == 1:
            raise ConfigError("diversity_penalty tells groups apart: set num_beam_groups above 1")


_STOP_CRITERIA = ("EARLY", "HEURISTIC", "NEVER")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintConfig:
    """What the text must match from its first character to its end.

    grammar: a JSON schema as JSON text; a regular expression (Rust's regex syntax); a Lark grammar (llguidance's); or
    the texts to choose from.
    """

    kind: ConstraintKind
    grammar: str | tuple[str, ...]

    def __post_init__(self) -> None:
        require(self.kind in _KINDS, "kind", self.kind, f"one of {', '.join(_KINDS)}")
        if self.kind == "choices":
            set_field(self, "grammar", strings(self.grammar, "choices"))
            require(bool(self.grammar), "choices", [], "one text at least")
        elif not isinstance(self.grammar, str):
            raise ConfigError(f"{self.kind} is a string, not {self.grammar!r}")


_KINDS = ("json_schema", "regex", "lark", "choices")
