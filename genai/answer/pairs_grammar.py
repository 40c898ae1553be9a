"""Grammars of arguments that are written one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

from genai.answer.argument_types import resolved, types_of
from genai.answer.lark_text import ANY_TEXT, EMPTY, LarkText, literal
from genai.chat.shapes import Pairs
from genai.errors import ConfigError
from genai.grammar.pattern import PatternError, anchored, translated
from genai.grammar.schema import is_annotation

_OBJECT = frozenset({"type", "properties", "required", "additionalProperties"})
_TEXT = frozenset({"type", "enum", "const", "pattern", "minLength", "maxLength"})
_LIST = frozenset({"type", "items"})
_MAX_DEPTH = 8
_NAME = "/[A-Za-z_][A-Za-z0-9_-]{0,63}/"

Schema = Mapping[str, object]


class PairsGrammar:
    """Makes the rules of one tool's arguments; root: their schema."""

    def __init__(self, lark: LarkText, pairs: Pairs, root: Schema) -> None:
        self._lark = lark
        self._pairs = pairs
        self._root = root
        self._objects: dict[int, str] = {}  # the rules of objects, by the identity of their schemas
        self._definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}

    def arguments(self) -> str:
        """What stands for the arguments. Raises: ConfigError for a schema that cannot be followed in this form."""
        schema = self._known(resolved(self._root, self._root), _OBJECT, "the arguments")
        others = schema.get("additionalProperties", "properties" not in schema)
        pairs = [(self._pair(name, each), name in _names(schema)) for name, each in _properties(schema).items()]
        any_others = self._any_pair() if others is not False else None
        return self._listed(pairs, any_others, self._pairs.between)

    def _listed(self, pairs: Sequence[tuple[str, bool]], others: str | None, between: str) -> str:
        """Pairs in this order, each with whether it has to be there, and then others; between: what is between two."""
        comma = self._lark.spelled(between) if between else ""
        more = f"({comma} {others})*" if others else ""
        first = f"({others} {more})?" if others else ""
        after = self._lark.rule(more or EMPTY) if between else more
        for pair, is_required in reversed(pairs):
            if not between:
                after = f"{pair if is_required else f'{pair}?'} {after}"
                continue
            started = f"{comma} {pair} {after}"
            first = f"{pair} {after}" if is_required else f"({pair} {after} | {self._lark.rule(first or EMPTY)})"
            after = self._lark.rule(started if is_required else f"{started} | {after}")
        return (first if between else after) or EMPTY

    def _pair(self, name: str, schema: object) -> str:
        before, pairs = self._lark.spelled(self._pairs.before_key + name), self._pairs
        value = self._value(name, schema)
        if not pairs.after_string_key:
            return self._lark.rule(f"{before} {self._lark.spelled(pairs.after_key)} {value}")
        types = types_of(schema, self._root)
        forms = []
        if "string" in types:
            forms.append(f"{self._lark.spelled(pairs.after_string_key)} {value}")
        if types != {"string"}:
            forms.append(f"{self._lark.spelled(pairs.after_key)} {self._json(schema)} {self._close}")
        return self._lark.rule(f"{before} ({' | '.join(forms)})")

    def _any_pair(self) -> str:
        pairs, value = self._pairs, self._value("", {})
        if not pairs.after_string_key:
            return self._lark.rule(f"{self._before_any} {_NAME} {self._lark.spelled(pairs.after_key)} {value}")
        of_string = f"{self._lark.spelled(pairs.after_string_key)} {value}"
        of_json = f"{self._lark.spelled(pairs.after_key)} {self._json({})} {self._close}"
        return self._lark.rule(f"{self._before_any} {_NAME} ({of_string} | {of_json})")

    @property
    def _before_any(self) -> str:
        return self._lark.spelled(self._pairs.before_key) if self._pairs.before_key else ""

    @property
    def _close(self) -> str:
        return self._lark.spelled(self._pairs.after_value) if self._pairs.after_value else ""

    def _value(self, name: str, schema: object) -> str:
        """A value and what stands behind it."""
        if self._pairs.values == "quoted":
            return f"{self._quoted(name, schema, 0)} {self._close}"
        types = types_of(schema, self._root)
        if self._pairs.values == "raw" and "string" in types:
            return self._raw(name, schema if types == {"string"} else {})
        words = {"boolean": ("True", "False"), "null": ("None",)} if self._pairs.values == "python" else {}
        spelled = [literal(word) for kind, each in words.items() if kind in types for word in each]
        if spelled and types <= words.keys():
            return f"({' | '.join(spelled)}) {self._close}"
        return f"({' | '.join([*spelled, self._json(schema)])}) {self._close}"

    def _raw(self, name: str, schema: object) -> str:
        """A string as it is, up to its end."""
        found = self._known(resolved(schema, self._root), _TEXT, name)
        if (choices := _choices(found)) is not None:
            return f"({' | '.join(map(self._lark.spelled, choices))}) {self._close}"
        return self._lark.through(self._pairs.after_value, _text(found, name))

    def _quoted(self, name: str, schema: object, depth: int) -> str:
        """A value whose strings stand in quotes."""
        found, types = resolved(schema, self._root), types_of(schema, self._root)
        if depth > _MAX_DEPTH:
            _refuse("$ref", name, "it has no end")
        if types == {"string"}:
            choices = _choices(self._known(found, _TEXT, name))
            quote = self._lark.spelled(self._pairs.quote)
            if choices is None:
                return f"{quote} {self._lark.through(self._pairs.quote, _text(found, name))}"
            return f"{quote} ({' | '.join(map(self._lark.spelled, choices))}) {quote}"
        if types == {"array"}:
            item = self._lark.rule(self._quoted(name, self._known(found, _LIST, name).get("items", {}), depth + 1))
            return f'"[" ({item} ("," {item})*)? "]"'
        if types == {"object"}:
            return self._quoted_object(name, found, depth)
        if types & {"string", "array", "object"}:
            return self._any_quoted()
        return self._json(schema)

    def _quoted_object(self, name: str, schema: Schema, depth: int) -> str:
        """A rule, one for each schema, however many places name it."""
        if id(schema) not in self._objects:
            self._known(schema, _OBJECT, name)
            pairs = [
                (f"{literal(f'{key}:')} {self._quoted(key, each, depth + 1)}", key in _names(schema))
                for key, each in _properties(schema).items()
            ]
            others = schema.get("additionalProperties", "properties" not in schema) is not False
            inner = self._listed(pairs, self._any_quoted_pair() if others else None, ",")
            self._objects[id(schema)] = self._lark.rule(f'"{{" {inner} "}}"')
        return self._objects[id(schema)]

    def _any_quoted(self) -> str:
        if self._lark.any_quoted is None:
            self._lark.any_quoted = "any_quoted"
            quote = self._lark.spelled(self._pairs.quote)
            string = f"{quote} {self._lark.through(self._pairs.quote)}"
            scalar = self._lark.json({"type": ["null", "boolean", "number"]})
            self._lark.rules += [
                f'any_quoted: {string} | {scalar} | "[" (any_quoted ("," any_quoted)*)? "]"'
                ' | "{" (any_quoted_pair ("," any_quoted_pair)*)? "}"',
                f'any_quoted_pair: {_NAME} ":" any_quoted',
            ]
        return self._lark.any_quoted

    def _any_quoted_pair(self) -> str:
        self._any_quoted()
        return "any_quoted_pair"

    def _json(self, schema: object) -> str:
        """A value as JSON. Definitions come along where it may name them: they are the same for all."""
        needs = self._definitions and isinstance(schema, Mapping) and "$ref" in json.dumps(schema)
        return self._lark.json({**schema, **self._definitions} if needs and isinstance(schema, Mapping) else schema)

    def _known(self, schema: Schema, words: frozenset[str], name: str) -> Schema:
        """A schema without annotations. Raises: ConfigError for a word that is not among these."""
        kept = {word: value for word, value in schema.items() if not is_annotation(word)}
        if unknown := kept.keys() - words:
            _refuse(min(unknown), name, "this model writes arguments one by one")
        return kept


def _refuse(word: str, name: str, reason: str) -> NoReturn:
    raise ConfigError(f"json_schema: {word!r} of {name!r:.80} cannot be followed in calls: {reason}")


def _properties(schema: Schema) -> Schema:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def _names(schema: Schema) -> Sequence[object]:
    found = schema.get("required")
    return found if isinstance(found, list) else []


def _choices(schema: Schema) -> list[str] | None:
    """The strings that a schema lists."""
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return [str(value) for value in values] if isinstance(values, list) else None


def _text(schema: Schema, name: str) -> str:
    """What a string without choices matches."""
    if "pattern" in schema:
        return _whole(str(schema["pattern"]), name)
    if "minLength" in schema or "maxLength" in schema:
        return rf"(.|\n){{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"
    return ANY_TEXT


def _whole(pattern: str, name: str) -> str:
    """A pattern that a string matches somewhere, as a regular expression of the whole string, between slashes."""
    try:
        inner = translated(pattern)
    except PatternError as error:
        _refuse("pattern", name, str(error))
    core = anchored(inner)
    if core is None:
        _refuse("pattern", name, "its anchors do not stand at its ends")
    before, after = "" if core.is_start else ANY_TEXT, "" if core.is_end else ANY_TEXT
    return f"{before}(?:{core.inner}){after}".replace("/", r"\/")
