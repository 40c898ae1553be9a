"""What only a whole JSON schema shows: whether anything finite satisfies it, and how many patterns meet in one string.

Both work on rewritten schemas (`grammar_schema`): references are `#/$defs/NAME`, there is no `oneOf`.
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
