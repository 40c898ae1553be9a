"""JSON schemas like those of public collections (configuration files, OpenAPI, pydantic, zod), each from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

Schema = dict[str, object]

NAMES = [
    *("id", "name", "type", "kind", "title", "version", "enabled", "count", "price", "email", "url", "tags", "items"),
    *("createdAt", "address", "postal_code", "first-name", "@type", "x y", "größe", "名前", "prix €", "a.b", "😀"),
    *(
        'q"uote',
        "back\\slash",
        "",
        "tab\tbed",
        "$ref",
        "properties",
        "a/b",
        "~t",
        "%41",
        "null",
        "0",
        "véry long näme " * 3,
    ),
]
WORDS = ["red", "green", "blue", "north", "a b", "naïve", "東京", "", "x" * 40, 'say "hi"', "line\nbreak", "1", "/"]
PATTERNS = [
    *("^[a-z]+$", "^[A-Z]{2,3}-[0-9]{1,4}$", r"^\d{4}-\d{2}$", "^#[0-9a-fA-F]{6}$", r"^\w+([.-]?\w+)*$", "é"),
    *(
        "^(foo|bar)+$",
        r"^\S+@\S+\.\w{2,}$",
        "[0-9]",
        "^$|^[a-z]$",
        r"^v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$",
        r"^[^\s/\\]+$",
        "^.{2,5}$",
    ),
    *(r"^\+?[0-9 ()-]{5,12}$", "^/[a-z0-9/_-]*$", "^(?!x)y", r"\bword\b", r"^(a)\1$"),
    *("^[A-Fa-f0-9]{8}(?:-[A-Fa-f0-9]{4}){3}$", "foo$", "^x", "a+?b", r"^[\u4e00-\u9fff]{1,3}$", r"^\W\D$"),
]
NAME_PATTERNS = ["^x-", "^[0-9]+$", r"^[a-z][a-z0-9_]*$", "^.*Id$", "^[A-Z]", r"^\w{2}$"]
FORMATS = [
    *("date", "date-time", "time", "email", "uri", "uuid", "ipv4", "ipv6", "hostname", "duration", "uri-reference"),
    *("json-pointer", "relative-json-pointer", "byte", "password", "iri", "regex", "idn-email", "color"),
]
UNSUPPORTED: list[Schema] = [
    {"not": {"type": "null"}},
    {"if": {"type": "string"}, "then": {"minLength": 1}},
    {"uniqueItems": True},
    {"contains": {"type": "integer"}},
    {"dependentRequired": {"a": ["b"]}},
    {"unevaluatedProperties": False},
    {"propertyNames": {"maxLength": 3}},
    {"nullable": True},
]
"""Keywords that a constraint cannot follow."""


def json_schema(seed: int) -> Schema:
    """The schema of a seed: mostly an object at the root, with definitions that may refer to each other."""
    return _Maker(random.Random(seed)).document()


class _Maker:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.definitions: list[str] = []

    def document(self) -> Schema:
        chance = self.chance
        self.definitions = [f"def{n}" for n in range(chance.choice([0, 0, 1, 2, 3]))]
        schema = self.object(3) if chance.random() < 0.7 else self.schema(3)
        if self.definitions:
            schema["$defs"] = {name: self.schema(2) for name in self.definitions}
        if chance.random() < 0.2:
            schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        return schema

    def schema(self, depth: int) -> Schema:
        """Any schema, nested at most `depth` deep."""
        kinds: list[tuple[int, Callable[[int], Schema]]] = [(4, self.string), (3, self.number), (2, self.literals)]
        kinds.append((2, lambda _: {"type": self.chance.choice(["boolean", "null"])}))
        if depth > 0:
            kinds += [(4, self.object), (3, self.array), (2, self.any_of), (1, self.one_of), (1, self.all_of)]
            kinds += [(1, self.union), (1, lambda _: {}), (1, self.map)]
        if self.definitions:
            kinds.append((2, self.reference))
        weights = [weight for weight, _ in kinds]
        result = self.chance.choices([make for _, make in kinds], weights)[0](depth - 1)
        return self.annotated(result)

    def annotated(self, schema: Schema) -> Schema:
        chance = self.chance
        if chance.random() < 0.2:
            schema = {"description": "What it is for.", **schema}
        if chance.random() < 0.1:
            schema |= chance.choice([{"title": "Title"}, {"default": 3}, {"examples": ["a"]}, {"x-order": 1}])
        if chance.random() < 0.008:
            schema |= chance.choice(UNSUPPORTED)
        return schema

    def object(self, depth: int) -> Schema:
        chance = self.chance
        names = chance.sample(NAMES, chance.randint(0, 5))
        schema: Schema = {"type": "object", "properties": {name: self.schema(depth) for name in names}}
        if chance.random() < 0.8:
            schema["required"] = chance.sample(names, chance.randint(0, len(names)))
        if chance.random() < 0.6:
            schema["additionalProperties"] = chance.choice([False, False, False, True, self.schema(0)])
        elif chance.random() < 0.1:
            schema["required"] = [*names, chance.choice(["another", "extra"])]
        if chance.random() < 0.1:
            schema["patternProperties"] = {pattern: self.schema(0) for pattern in chance.sample(NAME_PATTERNS, 1)}
        if chance.random() < 0.05:
            schema[chance.choice(["minProperties", "maxProperties"])] = chance.randint(0, 3)
        if chance.random() < 0.05:
            del schema["type"]
        return schema

    def map(self, depth: int) -> Schema:
        schema: Schema = {"type": "object", "additionalProperties": self.schema(depth)}
        chance = self.chance
        return schema | chance.choice(
            [
                {},
                {"minProperties": 1},
                {"maxProperties": 3},
                {"propertyNames": {"pattern": chance.choice(NAME_PATTERNS)}},
                {"propertyNames": {"enum": chance.sample(WORDS, 2)}},
                {"propertyNames": {"type": "string"}},
                {"patternProperties": {chance.choice(NAME_PATTERNS): self.schema(0)}},
            ]
        )

    def array(self, depth: int) -> Schema:
        chance = self.chance
        schema: Schema = {"type": "array"}
        if chance.random() < 0.25:
            schema["prefixItems"] = [self.schema(depth) for _ in range(chance.randint(1, 3))]
        if chance.random() < 0.8:
            schema["items"] = chance.choice([self.schema(depth), self.schema(depth), chance.random() < 0.3])
        if chance.random() < 0.3:
            schema["minItems"] = chance.randint(0, 3)
        if chance.random() < 0.3:
            schema["maxItems"] = chance.randint(0, 4) + cast_int(schema.get("minItems", 0))
        if chance.random() < 0.1:
            schema["uniqueItems"] = chance.random() < 0.1
        return schema

    def string(self, _: int) -> Schema:
        chance = self.chance
        schema: Schema = {"type": "string"}
        roll = chance.random()
        if roll < 0.25:
            schema["pattern"] = chance.choice(PATTERNS)
        elif roll < 0.5:
            schema["format"] = chance.choice(FORMATS)
        if chance.random() < 0.25:
            schema["minLength"] = chance.randint(0, 5)
        if chance.random() < 0.25:
            schema["maxLength"] = chance.randint(3, 30)
        return schema

    def number(self, _: int) -> Schema:
        chance = self.chance
        schema: Schema = {"type": chance.choice(["integer", "integer", "number"])}
        digits = chance.choice([0, 0, 1, 2, 3])
        low = round(chance.uniform(-1, 1) * 10 ** chance.randint(0, 6), digits)
        high = round(low + chance.uniform(0, 1) * 10 ** chance.randint(0, 6), digits)
        if chance.random() < 0.4:
            schema[chance.choice(["minimum", "minimum", "exclusiveMinimum"])] = whole(low)
        if chance.random() < 0.4:
            schema[chance.choice(["maximum", "maximum", "exclusiveMaximum"])] = whole(high)
        if chance.random() < 0.2:
            schema["multipleOf"] = chance.choice([1, 2, 5, 7, 10, 100, 0.5, 0.1, 0.01, 2.5, 0.25])
        if chance.random() < 0.1:
            schema["format"] = chance.choice(["int32", "int64", "float", "double"])
        return schema

    def literals(self, depth: int) -> Schema:
        chance = self.chance
        values: list[object] = [*WORDS, 0, 1, -5, 1.5, -0.25, 1e3, True, False, None]
        if depth > 0:
            values += [[], [1, "a"], {}, {"a": 1, "b": [None]}, {"größe": {"c": "d"}}]
        schema: Schema = {"enum": chance.sample(values, chance.randint(1, 5))}
        if chance.random() < 0.3:
            schema = {"const": chance.choice(values)}
        elif chance.random() < 0.4:
            schema = {"type": "string", "enum": chance.sample(WORDS, chance.randint(1, 5))}
        return schema

    def any_of(self, depth: int) -> Schema:
        schema: Schema = {"anyOf": [self.schema(depth) for _ in range(self.chance.randint(1, 3))]}
        if self.chance.random() < 0.3:
            schema = {"anyOf": [self.schema(depth), {"type": "null"}], "default": None}
        elif self.chance.random() < 0.1:
            schema |= self.object(0)
        return schema

    def one_of(self, depth: int) -> Schema:
        """Mostly a union told apart by a property, as pydantic and OpenAPI write them."""
        if self.chance.random() < 0.3:
            return {"oneOf": [self.schema(depth) for _ in range(2)]}
        options = [self.object(depth) for _ in range(self.chance.randint(1, 3))]
        for index, option in enumerate(options):
            option["type"] = "object"
            option["properties"] = {"kind": {"const": f"kind{index}"}, **properties_of(option)}
            option["required"] = ["kind"]
        return {"oneOf": options, "discriminator": {"propertyName": "kind"}}

    def all_of(self, depth: int) -> Schema:
        return {"allOf": [self.object(depth), self.reference(0) if self.definitions else self.object(0)]}

    def union(self, _: int) -> Schema:
        return self.number(0) | {"type": self.chance.sample(["string", "integer", "null", "boolean", "array"], 2)}

    def reference(self, _: int) -> Schema:
        return {"$ref": f"#/$defs/{self.chance.choice(self.definitions)}"}


def properties_of(schema: Schema) -> Schema:
    """The properties that a schema names."""
    found = schema["properties"]
    assert isinstance(found, dict)
    return found


def cast_int(value: object) -> int:
    """A number of a schema."""
    assert isinstance(value, int)
    return value


def whole(value: float) -> float:
    """As people write it: 3 and not 3.0."""
    return int(value) if value == int(value) else value
