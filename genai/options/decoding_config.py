"""The parts of a `GenerationConfig`: how a token is chosen, how texts are compared, what a text must look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from genai.errors import ConfigError
from genai.options.option import EVERYBODY, Flag, Option, Served, check_options, option, part
from genai.options.rules import (
    SIZE_MAX,
    UNLIMITED,
    Number,
    OneOf,
    TokenIds,
    Whole,
    biases,
    json_text,
    require,
    strings,
    switch,
    text,
    words,
)

StopCriteria: TypeAlias = Literal["EARLY", "HEURISTIC", "NEVER"]
ConstraintKind: TypeAlias = Literal["json_schema", "regex", "lark", "choices"]

_NOT_OPENAI = ("same", "same", "same", "–")


@dataclass(frozen=True, slots=True, kw_only=True)
class XtcConfig:
    """Exclude top choices: with `probability`, drop all but the least probable of the tokens above `threshold`.

    Source: github.com/oobabooga/text-generation-webui, pull request 6335.
    """

    # fmt: off
    probability: float = option(0.0, Number(least=0, most=1, off=0), "How often top choices are left out.",
        flag=Flag(), served=Served(), samples=True)
    threshold: float = option(0.1, Number(least=0, most=1), "What counts as a top choice.",
        served=Served(), samples=True)
    # fmt: on

    def __post_init__(self) -> None:
        check_options(self, "xtc_")


@dataclass(frozen=True, slots=True, kw_only=True)
class DryConfig:
    """Don't repeat yourself: lower tokens that would prolong a repetition of what stands in the text already.

    A repetition of n ≥ allowed_length tokens costs multiplier * base ** (n - allowed_length). multiplier: 0 switches it
    off. Source: github.com/oobabooga/text-generation-webui, pull request 5677.
    """

    # fmt: off
    multiplier: float = option(0.0, Number(least=0), "How much prolonging a repetition costs.",
        unset="off", flag=Flag(), served=Served(most=100))
    base: float = option(1.75, Number(least=1), "How that grows with their length.", served=Served(most=100))
    allowed_length: int = option(2, Whole(least=1), "Repetitions that cost nothing.",
        served=Served(most=1000))
    window: int | None = option(None, Whole(least=1, none=UNLIMITED), "Tokens looked back at.", unset="all")
    sequence_breakers: tuple[str, ...] = option(("\n", ":", '"', "*"), strings,
        "Repetitions do not reach across tokens with one of these.")
    # fmt: on

    def __post_init__(self) -> None:
        check_options(self, "dry_")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen from the logits.

    Steps apply in this order, and only those that are asked for: constraint, bad words, suppressed tokens, allowed
    tokens, logit bias, repetition, presence and frequency penalties, no-repeat n-grams, DRY; and when sampling:
    temperature, top-k, typical-p, top-p, min-p, XTC. None, 0 and SIZE_MAX switch a filter off, and so does a top_p,
    typical_p or repetition_penalty of 1.

    do_sample: False takes the most probable token; presence_penalty and frequency_penalty count generated tokens,
    repetition_penalty also those of the prompt.
    """

    # fmt: off
    do_sample: bool = option(False, switch, "Draw the tokens, instead of taking the most probable ones.",
        unset="False; True once a sampling option is given", peers=_NOT_OPENAI)
    temperature: float = option(1.0, Number(above=0), "Above 0: sample; 0: the most probable token.",
        peers=EVERYBODY, flag=Flag(short="-t"), served=Served(is_extension=False, least=0, most=2), samples=True)
    top_k: int = option(0, Whole(off=0), "Sample from the k most probable.",
        peers=("same", "same", "same", "same (−1: off)"), flag=Flag(), samples=True,
        served=Served(says="Sample from the k most probable; 0: all."))
    top_p: float = option(1.0, Number(above=0, most=1, off=1), "Sample from the smallest set this probable.",
        peers=EVERYBODY, flag=Flag(), served=Served(is_extension=False), samples=True)
    min_p: float = option(0.0, Number(least=0, most=1, off=0),
        "Drop what is less probable than this share of the best.",
        peers=("same", "same", "–", "same"), flag=Flag(), served=Served(), samples=True)
    typical_p: float = option(1.0, Number(above=0, most=1, off=1), "Locally typical sampling.",
        peers=("same", "–", "–", "–"), flag=Flag(), served=Served(), samples=True)
    xtc: XtcConfig = part(XtcConfig, "xtc_")
    rng_seed: int | None = option(None, Whole(most=SIZE_MAX, none=(-1,)), "Makes sampling repeatable.",
        unset="a new text each time", aliases=("seed", "random_seed"), peers=("–", "same", "`random_seed`", "`seed`"),
        flag=Flag(name="seed"), served=Served(name="seed", is_extension=False, below=1 << 63), samples=True)
    repetition_penalty: float = option(1.0, Number(above=0, off=1), "Above 1: make repeated tokens less probable.",
        aliases=("repeat_penalty",), peers=("same", "same", "same", "same; `repeat_penalty` in llama.cpp"),
        flag=Flag(), served=Served(most=100))
    presence_penalty: float = option(0.0, Number(off=0), "Taken from tokens that the text has.",
        peers=("–", "same", "–", "same"), flag=Flag(), served=Served(is_extension=False, least=-2, most=2))
    frequency_penalty: float = option(0.0, Number(off=0), "The same, for each time.",
        peers=("–", "same", "–", "same"), flag=Flag(), served=Served(is_extension=False, least=-2, most=2))
    no_repeat_ngram_size: int = option(0, Whole(off=0), "No sequence of so many tokens comes twice.",
        peers=_NOT_OPENAI, flag=Flag(), served=Served(most=1000))
    dry: DryConfig = part(DryConfig, "dry_")
    logit_bias: Mapping[int, float] = option({}, biases, "Added to the logits of these token ids.",
        peers=("`sequence_bias`", "–", "–", "same"), served=Served(is_extension=False, least=-100, most=100))
    bad_words: tuple[str | tuple[int, ...], ...] = option((), words,
        "Strings (or lists of token ids) that must not come.",
        aliases=("bad_words_ids",), peers=("`bad_words_ids`", "–", "–", "same"),
        flag=Flag(name="bad_word", says="This must not come"),
        served=Served(says="Strings that must not come.", most=1000))
    suppress_tokens: tuple[int, ...] = option((), TokenIds(), "Token ids that must not come.",
        unset="the model's own, or none", peers=_NOT_OPENAI)
    allowed_token_ids: tuple[int, ...] | None = option(None, TokenIds(least=1), "No other tokens come.",
        unset="all", peers=("–", "–", "–", "same"), served=Served(most=1 << 18))
    # fmt: on

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchConfig:
    """How several continuations are kept and compared; `num_beams=1` switches it off.

    length_penalty: a finished text's score is its log probability over length ** length_penalty; diversity_penalty:
    taken from a token's score for each earlier group that has chosen it in the same step; stop_criteria: "EARLY" ends
    when num_beams texts have ended, "HEURISTIC" when no better one is likely, "NEVER" when none is possible.
    """

    # fmt: off
    num_beams: int = option(1, Whole(least=1), "Beam search with so many beams.",
        unset="1 (off)", peers=_NOT_OPENAI, flag=Flag())
    num_beam_groups: int = option(1, Whole(least=1), "Groups of beams that differ.",
        peers=("same (up to version 4)", "same", "–", "–"))
    diversity_penalty: float = option(0.0, Number(least=0), "How much they have to.",
        peers=("same (up to version 4)", "same", "–", "–"))
    length_penalty: float = option(1.0, Number(), "Of beams: above 0 favours long texts.",
        peers=_NOT_OPENAI, flag=Flag())
    num_return_sequences: int = option(1, Whole(least=1), "How many of the beams.",
        peers=_NOT_OPENAI, flag=Flag(group="several"))
    no_repeat_ngram_size: int = option(0, Whole(off=0), "As for samples, of beams.")
    stop_criteria: StopCriteria = option("HEURISTIC",
        OneOf(("EARLY", "HEURISTIC", "NEVER"), "EARLY, HEURISTIC or NEVER"),
        "When the search ends: EARLY, HEURISTIC or NEVER.", aliases=("early_stopping",),
        peers=('`early_stopping` True, False, "never"', "same", "`early_stopping`", "–"))
    # fmt: on

    def __post_init__(self) -> None:
        check_options(self)
        if self.num_beams % self.num_beam_groups:
            raise ConfigError(f"num_beams={self.num_beams} cannot be shared by num_beam_groups={self.num_beam_groups}")
        if self.num_return_sequences > self.num_beams:
            raise ConfigError(f"num_return_sequences={self.num_return_sequences} is above num_beams={self.num_beams}")
        if self.diversity_penalty and self.num_beam_groups == 1:
            raise ConfigError("diversity_penalty tells groups apart: set num_beam_groups above 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintConfig:
    """What the text must match from its first character to its end.

    grammar: a JSON schema as JSON text; a regular expression (Rust's regex syntax); a Lark grammar (llguidance's); or
    the texts to choose from; num_own: how many of its characters no request wrote, such as how calls are spelled: they
    do not count where it must not be too long.
    """

    kind: ConstraintKind
    grammar: str | tuple[str, ...]
    num_own: int = 0

    def __post_init__(self) -> None:
        require(self.kind in _KINDS, "kind", self.kind, f"one of {', '.join(_KINDS)}")
        object.__setattr__(self, "grammar", CONSTRAINTS[self.kind].rule(self.grammar, self.kind))
        require(bool(self.grammar) or self.kind != "choices", "choices", [], "one text at least")


_KINDS = ("json_schema", "regex", "lark", "choices")
_STRUCTURED = ("–", "`structured_output_config`", "`guidance_type`")

# fmt: off
CONSTRAINTS: Mapping[str, Option] = {
    "json_schema": Option(json_text, "The text is JSON that follows this schema.",
        peers=(*_STRUCTURED, "`response_format`"), flag=Flag(metavar="JSON|@FILE")),
    "json_object": Option(switch, "The text is a JSON object.",
        peers=(*_STRUCTURED, "`response_format`"), flag=Flag()),
    "regex": Option(text, "The text matches this.", peers=(*_STRUCTURED, "`guided_regex`"),
        flag=Flag(metavar="PATTERN"), served=Served(says="The text matches this (Rust's syntax).")),
    "lark": Option(text, "The text follows this Lark grammar.", peers=(*_STRUCTURED, "`guided_grammar`"),
        flag=Flag(metavar="GRAMMAR|@FILE"),
        served=Served(name="grammar", says="The text follows this Lark grammar (llguidance's).")),
    "choices": Option(strings, "The text is one of these.", peers=("–", "–", "–", "`guided_choice`"),
        flag=Flag(name="choice", says="The text is this, or another --choice"), served=Served(least=1, most=1000)),
}
# fmt: on
"""The ways to write a constraint: a text follows one of them at most."""
