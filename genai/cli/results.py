"""What a generation took, for people and for scripts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from genai import Generation

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


def only(result: Generation | list[Generation]) -> Generation:
    """The result of a single prompt."""
    if isinstance(result, list):
        (result,) = result
    return result


def summary(result: Generation) -> str:
    """One line: time to first token, speed, and how many tokens went in and came out."""
    usage, timings = result.usage, result.timings
    cached = f" ({usage.cached_tokens} from the cache)" if usage.cached_tokens else ""
    ending = ", cut off by the token limit" if result.finish_reason == "length" else ""
    return (
        f"first token after {timings.time_to_first_token:.2f} s, {timings.tokens_per_second:.1f} tokens/s; "
        f"{usage.prompt_tokens} prompt tokens{cached}, {usage.completion_tokens} new{ending}"
    )


def as_json(result: Generation) -> dict[str, JSON]:
    """A result as JSON; times are in seconds."""
    return {
        "text": result.text,
        "token_ids": list(result.token_ids),
        "finish_reason": result.finish_reason,
        "usage": dataclasses.asdict(result.usage),
        "timings": dataclasses.asdict(result.timings),
    }
