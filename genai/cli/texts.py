"""Texts as arguments, or as lines of standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from genai.errors import ConfigError


def given_texts(arguments: Sequence[str] | None, noun: str) -> list[str]:
    """The texts as given, or the lines of standard input that are not blank. Raises: ConfigError if there are none."""
    if arguments and list(arguments) != ["-"]:
        return list(arguments)
    if not arguments and sys.stdin.isatty():
        raise ConfigError(f"no {noun}: give some as arguments, or pipe them in, one a line")
    try:
        lines = sys.stdin.buffer.read().decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is not UTF-8 (byte {error.start})") from None
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise ConfigError(f"no {noun}: standard input has no line that is not blank")
    return texts
