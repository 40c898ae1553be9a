"""What stands at the keywords of a JSON schema: checked, and as llguidance takes it to the letter."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from decimal import Decimal
from typing import TypeGuard

from genai.errors import ConfigError
from genai.grammar.formats import FORMATS, NATIVE_FORMATS, NUMBER_FORMATS, PLAIN_EMAIL
from genai.grammar.pattern import PatternError, translated

Schema = dict[str, object]

MAX_MULTIPLE = 1_000
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_MAX_DIGITS = 15
_LEAST = Decimal("1e-15")
_MAX_COUNT = 2**31 - 1
_MAX_VALUE_DEPTH = 20
_UNWRITABLE = re.compile(r"[\x00-\x07\x0B\x0E-\x1F\x7F]")
"""Characters that JSON writes as \\u00…: escapes of that kind are off, as a name has many spellings with them."""


def refusal(keyword: str, where: str, reason: str) -> ConfigError:
    """The error for a keyword of the schema at `where` that means something we cannot follow."""
    return ConfigError(f"json_schema: {keyword!r} at {where} is not supported: {reason}")


def fault(keyword: str, where: str, expected: str, value: object) -> ConfigError:
    """The error for a keyword with a value that JSON Schema does not allow."""
    return ConfigError(f"json_schema: {keyword!r} at {where} must be {expected}, not {value!s:.60}")


def types(value: object, where: str) -> str | list[str]:
    """The value of `type`."""
    names: list[object] = value if isinstance(value, list) else [value]
    if not names or not all(name in _TYPES for name in names):
        raise fault("type", where, f"one of {', '.join(_TYPES)} or a list of them", value)
    return value if isinstance(value, str) else list(dict.fromkeys(map(str, names)))


def strings(keyword: str, value: object, where: str) -> list[str]:
    """The value of `required`: each name once."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise fault(keyword, where, "a list of strings", value)
    return list(dict.fromkeys(value))


def count(keyword: str, value: object, where: str) -> int:
    """The value of `minItems`, `maxLength` and the like."""
    if not _is_number(value) or value < 0 or value % 1:
        raise fault(keyword, where, "a whole number from 0", value)
    if value > _MAX_COUNT:
        raise refusal(keyword, where, f"{value} is above {_MAX_COUNT}")
    return int(value)


def min_properties(value: object, required: Collection[str], where: str) -> int:
    """The value of `minProperties`: names that are not in `properties` might repeat, so of these one counts."""
    result = count("minProperties", value, where)
    if result > len(required) + 1:
        raise refusal("minProperties", where, f"only {len(required)} names are required, and the others might repeat")
    return result


def bound(keyword: str, value: object, where: str) -> int | float:
    """A number that llguidance reads as it stands: it counts, and rounds what it reads, in 64-bit floating point."""
    if not _is_number(value):
        raise fault(keyword, where, "a number", value)
    if value % 1:
        is_exact = len(Decimal(value).normalize().as_tuple().digits) <= _MAX_DIGITS and not -_LEAST < value < _LEAST
    else:
        is_exact = -(2**53) < value < 2**53
    if not is_exact:
        raise refusal(
            keyword, where, f"{value!s:.40} has too many digits (below 2**53, and {_MAX_DIGITS} with a point)"
        )
    return float(value) if value % 1 else int(value)


def exclusive_bound(keyword: str, value: object, where: str) -> Schema:
    """An exclusive bound; a whole one as an inclusive one that is a billionth off.

    llguidance takes 0 as being above 0 and at most 0.5.
    """
    result = bound(keyword, value, where)
    places = min(9, _MAX_DIGITS - len(str(abs(result))))
    if isinstance(result, float) or places < 1:
        return {keyword: result}
    step = Decimal(1).scaleb(-places) * (1 if keyword == "exclusiveMinimum" else -1)
    return {"minimum" if step > 0 else "maximum": float(result + step)}


def multiple(value: object, where: str) -> Decimal:
    """The value of `multipleOf`, if llguidance's way to find its digits finds the right ones."""
    exact = Decimal(str(bound("multipleOf", value, where)))
    if exact <= 0:
        raise fault("multipleOf", where, "above 0", value)
    found, exponent = float(exact), 0
    while math.fmod(found, 1):
        found, exponent = found * 10, exponent + 1
    if found > MAX_MULTIPLE or Decimal(int(found)).scaleb(-exponent) != exact:
        raise refusal("multipleOf", where, f"{value} without its point is above {MAX_MULTIPLE}, or not read exactly")
    return exact


def check_multiples(values: Collection[Decimal]) -> None:
    """Where schemas meet llguidance multiplies these in 32 bits, without looking."""
    exponent = min((int(str(each.as_tuple().exponent)) for each in values), default=0)
    common = math.lcm(*(int(each.scaleb(-exponent)) for each in values))
    if len(values) > 1 and common**2 >= 2**32:
        listed = ", ".join(str(each) for each in sorted(values))
        raise refusal("multipleOf", "#", f"the least common multiple of {listed} is too large")


def literals(keyword: str, values: object, where: str, depth: int = 0) -> list[object]:
    """The values of `enum`, or the one of `const` in a list, if llguidance can write exactly these."""
    if not isinstance(values, list):
        raise fault(keyword, where, "a list", values)
    if depth > _MAX_VALUE_DEPTH:
        raise refusal(keyword, where, f"a value nested more than {_MAX_VALUE_DEPTH} deep")
    result: list[object] = []
    for value in values:
        if isinstance(value, dict):
            inner = literals(keyword, list(value.values()), where, depth + 1)
            result.append(dict(zip(value, inner, strict=True)))
        elif isinstance(value, list):
            result.append(literals(keyword, value, where, depth + 1))
        elif isinstance(value, str) and (found := _UNWRITABLE.search(value)):
            raise refusal(keyword, where, f"the control character U+{ord(found[0]):04X}")
        else:
            result.append(bound(keyword, value, where) if _is_number(value) else value)
    return result


def _is_number(value: object) -> TypeGuard[int | Decimal]:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def pattern(keyword: str, value: object, where: str) -> str:
    """A regular expression, checked as llguidance would."""
    from llguidance import LLMatcher

    if not isinstance(value, str):
        raise fault(keyword, where, "a regular expression", value)
    try:
        result = translated(value)
    except PatternError as error:
        raise refusal(keyword, where, f"in {value!r:.80}, {error}") from None
    complaint = LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(result))
    if complaint:
        raise refusal(keyword, where, f"in {value!r:.80}, {complaint.strip().splitlines()[-1]}")
    return result


def names_pattern(names: object) -> str | None:
    """A pattern that says what a schema says of strings, without annotations; None for what none says."""
    if not isinstance(names, dict):
        return None
    values = names.get("enum", [names["const"]] if "const" in names else None)
    if names.keys() <= {"type", "enum", "const"} and isinstance(values, list):
        escaped = (re.sub(r"[^A-Za-z0-9]", lambda found: f"\\u{{{ord(found[0]):X}}}", str(each)) for each in values)
        return f"^(?:{'|'.join(escaped)})$"
    return str(names["pattern"]) if names.keys() <= {"type", "pattern"} and "pattern" in names else None


def format_keywords(name: object, where: str) -> Schema:
    """The keywords that say what a format says; a format that is not known is an annotation."""
    if not isinstance(name, str):
        raise fault("format", where, "a string", name)
    if name in NUMBER_FORMATS:
        least, most = NUMBER_FORMATS[name]
        return {"minimum": least, "maximum": most}
    if name in FORMATS:
        return {"pattern": f"^(?:{FORMATS[name]})$"}
    return {"format": name} if name in NATIVE_FORMATS else {}


def without_look_around(schema: Schema) -> Schema:
    """A schema whose pattern no automaton can hold, but whose format says as much: with that alone."""
    name, regex = schema.get("format"), schema.get("pattern")
    if not isinstance(regex, str) or name not in {*FORMATS, *NATIVE_FORMATS}:
        return schema
    try:
        translated(regex)
    except PatternError:
        others = {keyword: value for keyword, value in schema.items() if keyword != "pattern"}
        return {**others, "pattern": PLAIN_EMAIL} if name == "email" else others
    return schema
