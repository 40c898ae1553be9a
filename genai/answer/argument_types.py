"""What types a tool's schema admits for an argument: formats that are no JSON write strings unlike other values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ALL_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_MAX_DEPTH = 16


def properties_of(schema: Mapping[str, object]) -> Mapping[str, object]:
    """The schemas of an object's properties by their names; those that a reference at the top names, too."""
    found = resolved(schema, schema).get("properties")
    return found if isinstance(found, Mapping) else {}


def resolved(schema: object, root: Mapping[str, object]) -> Mapping[str, object]:
    """A schema, or the one in the same document that its `$ref` names; empty for what is none."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        place: object = root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            place = place.get(name) if isinstance(place, Mapping) else None
        schema = place
    return {}


def types_of(schema: object, root: Mapping[str, object]) -> frozenset[str]:
    """The types of JSON that a schema of the document `root` admits, as far as its own words tell."""
    return _types_of(schema, root, {}, 0)


def _types_of(
    schema: object, root: Mapping[str, object], known: dict[int, frozenset[str]], depth: int
) -> frozenset[str]:
    """known: of schemas that were looked at, by identity; one that is inside itself says nothing there."""
    found = resolved(schema, root)
    if id(found) in known:
        return known[id(found)]
    types = known[id(found)] = ALL_TYPES
    if isinstance(named := found.get("type"), str | list):
        types &= {str(name) for name in ([named] if isinstance(named, str) else named)}
    if "const" in found or isinstance(found.get("enum"), list):
        types &= {type_of(value) for value in _values(found)}
    for word in ("anyOf", "oneOf"):
        if isinstance(options := found.get(word), list) and depth < _MAX_DEPTH:
            types &= _union(_types_of(option, root, known, depth + 1) for option in options)
    if isinstance(parts := found.get("allOf"), list) and depth < _MAX_DEPTH:
        for part in parts:
            types &= _types_of(part, root, known, depth + 1)
    known[id(found)] = types
    return types


def type_of(value: object) -> str:
    """The type of a value of JSON."""
    if isinstance(value, bool):
        return "boolean"
    names = {type(None): "null", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def _values(schema: Mapping[str, object]) -> Iterable[object]:
    values = schema.get("enum")
    return values if isinstance(values, list) else [schema.get("const")]


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)
