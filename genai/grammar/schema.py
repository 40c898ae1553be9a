"""JSON schemas as llguidance can follow them to the letter: refused where it cannot, rewritten where it would not.

llguidance turns most of Draft 2020-12 into a grammar. What it ignores, takes more widely than the specification, or
gets wrong was found by generating from schemas and validating the texts, and is settled here:

- every keyword is known here: it is kept, dropped as an annotation, or refused with its name and path;
- older drafts become 2020-12, `$ref` becomes `#/$defs/…` with its pointer resolved, other documents are refused;
- `oneOf` becomes `anyOf` where no two options can match together;
- patterns and formats are those of `pattern.py` and `formats.py`;
- numbers that binary floating point would change, or that llguidance's arithmetic overflows at, are refused;
- keywords that belong together stand together: llguidance applies `allOf` and the like where they stand among them.
"""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from urllib.parse import unquote

from genai.errors import ConfigError
from genai.grammar import values
from genai.grammar.names import names_of
from genai.grammar.values import Schema, fault, refusal
from genai.grammar.whole import Disjointness, check_whole

MAX_SCHEMA_CHARACTERS = 128 * 1024
MAX_SCHEMAS = 2000
MAX_DEPTH = 40
MAX_PROPERTIES = 400
MAX_PATTERN_PROPERTIES = 8

_DRAFTS = {
    "json-schema.org/draft-04/schema": 4,
    "json-schema.org/draft-06/schema": 6,
    "json-schema.org/draft-07/schema": 7,
    "json-schema.org/draft/2019-09/schema": 2019,
    "json-schema.org/draft/2020-12/schema": 2020,
}
"""Drafts by their addresses, which are written with http and with https."""
_APPLICATORS = ("const", "enum", "$ref", "anyOf", "oneOf", "allOf")
_KEYWORDS = frozenset(_APPLICATORS) | {
    *("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "pattern", "format", "prefixItems", "items", "minItems", "maxItems"),
    *("properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties"),
}
_ANNOTATIONS = frozenset(
    {
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"),
        *("contentMediaType", "contentEncoding", "contentSchema", "$schema", "$defs", "definitions", "$anchor"),
        *("discriminator", "example", "externalDocs", "xml"),
    }
)
"""Keywords that rule out nothing, OpenAPI's among them; so are all names that begin with "x-"."""
_UNSUPPORTED = {
    "not": "what must not be cannot be told while writing",
    "if": "write the cases as anyOf",
    "contains": "say with prefixItems where the item stands",
    "uniqueItems": "equal items cannot be told while writing",
    "unevaluatedProperties": "write additionalProperties beside all properties",
    "unevaluatedItems": "write items beside all prefixItems",
    "dependentRequired": "write the cases as anyOf",
    "dependentSchemas": "write the cases as anyOf",
    "dependencies": "write the cases as anyOf",
    "propertyNames": "write patternProperties with additionalProperties: false",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "$dynamicAnchor": "use $defs",
    "$recursiveAnchor": "use $defs",
    "nullable": "write type: [..., 'null']",
    "x-guidance": "it would change how the other keywords are followed",
}
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "nullable": (False,),
}
"""Values with which a keyword that is not supported rules out nothing."""


def is_annotation(name: str) -> bool:
    """Whether a keyword rules out nothing, whatever its value is."""
    return name in _ANNOTATIONS or (name.startswith("x-") and name != "x-guidance")


def rewritten(text: str) -> Schema:
    """The JSON schema in `text` as llguidance is to see it.

    Raises: ConfigError for what is no JSON schema, or cannot be followed, with the keyword and where it stands.
    """
    return _Rewriter(_parsed(text)).document()


def _parsed(text: str) -> object:
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise ConfigError(f"json_schema has {len(text)} characters; a constraint has at most {MAX_SCHEMA_CHARACTERS}")
    try:
        result = json.loads(text, parse_float=_number, parse_constant=_number, object_pairs_hook=_object)
        json.dumps(result, default=str, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ConfigError(f"json_schema is not JSON: {error}") from None
    except RecursionError:
        raise ConfigError("json_schema is nested too deeply") from None
    except ConfigError:
        raise
    except ValueError as error:  # a lone surrogate, or a whole number of thousands of digits
        raise ConfigError(f"json_schema cannot be read: {error!s:.80}") from None
    return result


def _number(literal: str) -> Decimal:
    value = Decimal(literal)
    if not value.is_finite() or abs(value.adjusted()) > 300:
        raise ConfigError(f"json_schema: the number {literal:.40} is out of range")
    return value


def _object(pairs: list[tuple[str, object]]) -> Schema:
    result = dict(pairs)
    if len(result) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ConfigError(f"json_schema: {twice!r:.80} stands twice in one object")
    return result


class _Rewriter:
    """Rewrites one document; schemas that a `$ref` names wait in `_waiting` until the rest is done."""

    def __init__(self, root: object) -> None:
        self._root = root
        newest = "https://json-schema.org/draft/2020-12/schema"
        dialect = str(root.get("$schema", newest)).rstrip("#") if isinstance(root, dict) else newest
        address = dialect.removeprefix("https://").removeprefix("http://")
        if address not in _DRAFTS:
            raise fault("$schema", "#", f"one of {', '.join(_DRAFTS)}", dialect)
        self._draft = _DRAFTS[address]
        self._names: dict[str, str] = {}
        self._waiting: list[str] = []
        self._num_schemas = 0
        self._multiples: set[Decimal] = set()
        self._one_of: list[tuple[str, Schema, object]] = []

    def document(self) -> Schema:
        """The whole document, with what its references name under `$defs`."""
        root = self._schema(self._root, "#", 0)
        definitions: Schema = {}
        while self._waiting:
            pointer = self._waiting.pop()
            definitions[self._names[pointer]] = self._schema(self._resolved(pointer, "#"), f"#{pointer}", 0)
        if isinstance(root, bool):
            root = {} if root else {"enum": []}
        values.check_multiples(self._multiples)
        result = {**root, "$defs": definitions}
        check_whole(result, {name: pointer for pointer, name in self._names.items()})
        self._check_one_of(definitions)
        return result

    def _schema(self, value: object, where: str, depth: int) -> bool | Schema:
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise ConfigError(f"json_schema: at {where} must stand an object, true or false, not {value!s:.60}")
        self._num_schemas += 1
        if self._num_schemas > MAX_SCHEMAS:
            raise ConfigError(f"json_schema has more than {MAX_SCHEMAS} schemas; that many cannot be a constraint")
        if depth > MAX_DEPTH:
            raise ConfigError(f"json_schema: at {where} schemas are nested more than {MAX_DEPTH} deep")
        kept = self._kept(value, where)
        result: Schema = {}
        also: list[object] = []
        for keyword, each in kept.items():
            found = self._rewritten(keyword, each, kept, where, depth)
            if keyword == "oneOf":
                self._one_of.append((where, result, found["anyOf"]))
            for name, new in found.items():
                if name in result or (name != keyword and name in kept):
                    also.append({name: new})
                else:
                    result[name] = new
        if also:
            result["allOf"] = [*_items(result.pop("allOf", [])), *also]
        return _ordered(result)

    def _kept(self, schema: Schema, where: str) -> Schema:
        """The keywords that say something, as of Draft 2020-12."""
        if "$ref" in schema and self._draft <= 7:  # whatever stands beside it is to be ignored, say the older drafts
            return {"$ref": schema["$ref"]}
        kept = {name: value for name, value in schema.items() if not self._is_annotation(name, value, where)}
        if self._draft <= 2019:
            kept = self._modernized(kept)
        if kept.get("uniqueItems") is True and kept.get("maxItems") in (0, 1):
            del kept["uniqueItems"]
        if "if" not in kept or not kept.keys() & {"then", "else"}:
            kept = {name: value for name, value in kept.items() if name not in {"if", "then", "else"}}
        if "contains" not in kept:
            kept = {name: value for name, value in kept.items() if name not in {"minContains", "maxContains"}}
        if "propertyNames" in kept:
            kept = self._with_property_names(kept, where)
        kept = _without_shadows(values.without_look_around(kept))
        for name in kept:
            if name in _UNSUPPORTED:
                raise refusal(name, where, _UNSUPPORTED[name])
            if name not in _KEYWORDS:
                raise ConfigError(f"json_schema: {name!r:.80} at {where} is no keyword known here; leave it out")
        return kept

    def _is_annotation(self, name: str, value: object, where: str) -> bool:
        if name == "$id" or (name == "id" and self._draft == 4):
            if where != "#" and not str(value).startswith("#"):
                raise refusal(name, where, "references inside it would mean another document")
            return True
        neutral = _NEUTRAL.get(name, ())
        return is_annotation(name) or any(value == each and type(value) is type(each) for each in neutral)

    def _modernized(self, schema: Schema) -> Schema:
        """A schema of an older draft in the words of 2020-12."""
        result = dict(schema)
        others = result.pop("additionalItems", True)
        if isinstance(result.get("items"), list):
            result |= {"prefixItems": result["items"], "items": others}
            if not result["prefixItems"]:
                del result["prefixItems"]
        for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if self._draft == 4 and isinstance(result.get(exclusive), bool):
                is_exclusive = result.pop(exclusive)
                if is_exclusive and inclusive in result:
                    result[exclusive] = result.pop(inclusive)
        return result

    def _with_property_names(self, schema: Schema, where: str) -> Schema:
        """Properties of which only the names are told are `patternProperties`."""
        rest = {name: value for name, value in schema.items() if name != "propertyNames"}
        names = schema["propertyNames"]
        for _ in range(8):
            names = (
                {name: each for name, each in names.items() if name not in _ANNOTATIONS}
                if isinstance(names, dict)
                else names
            )
            if not isinstance(names, dict) or names.keys() != {"$ref"}:
                break
            names = self._resolved(self._pointer(names["$ref"], where), where)
        if names in (True, {}, {"type": "string"}):
            return rest
        pattern = values.names_pattern(names)
        if pattern is None or rest.keys() & {"properties", "patternProperties", "required"}:
            raise refusal("propertyNames", where, _UNSUPPORTED["propertyNames"])
        others = rest.pop("additionalProperties", True)
        return {**rest, "patternProperties": {pattern: others}, "additionalProperties": False}

    def _rewritten(self, keyword: str, value: object, beside: Schema, where: str, depth: int) -> Schema:
        """The keywords that say what one says; where: of the schema it belongs to."""
        match keyword:
            case "items" | "additionalProperties":
                if isinstance(value, list):
                    raise fault(keyword, where, "a schema (for a list write prefixItems)", "a list")
                return {keyword: self._schema(value, f"{where}/{keyword}", depth + 1)}
            case "properties" | "patternProperties":
                return {keyword: self._properties(keyword, value, where, depth)}
            case "prefixItems" | "anyOf" | "allOf":
                return {keyword: self._options(keyword, value, where, depth)}
            case "oneOf":
                return {"anyOf": self._options(keyword, value, where, depth)}
            case "$ref":
                return {"$ref": self._reference(value, where)}
            case "const":
                return {"const": values.literals(keyword, [value], where)[0]}
            case "enum":
                return {"enum": values.literals(keyword, value, where)}
            case "type":
                return {"type": values.types(value, where)}
            case "required":
                return {"required": values.strings(keyword, value, where)}
            case "pattern":
                return {"pattern": values.pattern(keyword, value, where)}
            case "format":
                return values.format_keywords(value, where)
            case "minProperties":
                required = values.strings("required", beside.get("required", []), where)
                return {keyword: values.min_properties(value, required, where)}
            case "multipleOf":
                self._multiples.add(values.multiple(value, where))
            case "exclusiveMinimum" | "exclusiveMaximum":
                return values.exclusive_bound(keyword, value, where)
            case "minimum" | "maximum":
                pass
            case _:
                return {keyword: values.count(keyword, value, where)}
        return {keyword: values.bound(keyword, value, where)}

    def _properties(self, keyword: str, value: object, where: str, depth: int) -> Schema:
        is_named, path = keyword == "properties", f"{where}/{keyword}"
        most = MAX_PROPERTIES if is_named else MAX_PATTERN_PROPERTIES
        if not isinstance(value, dict):
            raise fault(keyword, where, "an object", value)
        if len(value) > most:
            raise refusal(keyword, where, f"there are {len(value)}; a constraint has at most {most}")
        result: Schema = {}
        for name, each in value.items():
            key = name if is_named else values.pattern(keyword, name, where)
            if key in result:
                raise refusal(keyword, where, f"{name!r:.80} means the same as another of them")
            step = name.replace("~", "~0").replace("/", "~1")
            result[key] = self._schema(each, f"{path}/{step}", depth + 1)
        return result

    def _options(self, keyword: str, value: object, where: str, depth: int) -> list[bool | Schema]:
        if not isinstance(value, list) or not value:
            raise fault(keyword, where, "a list of at least one schema", value)
        return [self._schema(each, f"{where}/{keyword}/{index}", depth + 1) for index, each in enumerate(value)]

    def _check_one_of(self, definitions: Schema) -> None:
        """Whether every `oneOf`, which is an `anyOf` by now, has options of which no two can match together."""
        disjointness = Disjointness(definitions)
        for where, schema, options in self._one_of:
            beside = {name: each for name, each in schema.items() if name not in {"anyOf", "allOf"}}
            for second, option in enumerate(_items(options)):
                for first, other in enumerate(_items(options)[:second]):
                    if not disjointness.is_proven(other, option, beside):
                        reason = f"options {first} and {second} may both match; tell them apart by type or const"
                        raise refusal("oneOf", where, f"{reason}, or write anyOf")

    def _reference(self, reference: object, where: str) -> str:
        pointer = self._pointer(reference, where)
        if pointer not in self._names:
            self._resolved(pointer, where)
            self._names[pointer] = str(len(self._names))
            self._waiting.append(pointer)
        return f"#/$defs/{self._names[pointer]}"

    def _pointer(self, reference: object, where: str) -> str:
        """The JSON pointer in a reference to this document."""
        if not isinstance(reference, str):
            raise fault("$ref", where, "a string", reference)
        root = self._root if isinstance(self._root, dict) else {}
        base, _, pointer = reference.partition("#")
        if base and base != str(root.get("$id", root.get("id", ""))).rstrip("#"):
            raise refusal("$ref", where, f"{reference!r:.80} is in another document; put it under $defs")
        if pointer and not pointer.startswith("/"):
            raise refusal("$ref", where, f"{reference!r:.80} names an anchor; write its path, #/$defs/…")
        return unquote(pointer)

    def _resolved(self, pointer: str, where: str) -> object:
        value = self._root
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                raise fault("$ref", where, "a path in this document", f"#{pointer}")
        return value


def _without_shadows(schema: Schema) -> Schema:
    """A schema without patterns that match nothing but properties which it names: these are bound by both.

    After the last of them llguidance would take a comma, behind which no name is left.
    """
    named, patterns = schema.get("properties"), schema.get("patternProperties")
    if schema.get("additionalProperties") is not False or not isinstance(named, dict) or not isinstance(patterns, dict):
        return schema
    properties, left = dict(named), dict(patterns)
    for pattern, each in patterns.items():
        names = names_of(pattern, len(named)) if isinstance(pattern, str) else None
        if names is not None and names <= named.keys():
            del left[pattern]
            properties |= {
                name: properties[name] if properties[name] == each else {"allOf": [properties[name], each]}
                for name in names
            }
    return {**schema, "properties": properties, "patternProperties": left}


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _ordered(schema: Schema) -> Schema:
    """The same keywords, applicators in one block after the others, or before if they stood before `properties`."""
    names = list(schema)
    applicators = [name for name in names if name in _APPLICATORS]
    others = [name for name in names if name not in _APPLICATORS]
    is_first = "properties" in names and any(names.index(name) < names.index("properties") for name in applicators)
    return {name: schema[name] for name in (applicators + others if is_first else others + applicators)}
