"""Texts that are encoded only to be told or counted, within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genai.errors import ConfigError

if TYPE_CHECKING:
    from genai.tokenizer.tokenizer import Tokenizer

MAX_TOKENS = 1 << 20
"""Encoding more would take hundreds of megabytes."""


def encoded(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """A text's tokens. Raises: ConfigError for more than `MAX_TOKENS`, TokenizerError."""
    if (beyond := tokenizer.num_beyond(text, MAX_TOKENS)) is not None:
        raise ConfigError(f"the text has at least {beyond} tokens; at most {MAX_TOKENS} are encoded at once")
    return tokenizer.encode(text, add_special_tokens=add_special_tokens)
