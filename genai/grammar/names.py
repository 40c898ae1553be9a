"""Which strings a regular expression matches, where they are few: names of properties that a pattern lists."""

from __future__ import annotations

from functools import lru_cache

from genai.grammar.pattern import PatternError, anchored, translated

_MAX_LENGTH = 200


@lru_cache(maxsize=256)
def names_of(pattern: str, most: int) -> frozenset[str] | None:
    """All strings that match a JSON schema's pattern; None if they are more than so many, or are not known."""
    try:
        core = anchored(translated(pattern))
    except PatternError:
        return None
    if core is None or not (core.is_start and core.is_end):
        return None
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_regex(core.inner), log_level=0)
    found: set[str] = set()
    waiting = [(matcher, b"")]
    while waiting:
        matcher, text = waiting.pop()
        if matcher.is_error() or len(text) > _MAX_LENGTH:
            return None
        if matcher.is_accepting():
            found.add(text.decode(errors="replace"))
        if not matcher.is_stopped():
            allowed = matcher.compute_logit_bias()
            for byte in range(256):
                if allowed[byte]:
                    further = matcher.deep_copy()
                    further.consume_token(byte)
                    waiting.append((further, text + bytes([byte])))
        if len(found) + len(waiting) > most + 1:  # each of them leads to one string at least
            return None
    return frozenset(found) if len(found) <= most else None
