"""Fields that every request for a text has, and what every answer says of its cost."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints

from server.schemas.common import JsonObject, ModelName, Request, Response, TokenIds

Text: TypeAlias = Annotated[str, StringConstraints(min_length=1)]
StopStrings: TypeAlias = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=16)]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]


class StreamOptions(Request):
    """How a stream is told."""

    include_usage: bool | None = Field(None, description="End with an event that has `usage` and no choices.")
    include_obfuscation: Literal[False] | None = Field(None, description="Padding against eavesdroppers: not made.")


class GenerationRequest(Request):
    """What chat and plain completions have in common. Null is as good as left out: the model's own default."""

    model: ModelName = None
    stream: bool | None = Field(None, description="Send the text as server-sent events while it is written.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    n: int | None = Field(None, ge=1, le=128, description="How many texts; each has a random stream of its own.")
    seed: int | None = Field(None, ge=0, lt=1 << 63, description="Makes sampling repeatable.")
    stop: Annotated[str, Field(min_length=1, max_length=1000)] | StopStrings | None = Field(
        None, description="The text ends before the first of these."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0: always the most probable token.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample from the smallest set this probable.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=4096)] | None = Field(
        None, description="Added to the logits of these token ids."
    )
    user: str | None = Field(None, description="A label; it changes nothing, and is not kept.")

    top_k: int | None = Field(None, ge=0, lt=1 << 31, description="Extension. Sample from the k most probable; 0: all.")
    min_p: float | None = Field(None, ge=0, le=1, description="Extension. Drop what is less probable than this share.")
    typical_p: float | None = Field(None, gt=0, le=1, description="Extension. Locally typical sampling.")
    repetition_penalty: float | None = Field(None, gt=0, le=100, description="Extension. Above 1: repeat less.")
    no_repeat_ngram_size: int | None = Field(
        None, ge=0, le=1000, description="Extension. No sequence of so many tokens comes twice."
    )
    xtc_probability: float | None = Field(None, ge=0, le=1, description="Extension. How often top choices are dropped.")
    xtc_threshold: float | None = Field(None, ge=0, le=1, description="Extension. What counts as a top choice.")
    dry_multiplier: float | None = Field(None, ge=0, le=100, description="Extension. How much repetitions cost.")
    dry_base: float | None = Field(None, ge=1, le=100, description="Extension. How that grows with their length.")
    dry_allowed_length: int | None = Field(None, ge=1, le=1000, description="Extension. Repetitions that cost nothing.")
    min_tokens: int | None = Field(None, ge=0, lt=1 << 31, description="Extension. No end before so many tokens.")
    stop_token_ids: Annotated[TokenIds, Field(max_length=1024)] | None = Field(
        None, description="Extension. Tokens that end the text beside the model's own, `ignore_eos` or not."
    )
    ignore_eos: bool | None = Field(None, description="Extension. Go on past the end (for benchmarks).")
    bad_words: Annotated[list[Text], Field(max_length=1000)] | None = Field(
        None, description="Extension. Strings that must not come."
    )
    allowed_token_ids: Annotated[TokenIds, Field(min_length=1, max_length=1 << 18)] | None = Field(
        None, description="Extension. No other tokens come."
    )
    regex: Text | None = Field(None, description="Extension. The text matches this (Rust's syntax).")
    grammar: Text | None = Field(None, description="Extension. The text follows this Lark grammar (llguidance's).")
    choices: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Extension. The text is one of these."
    )


class PromptTokensDetails(Response):
    """Where a prompt's tokens came from."""

    cached_tokens: int = Field(description="Those whose keys and values were in the prefix cache.")


class Usage(Response):
    """Tokens, of all texts of a request together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Timings(Response):
    """Extension: seconds, of a request's first text."""

    queue_seconds: float = Field(description="Waiting for a row of the cache.")
    time_to_first_token: float
    total_seconds: float
    tokens_per_second: float = Field(description="After the first token.")


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "self"})


def _variables(options: JsonObject) -> JsonObject:
    for name in options:
        if name in _RESERVED or not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name[:64]!r} cannot be set")
    return options


ChatTemplateOptions: TypeAlias = Annotated[JsonObject, Field(max_length=32), AfterValidator(_variables)]
