"""From a constraint's configuration to llguidance's matcher, within bounds on size, time, memory and stack."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from genai.errors import ConfigError
from genai.grammar.lark import rewritten_lark
from genai.grammar.pattern import PatternError, check_size
from genai.grammar.schema import rewritten
from genai.grammar.values import Schema
from genai.options.generation_config import ConstraintConfig

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_REGEX_CHARACTERS = 16 * 1024
MAX_CHOICES_CHARACTERS = 64 * 1024

_STACK_BYTES = 64 * 2**20
"""llguidance descends a grammar recursively; what our limits let through takes less than this."""
_JSON_OPTIONS = {
    # Bounded: a weak model may write white space for ever.
    "whitespace_pattern": r" |\n[ \t]{0,40}",
    # Not \u0061: a property's name would have spellings that llguidance does not know as the same.
    "json_allowed_escapes": 'nrbtf\\"',
}
_NO_FORCING = '%llguidance {"no_forcing": true}\n'
_KEYWORDS = {
    "regex is empty": "pattern",
    "Regex is empty": "pattern",
    "patternProperty": "patternProperties",
    "min/maxProperties": "minProperties or maxProperties",
    "circular references": "$ref",
    "Schema intersection": "allOf",
    "Unsatisfiable": "",
}
"""Which keyword llguidance's errors are about, where they do not say."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A grammar as llguidance reads it.

    text: where the text is without a choice, its tokens are too; unforced_text: there they may be any that spell it;
    tokens: special tokens that may be part of the text.
    """

    kind: str
    text: str
    unforced_text: str
    tokens: frozenset[int] = frozenset()


def source_of(config: ConstraintConfig) -> Source:
    """Raises: ConfigError for a grammar that is refused before llguidance sees it."""
    kind, grammar, tokens = config.kind, config.grammar, frozenset[int]()
    if kind == "json_schema":
        schema = _json_schema(str(grammar))
        text = json.dumps({"grammars": [{"json_schema": schema}]})
        lark = f"start: %json {json.dumps(schema)}"
        return Source(kind=kind, text=text, unforced_text=_as_lark(_NO_FORCING + lark))
    if kind == "choices":
        lark = _choices(grammar)
    elif kind == "regex":
        lark = _regex(str(grammar))
    else:
        lark, tokens = rewritten_lark(str(grammar), _json_schema, config.num_own)
    return Source(kind=kind, text=_as_lark(lark), unforced_text=_as_lark(_NO_FORCING + lark), tokens=tokens)


def lark_body(config: ConstraintConfig) -> str:
    """What stands for a constraint's texts in a rule of another Lark grammar. Raises: ConfigError."""
    grammar = config.grammar
    if config.kind == "json_schema":
        is_object = str(grammar).lstrip().startswith("{")
        return f"%json {grammar if is_object else json.dumps(_json_schema(str(grammar)))}"
    inner = _choices(grammar) if config.kind == "choices" else str(grammar)
    return f"%lark {{\n{_regex(inner) if config.kind == 'regex' else inner}\n}}"


def compiled(tokenizer: LLTokenizer, source: str, kind: str) -> LLMatcher:
    """A matcher at the beginning of a text. Raises: ConfigError for a grammar that llguidance refuses."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(  # below llguidance's own, but for the second: no step may take seconds or gigabytes
        initial_lexer_fuel=500_000,
        max_items_in_row=8_000,
        step_max_items=20_000,
        max_lexer_states=50_000,
        verbose_errors=False,
    )
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=limits)
    if matcher.is_error():
        reason = reason_of(matcher)
        about = next((keyword for part, keyword in _KEYWORDS.items() if part in reason), None)
        if about is not None and kind == "json_schema":
            reason = f"{about!r} is not supported in this way: {reason}" if about else f"no JSON satisfies it: {reason}"
        raise ConfigError(f"{kind}: {reason}")
    return matcher


def reason_of(matcher: LLMatcher) -> str:
    """llguidance's error in one line, without where it looked in the schema that it was given."""
    lines = matcher.get_error().partition("<non-verbose/>")[0].strip().splitlines()
    line = " ".join(line.strip() for line in lines[:4])
    return re.sub(r"( while processing|:)? json-schema:///\S*", "", line)[:300]


def with_stack(function: Callable[[], Result], seconds: float, at_end: Callable[[], None]) -> Result | None:
    """What a function returns, run on a large stack of its own; None if it takes longer, and it goes on.

    at_end: called when the function has ended, whether anyone waits for it or not. Raises: what the function raises.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(function())
        except BaseException as error:  # raised below, where somebody waits for it
            errors.append(error)
        finally:
            at_end()

    usual = threading.stack_size(_STACK_BYTES)
    try:
        thread = threading.Thread(target=target, name="grammar", daemon=True)
        thread.start()
    except BaseException:
        at_end()
        raise
    finally:
        threading.stack_size(usual)
    thread.join(seconds)
    if errors:
        raise errors[0]
    return results[0] if results else None


def _json_schema(text: str) -> Schema:
    return {"x-guidance": _JSON_OPTIONS, **rewritten(text)}


def _as_lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def _choices(choices: Iterable[str]) -> str:
    size = sum(map(len, choices))
    if size > MAX_CHOICES_CHARACTERS:
        raise ConfigError(f"choices have {size} characters together; a constraint has at most {MAX_CHOICES_CHARACTERS}")
    for choice in choices:
        if any("\ud800" <= character <= "\udfff" for character in choice):
            raise ConfigError(f"choices: {choice!r:.80} holds a lone surrogate, which is no character")
    return f"start: X\nX: {' | '.join(json.dumps(each).replace(chr(127), chr(92) + 'u007f') for each in choices)}"


def _regex(regex: str) -> str:
    if len(regex) > MAX_REGEX_CHARACTERS:
        raise ConfigError(f"regex has {len(regex)} characters; a constraint has at most {MAX_REGEX_CHARACTERS}")
    try:
        regex.encode()
        check_size(regex)
    except UnicodeEncodeError:
        raise ConfigError("regex holds a lone surrogate, which is no character") from None
    except PatternError as error:
        raise ConfigError(f"regex: {error}") from None
    if (len(regex) - len(regex.rstrip("\\"))) % 2:
        raise ConfigError("regex: a backslash at the end")
    from llguidance import regex_to_lark

    return f"start: /{regex_to_lark(regex)}/"
