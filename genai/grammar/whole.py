"""What only a whole JSON schema shows: whether anything finite satisfies it, how many patterns meet in one string, and
whether two of its schemas have no instance in common.

Both work on rewritten schemas (`schema.py`): references are `#/$defs/NAME`, there is no `oneOf`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from genai.errors import ConfigError

MAX_JOINT_PATTERNS = 6
"""How many patterns one string may have to match at once; what more of them cost knows no bounds."""

Schema = Mapping[str, object]

_MAX_PASSES = 30
_MAX_DEPTH = 150
_TYPES = frozenset({"null", "boolean", "string", "array", "object", "integer", "fraction"})
_MAX_PROOF_DEPTH = 8
_MAX_PROOF_STEPS = 300_000


def check_whole(document: Schema, pointers: Mapping[str, str]) -> None:
    """Refuse what would have no end, or cost without bounds; pointers: where each definition stood.

    Raises: ConfigError for a reference that leads back to itself, or that no finite JSON satisfies, and for a string in
    which too many patterns meet.
    """
    definitions = cast(Mapping[str, object], document["$defs"])
    circular = _circular(definitions)
    if circular:
        raise ConfigError(f"json_schema: '$ref' to #{pointers[min(circular)]} leads back to itself in the same place")
    finite: set[str] = set()
    for _ in range(_MAX_PASSES):
        found = {name for name, schema in definitions.items() if name in finite or _is_finite(schema, finite)}
        if found == finite:
            if endless := sorted(definitions.keys() - finite):
                raise ConfigError(f"json_schema: '$ref' to #{pointers[endless[0]]} asks for JSON that has no end")
            break
        finite = found
    most = _Patterns(definitions).most(document)
    if most > MAX_JOINT_PATTERNS:
        reason = f"{most} of them meet in one string, at most {MAX_JOINT_PATTERNS} can"
        raise ConfigError(f"json_schema: 'pattern' is not supported that often: {reason}")


def _circular(definitions: Mapping[str, object]) -> set[str]:
    """The definitions that apply to an instance whenever they apply to it."""
    edges = {name: set(_in_place(schema)) for name, schema in definitions.items()}
    while ended := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in ended:
            del edges[name]
    return set(edges)


def _in_place(schema: object) -> Iterable[str]:
    """The definitions that apply where a schema does."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield _name(schema)
        for each in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
            yield from _in_place(each)


def _is_finite(schema: object, finite: set[str]) -> bool:
    """Whether some finite JSON may satisfy a schema, of definitions only those in `finite` being known to have one."""
    if not isinstance(schema, Mapping):
        return schema is not False
    if "$ref" in schema and _name(schema) not in finite:
        return False
    if "anyOf" in schema and not any(_is_finite(each, finite) for each in schema["anyOf"]):
        return False
    if not all(_is_finite(each, finite) for each in schema.get("allOf", ())):
        return False
    if "const" in schema or "enum" in schema:
        return True
    types = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", ["null"])
    properties = schema.get("properties", {})
    items = [*schema.get("prefixItems", ())][: schema.get("minItems", 0)]
    if schema.get("minItems", 0) > len(items):
        items.append(schema.get("items", True))
    return (
        any(each not in ("object", "array") for each in types)
        or (
            "object" in types
            and all(_is_finite(properties.get(name, True), finite) for name in schema.get("required", ()))
        )
        or ("array" in types and all(_is_finite(each, finite) for each in items))
    )


def _name(schema: Mapping[str, object]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


class _Patterns:
    """How many patterns a string somewhere in an instance must match at once, from above."""

    def __init__(self, definitions: Mapping[str, object]) -> None:
        self._definitions = definitions
        self._known: dict[str, int] = {}
        self._depth = 0

    def most(self, schema: object) -> int:
        """Schemas that apply to one instance add up, those of different places and alternatives do not."""
        if not isinstance(schema, Mapping) or self._depth == _MAX_DEPTH:
            return 0
        self._depth += 1
        result = self._most(schema)
        self._depth -= 1
        return result

    def _most(self, schema: Mapping[str, object]) -> int:
        places = [
            *_values(schema.get("properties")),
            *_values(schema.get("prefixItems")),
            schema.get("additionalProperties"),
            schema.get("items"),
        ]
        elsewhere = max((self.most(place) for place in places), default=0)
        elsewhere += max((self.most(place) for place in _values(schema.get("patternProperties"))), default=0)
        here = ("pattern" in schema) + ("format" in schema)
        together = sum(self.most(each) for each in _values(schema.get("allOf")))
        together += max((self.most(each) for each in _values(schema.get("anyOf"))), default=0)
        if "$ref" in schema:
            together += self._of_definition(_name(schema))
        return max(here, elsewhere) + together

    def _of_definition(self, name: str) -> int:
        if name not in self._known:
            self._known[name] = 0  # while it is being counted: what it contains again is another place
            self._known[name] = self.most(self._definitions[name])
        return self._known[name]


def _values(schemas: object) -> Iterable[object]:
    return schemas.values() if isinstance(schemas, Mapping) else cast(Sequence[object], schemas or ())


class Disjointness:
    """Proves for schemas of one document; definitions: what stands under its `$defs`."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions
        self._num_steps = 0

    def is_proven(self, first: object, second: object, beside: Schema) -> bool:
        """Whether no instance matches both schemas and the keywords `beside` them. False may mean: not found."""
        common = self._parts(beside)
        return self._are_disjoint(common + self._parts(first), common + self._parts(second), _MAX_PROOF_DEPTH)

    def _are_disjoint(self, first: list[Schema], second: list[Schema], depth: int) -> bool:
        """Two conjunctions of schemas."""
        if depth == 0 or self._num_steps > _MAX_PROOF_STEPS:
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
        depth = depth if self._num_steps <= _MAX_PROOF_STEPS else 0
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
        depth = depth if self._num_steps <= _MAX_PROOF_STEPS else 0
        for part in parts:
            values = _literals(part)
            if values is not None:
                return frozenset(map(_key, values))
            for options in _alternatives(part) if depth else ():
                found = [self._values(self._parts(each), depth - 1) for each in options]
                if all(each is not None for each in found):
                    return frozenset().union(*(each for each in found if each is not None))
        return None

    def _parts(self, schema: object, depth: int = _MAX_PROOF_DEPTH) -> list[Schema]:
        """The schemas that must all match for this one to match, or some of them; False is one of no type."""
        self._num_steps += 1
        if not isinstance(schema, Mapping):
            return [] if schema is True else [{"type": ()}]
        result = [cast(Schema, schema)]
        if depth and self._num_steps <= _MAX_PROOF_STEPS:
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
