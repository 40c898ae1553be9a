"""JSON schemas as constraints: what is refused, what is followed to the letter, and texts made from a thousand."""

from __future__ import annotations

import collections
import decimal
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import tokenizers
from llguidance import LLMatcher, LLTokenizer

from genai.decoding.processors import BoolArray
from genai.errors import ConfigError
from genai.grammar.formats import FORMATS, NATIVE_FORMATS
from genai.grammar.grammar import GrammarConstraint, Grammars
from genai.grammar.names import names_of
from genai.grammar.schema import rewritten
from genai.options.generation_config import ConstraintConfig
from genai.tokenizer.token_pieces import TokenPieces
from tests.grammar.json_schemas import json_schema
from tests.tiny_package import END_ID, VOCAB_SIZE, byte_tokenizer

GRAMMARS = Grammars(byte_tokenizer(), VOCAB_SIZE, (END_ID,))


def constraint_of(schema: object, grammars: Grammars = GRAMMARS) -> GrammarConstraint:
    grammar = schema if isinstance(schema, str) else json.dumps(schema)
    return grammars.constraint(ConstraintConfig(kind="json_schema", grammar=grammar))


def allows(constraint: GrammarConstraint, text: str) -> bool:
    for byte in text.encode():
        if not constraint.mask()[byte]:
            return False
        constraint.accept(byte)
    return constraint.is_complete


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("not", {}),
        ("if", {}),
        ("contains", {}),
        ("uniqueItems", True),
        ("unevaluatedProperties", False),
        ("unevaluatedItems", False),
        ("dependentRequired", {"a": ["b"]}),
        ("dependentSchemas", {"a": {}}),
        ("dependencies", {"a": ["b"]}),
        ("propertyNames", {"maxLength": 3}),
        ("$dynamicRef", "#a"),
        ("$recursiveRef", "#"),
        ("$id", "https://example.com/inner"),
        ("$ref", "https://example.com/other.json"),
        ("$ref", "#anchor"),
        ("nullable", True),
        ("x-guidance", {"lenient": True}),
        ("pattern", "(?!x)y"),
        ("pattern", "("),
        ("patternProperties", {"(": {}}),
        ("patternProperties", {f"^{n}": {} for n in range(9)}),
        ("properties", {str(n): {} for n in range(401)}),
        ("minProperties", 2),
        ("oneOf", [{"type": "integer"}, {"type": "number"}]),
        ("oneOf", [{"type": "object"}, {"properties": {"a": {"const": 1}}}]),
        ("multipleOf", 0.07),
        ("multipleOf", 99991),
        ("minimum", 2**53),
        ("maximum", 0.1234567890123456),
        ("const", "\0"),
        ("const", 12345678901234567890),
        ("enum", [{"a": ["\x7f"]}]),
        ("maxLength", 2**31),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_keyword_and_path(keyword: str, value: object) -> None:
    schema = json.dumps({"properties": {"a/b": {"items": {keyword: value, "then": {}}}}})
    message = f"json_schema: '{re.escape(keyword)}' at #/properties/a~1b/items is not supported: ."
    with pytest.raises(ConfigError, match=message):
        rewritten(schema)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"json_schema is not JSON: .* line 1 column 2"),
        ("[" * 100_000, "json_schema is nested too deeply"),
        ('{"minimum": 1e400}', "the number 1e400 is out of range"),
        ('{"minimum": NaN}', "the number NaN is out of range"),
        ('{"minimum": ' + "9" * 5000 + "}", "json_schema cannot be read"),
        ('{"const": "\\ud800"}', "json_schema cannot be read"),
        ('{"type": "null", "type": "object"}', "'type' stands twice in one object"),
        (
            '{"description": "' + "x" * 140_000 + '"}',
            "json_schema has 1400.. characters; a constraint has at most 131072",
        ),
        ("[]", r"at # must stand an object, true or false, not \[\]"),
        ("false", "no JSON satisfies it"),
        ('{"type": "strin"}', "'type' at # must be one of null, .* not strin"),
        ('{"type": []}', "'type' at # must be one of"),
        ('{"minLength": -1}', "'minLength' at # must be a whole number from 0, not -1"),
        ('{"minItems": true}', "'minItems' at # must be a whole number from 0, not True"),
        ('{"maximum": "3"}', "'maximum' at # must be a number, not 3"),
        ('{"multipleOf": 0}', "'multipleOf' at # must be above 0"),
        ('{"required": "a"}', "'required' at # must be a list of strings"),
        ('{"properties": []}', "'properties' at # must be an object"),
        ('{"properties": {"a": 3}}', "at #/properties/a must stand an object, true or false, not 3"),
        ('{"anyOf": []}', "'anyOf' at # must be a list of at least one schema"),
        ('{"enum": "a"}', "'enum' at # must be a list"),
        ('{"pattern": 3}', "'pattern' at # must be a regular expression"),
        ('{"format": 3}', "'format' at # must be a string"),
        ('{"items": [{}]}', "'items' at # must be a schema .for a list write prefixItems."),
        ('{"$ref": 3}', "'[$]ref' at # must be a string"),
        ('{"$ref": "#/$defs/a"}', "'[$]ref' at # must be a path in this document, not #/[$]defs/a"),
        ('{"$schema": "https://example.com"}', "'[$]schema' at # must be one of .*2020-12"),
        ('{"maxlength": 3}', "'maxlength' at # is no keyword known here; leave it out"),
        ('{"$ref": "#"}', "'[$]ref' to # leads back to itself in the same place"),
        (
            '{"properties": {"a": {"$ref": "#"}}, "type": "object", "required": ["a"]}',
            "'[$]ref' to # asks for JSON that has",
        ),
        ('{"type": "string", "minLength": 3, "maxLength": 2}', "no JSON satisfies it: .*minLength"),
        (
            '{"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}',
            "'multipleOf' at # .* common multiple of 991, 997 is too",
        ),
        (
            '{"required": ["a"], "properties": {"b": {}}, "maxProperties": 1, "type": "object"}',
            "'minProperties or maxPr",
        ),
        (
            '{"patternProperties": {"a": {}, "b": {}}}',
            "'patternProperties' is not supported in this way: .*not disjoint",
        ),
    ],
)
def test_what_is_no_schema_or_makes_no_sense_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        constraint_of(text)


def test_patterns_that_all_must_match_are_counted_where_they_meet() -> None:
    patterns = [{"type": "string", "pattern": f"^{n}"} for n in range(10)]
    rewritten(json.dumps({"anyOf": patterns, "properties": {f"p{n}": each for n, each in enumerate(patterns)}}))
    for joint in (
        {"allOf": patterns},
        {"allOf": [{"properties": {"a": each}} for each in patterns]},
        {"allOf": [{"$ref": "#/$defs/a"}] * 10, "$defs": {"a": patterns[0]}},
    ):
        with pytest.raises(ConfigError, match="'pattern' is not supported that often: 10 of them meet in one string"):
            rewritten(json.dumps(joint))


def test_telling_options_apart_takes_a_bounded_number_of_steps() -> None:
    """Without a bound these would be compared along billions of paths."""
    names = [str(number) for number in range(16)]
    definitions: dict[str, object] = {
        name: {"allOf": [{"$ref": f"#/$defs/{other}"} for other in names[int(name) + 1 :]] or [{"minProperties": 0}]}
        for name in names
    }
    options = [{"$ref": "#/$defs/0"}, {"$ref": "#/$defs/1"}]
    with pytest.raises(ConfigError, match="'oneOf' at # is not supported: options 0 and 1 may both match"):
        rewritten(json.dumps({"oneOf": options, "$defs": definitions}))


def test_sizes_are_bounded() -> None:
    deep: object = {}
    for _ in range(41):
        deep = {"items": deep}
    with pytest.raises(ConfigError, match="schemas are nested more than 40 deep"):
        rewritten(json.dumps(deep))
    many = {f"a{n}": {f"b{m}": {} for m in range(300)} for n in range(8)}
    with pytest.raises(ConfigError, match="json_schema has more than 2000 schemas"):
        rewritten(json.dumps({"properties": {name: {"properties": each} for name, each in many.items()}}))
    unused = {str(n): {"not": {}} for n in range(3000)}
    rewritten(json.dumps({"$defs": unused}))


Case = tuple[object, list[str], list[str]]
ZOD_EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
DRAFT_4, DRAFT_7 = (f"http://json-schema.org/draft-0{number}/schema#" for number in (4, 7))
LETTERS: dict[str, Case] = {
    "a name has one spelling": (
        {"type": "object", "properties": {"a": {"type": "null"}}},
        ['{"a":null,"b":1}', '{"b":"x"}'],
        ['{"\\u0061":1}', '{"b":1,"a":1}', '{"a":1}'],
    ),
    "above 0": (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        ["0.5", "0.001", "0.25"],
        ["0", "0.0", "-0.1", "0.51"],
    ),
    "below -3": (
        {"type": "number", "exclusiveMaximum": -3, "minimum": -3.5},
        ["-3.5", "-3.1"],
        ["-3", "-3.0", "-3.6"],
    ),
    "whole above 3": ({"type": "integer", "exclusiveMinimum": 3, "maximum": 5}, ["4", "5"], ["3", "6"]),
    "cents": ({"type": "number", "multipleOf": 0.01}, ["1.25", "-3", "0.1"], ["0.125"]),
    "days": (
        {"type": "string", "format": "date"},
        ['"2024-02-29"'],
        ['"2023-02-29"', '"0000-01-01"', '"1900-02-29"', '"2024-04-31"'],
    ),
    "times": (
        {"type": "string", "format": "date-time"},
        ['"2000-02-29T23:59:59.5+01:00"', '"1999-12-31t00:00:00z"'],
        ['"2023-06-30T12:00:60Z"', '"2023-01-01T00:00:00"', '"2023-01-01"'],
    ),
    "format and pattern": (
        {"type": ["string", "null"], "format": "date", "pattern": "^19"},
        ['"1999-01-01"', "null"],
        ['"2000-01-01"', '"19"'],
    ),
    "int32": (
        {"type": "integer", "format": "int32", "minimum": 5},
        ["5", "2147483647"],
        ["4", "2147483648"],
    ),
    "password": ({"type": "string", "format": "password"}, ['"x"'], ["3"]),
    "a format that is not known": ({"type": "string", "format": "color"}, ['"x"'], ["3"]),
    "zod's e-mail": (
        {"type": "string", "format": "email", "pattern": ZOD_EMAIL},
        ['"a.b+c@d-e.fg"', '"\'a@1.co"', '"_@a.b.cd"'],
        ['".a@b.cd"', '"a..b@c.de"', '"a.@b.cd"', '"a@b"', '"a@b.c"', '"@b.cd"', '"!@b.cd"'],
    ),
    "a pattern that looks ahead, and a format": (
        {"type": "string", "format": "date", "pattern": "^(?!19)"},
        ['"2024-02-29"'],
        ['"x"', '"2023-02-29"'],
    ),
    "draft 7 by https": (
        {
            "$schema": DRAFT_7.replace("http", "https"),
            "type": "array",
            "items": [{"const": 1}],
            "additionalItems": False,
        },
        ["[1]", "[]"],
        ["[1,2]", "[2]"],
    ),
    "a pattern that is a property": (
        {
            "type": "object",
            "properties": {"name": {"type": "string"}, "score": {"type": "integer"}},
            "required": ["name", "score"],
            "patternProperties": {"^(?:score|name)$": {"maximum": 9, "maxLength": 3}, "^score$": {"minimum": 2}},
            "additionalProperties": False,
        },
        ['{"name":"abc","score":2}'],
        ['{"name":"abcd","score":2}', '{"name":"abc","score":1}', '{"name":"abc","score":12}', '{"name":"abc"}'],
    ),
    "a bracket in a class": ({"type": "string", "pattern": "^[a[b]c]$"}, ['"ac]"', '"[c]"'], ['"a"']),
    "a negated class": ({"type": "string", "pattern": r"^[^\s\w]+$"}, ['"-!"'], ['"é"', '"a"', '" "']),
    "patterns are searched": ({"type": "string", "pattern": "b"}, ['"abc"'], ['"ac"']),
    "pointers": (
        {"$ref": "#/definitions/a~1b%25", "definitions": {"a/b%": {"type": "null"}}},
        ["null"],
        ["1"],
    ),
    "its own id": (
        {"$id": "https://x.y/z", "$ref": "https://x.y/z#/$defs/0", "$defs": {"0": {"const": 1}}},
        ["1"],
        ["2"],
    ),
    "recursion": (
        {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["next"],
            "additionalProperties": False,
        },
        ['{"next":null}', '{"next":{"next":null}}'],
        ["{}", '{"next":{}}'],
    ),
    "tuples of draft 7": (
        {"$schema": DRAFT_7, "type": "array", "items": [{"const": 1}], "additionalItems": False},
        ["[1]", "[]"],
        ["[1,2]", "[2]"],
    ),
    "beside a reference in draft 7": (
        {"$schema": DRAFT_7, "$ref": "#/definitions/a", "type": "string", "definitions": {"a": {"const": 1}}},
        ["1"],
        ['"1"'],
    ),
    "bounds of draft 4": (
        {
            "$schema": DRAFT_4,
            "id": "x",
            "minimum": 3,
            "exclusiveMinimum": True,
            "maximum": 5,
            "exclusiveMaximum": False,
        },
        ["4", "5", '"x"'],
        ["3", "6"],
    ),
    "a union told apart": (
        {
            "oneOf": [
                {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"const": 1}}, "required": ["kind"]},
                {"$ref": "#/$defs/b"},
                {"type": ["string", "null"]},
            ],
            "$defs": {
                "b": {"allOf": [{"properties": {"kind": {"enum": ["b", "c"]}}}], "required": ["kind"], "type": "object"}
            },
        },
        ['{"kind":"a","x":1}', '{"kind":"c"}', "null"],
        ['{"kind":"d"}', "1", "{}"],
    ),
    "a union told apart by what stands beside it": (
        {
            "type": "object",
            "required": ["k"],
            "properties": {"k": {"enum": [1, 2]}},
            "oneOf": [{"properties": {"k": {"const": 1}}}, {"properties": {"k": {"const": 2}, "z": {"const": 0}}}],
        },
        ['{"k":1,"z":5}', '{"k":2,"z":0}'],
        ['{"k":2,"z":5}', '{"k":3}'],
    ),
    "1 is not true": ({"oneOf": [{"const": 1}, {"const": True}, {"const": "1"}]}, ["1", "true", '"1"'], ["2"]),
    "names from a list": (
        {"type": "object", "propertyNames": {"enum": ["a.b", "c"]}, "additionalProperties": {"type": "null"}},
        ['{"a.b":null}', "{}"],
        ['{"axb":null}', '{"c":1}'],
    ),
    "names by pattern": (
        {"type": "object", "propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": {"pattern": "^x"}}},
        ['{"x1":1}'],
        ['{"y":1}'],
    ),
    "names": ({"type": "object", "propertyNames": {"type": "string"}, "minProperties": 1}, ['{"x":1}'], ["{}"]),
    "a property that a pattern matches too": (
        {
            "type": "object",
            "properties": {"score": {"multipleOf": 5}},
            "patternProperties": {"^score$": {"type": "integer"}},
            "additionalProperties": False,
        },
        ['{"score":10}', "{}"],
        ['{"score":7}', '{"score":"x"}', '{"a":1}'],
    ),
    "keywords that belong together, apart": (
        {"patternProperties": {"^a": {"type": "null"}}, "anyOf": [{"type": "object"}], "additionalProperties": False},
        ['{"a1":null}', "{}"],
        ['{"b":null}', '{"a1":1}'],
    ),
    "keywords that say nothing": (
        {
            "uniqueItems": False,
            "nullable": False,
            "then": {},
            "minContains": 2,
            "unevaluatedProperties": True,
            "dependentRequired": {},
            "x-any": 1,
            "discriminator": {},
            "enum": [1],
        },
        ["1"],
        ["2"],
    ),
    "one is unique": ({"type": "array", "uniqueItems": True, "maxItems": 1}, ["[1]", "[]"], ["[1,1]"]),
    "true": (True, ["1", '{"a":[]}'], ["", "x"]),
    "properties come as they stand": (
        {"allOf": [{"properties": {"z": {}}}], "properties": {"a": {}}, "required": ["a", "z"], "type": "object"},
        ['{"z":1,"a":1}'],
        ['{"a":1,"z":1}'],
    ),
}


@pytest.mark.parametrize("name", LETTERS)
def test_schemas_are_followed_to_the_letter(name: str) -> None:
    """Each case is one that llguidance itself takes otherwise, or that is rewritten for it."""
    schema, yes, no = LETTERS[name]
    constraint = constraint_of(schema)
    for text in yes:
        assert allows(constraint.copy(), text), text
    for text in no:
        assert not allows(constraint.copy(), text), text


WAITED_FOR = "foo@a.bc:0-"


class Walker:
    """Writes texts at random that a constraint allows, and after a while such that they end soon."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, vocab_size: int, end: int) -> None:
        self.grammars, self.end = Grammars(tokenizer, vocab_size, (end,)), end
        known = TokenPieces(tokenizer)
        self.pieces = [known.piece(token) or b"" for token in range(vocab_size)]
        self.token = {mark: self.pieces.index(mark.encode()) for mark in set('{}[]"' + WAITED_FOR)}
        self.tokenizer = tokenizer

    def text(self, schema: object, seed: int) -> str | None:
        """A text, or None if it did not end. Raises: ConfigError for a schema that is refused."""
        constraint, random = constraint_of(schema, self.grammars), np.random.default_rng(seed)
        num_free, result = int(random.integers(2, 40)), bytearray()
        for step in range(300):
            mask = constraint.mask()
            if mask[self.end] and (step >= num_free or random.random() < 0.2):
                return result.decode()
            token = self._closing(mask, step) if step >= num_free else None
            if token is None:
                token = int(random.choice(np.flatnonzero(mask)))
            constraint.accept(token)
            if token == self.end:
                return result.decode()
            result += self.pieces[token]
        return None

    def _closing(self, mask: BoolArray, step: int) -> int | None:
        """A token that ends something: in a string it is the quote, or what a pattern may wait for; else a bracket."""
        is_string = mask[self.token["}"]] and mask[self.token["{"]]
        wanted = ('"' if is_string else '}]"') + WAITED_FOR[step % len(WAITED_FOR)]
        return next((self.token[mark] for mark in wanted if mask[self.token[mark]]), None)


CHECKER = jsonschema.FormatChecker(())
CHECKER.checkers = {
    name: checker
    for name, checker in jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers.items()
    if name in FORMATS.keys() | NATIVE_FORMATS
}
"""Other formats are annotations."""


def errors_of(schema: object, text: str) -> list[str]:
    """What jsonschema has against a text; multiples are those of decimal numbers, 0.3 one of 0.1."""
    validator = jsonschema.Draft202012Validator
    errors = list(validator(schema, format_checker=CHECKER).iter_errors(json.loads(text)))
    if errors:
        exact_schema, exact = (json.loads(each, parse_float=decimal.Decimal) for each in (json.dumps(schema), text))
        with decimal.localcontext(prec=400):
            errors = list(validator(exact_schema, format_checker=CHECKER).iter_errors(exact))
    return [error.message for error in errors]


def check(walker: Walker, seeds: range) -> collections.Counter[str]:
    """Each schema gives a valid text, or is refused with the keyword; returns how many of what."""
    counts: collections.Counter[str] = collections.Counter()
    for seed in seeds:
        schema = json_schema(seed)
        try:
            texts = (walker.text(schema, seed + attempt * 10**6) for attempt in range(3))
            text = next((text for text in texts if text is not None), None)
        except ConfigError as error:
            counts[f"refused: {keyword_in(error)}"] += 1
            continue
        counts["no end" if text is None else "valid"] += 1
        if text is not None:
            assert errors_of(schema, text) == [], (seed, schema, text)
    return counts


def keyword_in(refusal: ConfigError) -> str:
    """What a schema is refused for."""
    found = re.match(r"json_schema: (?:'([^']+)' |no JSON satisfies it)", str(refusal))
    assert found, refusal
    return found[1] or "nothing satisfies it"


def test_jsonschema_checks_the_formats() -> None:
    checked = jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers.keys()
    assert {"date", "date-time", "time", "duration", "uri", "hostname", "json-pointer"} <= checked, (
        "install jsonschema[format-nongpl]: without it the texts' formats are not checked"
    )


def test_schemas_give_valid_texts_or_are_refused_byte_by_byte() -> None:
    counts = check(Walker(byte_tokenizer(), VOCAB_SIZE, END_ID), range(5000, 5200))
    assert counts["valid"] > 120
    assert counts["no end"] < 3


@pytest.mark.slow
def test_a_thousand_schemas_give_valid_texts_or_are_refused(smollm2_auto: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(smollm2_auto / "tokenizer.json"))
    counts = check(Walker(tokenizer, tokenizer.get_vocab_size(), 2), range(1000))
    assert counts["valid"] > 690, counts
    assert counts["no end"] < 6, counts  # a walk is broken off after some hundred tokens


@pytest.mark.slow
def test_llguidance_spells_tokens_as_the_detokenizer_does(smollm2_auto: Path) -> None:
    from llguidance import LLTokenizer

    tokenizer = tokenizers.Tokenizer.from_file(str(smollm2_auto / "tokenizer.json"))
    theirs, ours = LLTokenizer(tokenizer.to_str(), slices=[]), TokenPieces(tokenizer)
    for token in range(tokenizer.get_vocab_size()):
        if not theirs.is_special_token(token):
            assert theirs.decode_bytes([token]) == ours.piece(token), token


@pytest.mark.parametrize("pattern", ["^score$", "^(?:score)$", "^(?:name|score)$", "^s[c]ore$"])
@pytest.mark.parametrize("required", [["score"], ["name", "score"], []])
def test_no_comma_where_no_property_may_follow(pattern: str, required: list[str]) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "integer"}, "score": {"type": "integer"}},
        "required": required,
        "patternProperties": {pattern: {"type": "integer"}},
        "additionalProperties": False,
    }
    rewritten_schema = rewritten(json.dumps(schema))
    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_json_schema(json.dumps(rewritten_schema)))
    text = b'{"name": 1, "score": 2'
    assert matcher.try_consume_tokens([*text]) == len(text)
    assert matcher.try_consume_tokens([*b","]) == 0, "behind it would be nothing but white space"
    assert matcher.try_consume_tokens([*b"}"]) == 1


def test_patterns_that_match_other_names_too_are_kept() -> None:
    for pattern in ("^s", "^(score|more)$", "score", "^.{5}$"):
        schema = {
            "properties": {"score": {"type": "integer"}},
            "patternProperties": {pattern: {"type": "integer"}},
            "additionalProperties": False,
        }
        assert len(rewritten(json.dumps(schema))["patternProperties"]) == 1


def test_names_are_listed_where_they_are_few() -> None:
    assert names_of("^(?:a|bc?|\u00e9)$", 4) == {"a", "b", "bc", "é"}
    assert names_of("^(?:a|bc?|\u00e9)$", 3) is None
    assert names_of("^a*$", 100) is None
    assert names_of("a", 100) is None
    assert names_of("^a|b$", 100) is None
    assert names_of("^(?=a)$", 100) is None
