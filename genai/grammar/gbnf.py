"""Grammars in llama.cpp's notation (GBNF), as Lark ones."""

from __future__ import annotations

from genai.errors import RequestError

_MAX_LENGTH = 1 << 18


def lark_of_gbnf(grammar: str) -> str:
    """The same grammar in llguidance's Lark. Raises: RequestError."""
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if len(grammar) > _MAX_LENGTH:
        raise _wrong(f"has {len(grammar):,} characters; at most {_MAX_LENGTH:,} are read")
    try:
        return gbnf_to_lark(grammar)
    except Exception as error:  # of any kind, down to plain ones: it reads text, and nothing else
        reason, *_ = str(error).splitlines() or [type(error).__name__]
        raise _wrong(f"is no GBNF: {reason[:200]}") from None


def _wrong(reason: str) -> RequestError:
    return RequestError(f"grammar: {reason}", code="invalid_value", param="grammar")
