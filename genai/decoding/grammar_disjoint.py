"""Whether two JSON schemas have no instance in common, where that can be proved.

`oneOf` means exactly one: no grammar can count. But where no two options can match together, as in unions told apart by
a constant property, it is the same as `anyOf`. Schemas here are rewritten ones (`grammar_schema`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

Schema = Mapping[str, object]

_TYPES = frozenset({"null", "boolean", "string", "array", "object", "integer", "fraction"})
_MAX_DEPTH = 8
_MAX_STEPS = 300_000


class Disjointness:
    """Proves for schemas of one document; definitions: what stands under its `$defs`."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions
        self._num_steps = 0

    def is_proven(self, first: object, second: object, beside: Schema) -> bool:
        """Whether no instance matches both schemas and the keywords `beside` them. False may mean: not found."""
        common = self._parts(beside)
        return self._are_disjoint(common + self._parts(first), common + self._parts(second), _MAX_DEPTH)

    def _are_disjoint(self, first: list[Schema], second: list[Schema], depth: int) -> bool:
        """Two conjunctions of schemas."""
        if depth == 0 or self._num_steps > _MAX_STEPS:
            return False
        types = self._types(first, depth) & self._types(second, depth)
        if not types:
            return True
        values, others = self._values(first, depth), self._values(second, depth)
        if values is not None and others is not None and values.isdisjoint(others):
            return True
        for some, rest in ((first, second), (second, first)):
            for options in (option for part in some for option in _alternatives(part)):
                if all(self._are_disjoint(self._parts(option), rest, depth - 1) for option in options):
                    return True
        return types == {"object"} and self._have_disjoint_property(first, second, depth)

    def _have_disjoint_property(self, first: list[Schema], second: list[Schema], depth: int) -> bool:
        """Whether a property that one requires can never be what both say of it."""
        required = {name for part in first + second for name in cast(Sequence[str], part.get("required", ()))}
        return any(
            self._are_disjoint(self._parts(one), self._parts(other), depth - 1)
            for name in sorted(required)
            for one in _property(first, name)
            for other in _property(second, name)
        )

    def _types(self, parts: list[Schema], depth: int) -> frozenset[str]:
        """What types instances may have; numbers are told apart by whether they are whole."""
        result = _TYPES
        depth = depth if self._num_steps <= _MAX_STEPS else 0
        for part in parts:
            if "type" in part:
                named = part["type"]
                names = frozenset([named] if isinstance(named, str) else cast(Sequence[str], named))
                result &= names | ({"integer", "fraction"} if "number" in names else set())
            values = _literals(part)
            if values is not None:
                result &= {_type_of(value) for value in values}
            for options in _alternatives(part) if depth else ():
                result &= frozenset().union(*(self._types(self._parts(each), depth - 1) for each in options))
        return result

    def _values(self, parts: list[Schema], depth: int) -> frozenset[object] | None:
        """The only instances there can be, or None for too many."""
        depth = depth if self._num_steps <= _MAX_STEPS else 0
        for part in parts:
            values = _literals(part)
            if values is not None:
                return frozenset(map(_key, values))
            for options in _alternatives(part) if depth else ():
                found = [self._values(self._parts(each), depth - 1) for each in options]
                if all(each is not None for each in found):
                    return frozenset().union(*(each for each in found if each is not None))
        return None

    def _parts(self, schema: object, depth: int = _MAX_DEPTH) -> list[Schema]:
        """The schemas that must all match for this one to match, or some of them; False is one of no type."""
        self._num_steps += 1
        if not isinstance(schema, Mapping):
            return [] if schema is True else [{"type": ()}]
        result = [cast(Schema, schema)]
        if depth and self._num_steps <= _MAX_STEPS:
            for part in cast(Sequence[object], schema.get("allOf", ())):
                result += self._parts(part, depth - 1)
            if "$ref" in schema:
                result += self._parts(self._definitions[str(schema["$ref"]).rpartition("/")[2]], depth - 1)
        return result


def _alternatives(schema: Schema) -> list[Sequence[object]]:
    return [cast(Sequence[object], schema[name]) for name in ("anyOf", "oneOf") if name in schema]


def _literals(schema: Schema) -> list[object] | None:
    if "const" in schema:
        return [schema["const"]]
    return list(cast(Sequence[object], schema["enum"])) if "enum" in schema else None


def _property(parts: list[Schema], name: str) -> list[object]:
    """What each part says of a property that it knows by name, or as one of the others."""
    result: list[object] = []
    for part in parts:
        properties = cast(Schema, part.get("properties", {}))
        if name in properties:
            result.append(properties[name])
        elif "additionalProperties" in part and "patternProperties" not in part:
            result.append(part["additionalProperties"])
    return result


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "fraction"
    names: dict[type, str] = {type(None): "null", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def _key(value: object) -> object:
    """Equal for values that JSON Schema takes as equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, list):
        return ("array", *map(_key, value))
    if isinstance(value, dict):
        return ("object", frozenset((name, _key(each)) for name, each in value.items()))
    return ("boolean" if isinstance(value, bool) else "", value)
