"""What the grammars let a model write, the parser reads as the calls that were asked for; llguidance is the judge."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache

import jsonschema
import llguidance
import llguidance.numpy
import numpy as np
import pytest

from genai.answer.answer import AnswerFormat
from genai.chat.formats import TOOL_FORMATS
from genai.chat.shapes import ToolFormat
from genai.chat.tools import ToolSet
from genai.errors import ConfigError
from genai.options.generation_config import ConstraintConfig
from genai.tokenizer.tokenizer import Tokenizer
from tests.chat.tool_models import CHATML, GRANITE, LLAMA, MISTRAL, MISTRAL_NAMED, QWEN, tokenizer_with

QWEN_XML = "{{ tools }}<tool_call><function=f><parameter=a>"

PLACE = {"$ref": "#/$defs/place"}
SCHEMA = {
    "type": "object",
    "properties": {"place": PLACE, "days": {"type": "integer", "minimum": 1, "maximum": 9}, "raw": {"type": "boolean"}},
    "required": ["place"],
    "$defs": {"place": {"enum": ["here", "}<\"'", "Zürich"]}},
}


def function(name: str, schema: object = None, *, strict: bool = False) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "parameters": schema, "strict": strict}}


FUNCTIONS = [function("get", SCHEMA), function("get_now")]
STRICT = [function("get", SCHEMA, strict=True), function("get_now")]
PLACED = '{"place": "here", "days": 3}'
VALID = {
    QWEN: '<tool_call>\n{"name": "get", "arguments": PLACED}\n</tool_call>',
    CHATML: '<tool_call>\n{"name": "get", "arguments": PLACED}\n</tool_call>',
    LLAMA: '{"name": "get", "parameters": PLACED}',
    GRANITE: '<|tool_call|>[{"name": "get", "arguments": PLACED}]',
    MISTRAL: '[TOOL_CALLS] [{"name": "get", "arguments": PLACED}]',
    MISTRAL_NAMED: "[TOOL_CALLS]get[ARGS]PLACED",
}
SEVERAL = {
    QWEN: "X\nX",
    CHATML: "X\nX",
    GRANITE: '<|tool_call|>[{"name": "get_now", "arguments": {}}, {"name": "get", "arguments": PLACED}]',
    MISTRAL: '[TOOL_CALLS] [{"name": "get_now", "arguments": {}}, {"name": "get", "arguments": PLACED}]',
    MISTRAL_NAMED: "[TOOL_CALLS]get_now[ARGS]{}[TOOL_CALLS]get[ARGS]PLACED",
}
MODELS = [(template, has_markers) for template in VALID for has_markers in (True, False)]


@cache
def tokenizer(template: str, has_markers: bool) -> Tokenizer:
    return tokenizer_with(template, has_markers=has_markers)


@cache
def judge(template: str, has_markers: bool) -> llguidance.LLTokenizer:
    return judge_of(tokenizer(template, has_markers))


def judge_of(ours: Tokenizer) -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer(ours.backend.to_str(), eos_token=ours.eos_token_ids[0])


class Model:
    """A format, and llguidance's opinion of texts."""

    def __init__(self, template: str, has_markers: bool, ours: Tokenizer | None = None) -> None:
        self.tokenizer = ours or tokenizer(template, has_markers)
        self.format = AnswerFormat.of(self.tokenizer)
        self._judge = judge_of(self.tokenizer) if ours else judge(template, has_markers)

    def matcher(
        self, tools: ToolSet, prompt: str | None = None, form: ConstraintConfig | None = None
    ) -> llguidance.LLMatcher:
        constraint = self.format.constraint(tools, prompt, form)
        assert constraint is not None
        assert constraint.kind == "lark"
        assert isinstance(constraint.grammar, str)
        matcher = llguidance.LLMatcher(self._judge, llguidance.LLMatcher.grammar_from_lark(constraint.grammar))
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def accepts(
        self, text: str, tools: ToolSet, prompt: str | None = None, form: ConstraintConfig | None = None
    ) -> bool:
        matcher = self.matcher(tools, prompt, form)
        tokens = self.tokenizer.encode(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def written(self, tools: ToolSet, seed: int, prompt: str | None = None) -> list[int]:
        """Tokens at random among those allowed, forced ones without a choice; the end as soon as it is allowed."""
        matcher, chance, tokens = self.matcher(tools, prompt), random.Random(seed), list[int]()
        mask = llguidance.numpy.allocate_token_bitmask(1, self._judge.vocab_size)
        while not matcher.is_accepting() or chance.random() < 0.5:
            llguidance.numpy.fill_next_token_bitmask(matcher, mask, 0)
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: self._judge.vocab_size]
            allowed = [int(token) for token in np.flatnonzero(bits) if token not in self.tokenizer.eos_token_ids]
            if not allowed:
                break
            tokens.append(chance.choice(allowed))
            assert matcher.consume_token(tokens[-1])
        return tokens


@pytest.mark.parametrize(("template", "has_markers"), MODELS)
def test_forced_calls(template: str, has_markers: bool) -> None:
    model, tools = Model(template, has_markers), ToolSet.of(FUNCTIONS, "required")
    valid = VALID[template].replace("PLACED", PLACED)
    several = SEVERAL.get(template, "").replace("X", valid).replace("PLACED", PLACED)
    assert model.accepts(valid, tools)
    if several:
        assert model.accepts(several, tools)
    for text in [
        "",
        "Hello",
        f"Hello {valid}",
        f"{valid}Hello",
        valid[:-1],
        valid.replace("get", "got"),
        valid.replace("here", "there"),
        valid.replace("3", "12"),
        valid.replace(', "days": 3', ""),
        valid.replace('"days"', '"more"'),
    ]:
        assert model.accepts(text, tools) == (text == valid.replace(', "days": 3', ""))


@pytest.mark.parametrize(("template", "has_markers"), MODELS)
def test_whatever_is_written_is_read_as_calls(template: str, has_markers: bool) -> None:
    model, tools = Model(template, has_markers), ToolSet.of(STRICT, "required")
    model.format = replace(model.format, reasoning=())  # which would go on and on
    names = []
    for seed in range(8):
        detokenizer = model.tokenizer.detokenizer(visible_token_ids=model.format.visible_token_ids)
        parser = model.format.parser(tools)
        deltas = [parser.push(detokenizer.push(token)) for token in model.written(tools, seed)]
        deltas.append(parser.finish())
        assert "".join(delta.content for delta in deltas) == ""
        for call in parser.tool_calls:
            jsonschema.validate(json.loads(call.arguments), SCHEMA if call.name == "get" else {"maxProperties": 0})
        names.append([call.name for call in parser.tool_calls])
    assert {name for some in names for name in some} == {"get", "get_now"}
    assert all(names)
    assert any(len(some) > 1 for some in names) == (template != LLAMA), "its template shows one call a turn"


def test_a_chosen_function_is_called_once() -> None:
    tools = ToolSet.of(FUNCTIONS, {"type": "function", "function": {"name": "get_now"}})
    for template, has_markers in MODELS:
        model = Model(template, has_markers)
        text = model.tokenizer.decode(model.written(tools, 1), skip_special_tokens=False)
        assert "get_now" in text
        assert model.accepts(text, tools)
        assert not model.accepts(f"{text}\n{text}", tools)
        assert not model.accepts(text.replace("get_now", "get"), tools)


@pytest.mark.parametrize("has_markers", [True, False])
def test_reasoning_comes_first(has_markers: bool) -> None:
    model, tools = Model(QWEN, has_markers), ToolSet.of(FUNCTIONS, "required")
    call = VALID[QWEN].replace("PLACED", PLACED)
    for text in (call, f"<think>\nHm.\n</think>\n\n{call}", f"<think></think>{call}"):
        assert model.accepts(text, tools)
        assert not model.accepts(text, tools, "...<think>\n") or "</think>" in text
    for text in (f"Hm.</think>{call}", f"\nHm.\n</think>\n\n{call}"):
        assert model.accepts(text, tools, "...<think>\n")
        assert not model.accepts(text, tools, "...<think>\n\n</think>\n\n")
    assert not model.accepts(f"<think>Hm.</think>Hello {call}", tools)


@pytest.mark.parametrize("has_markers", [True, False])
def test_reasoning_comes_first_in_other_markers(has_markers: bool) -> None:
    model = Model(LLAMA.replace("ipython", "ipython [THINK] [/THINK]", 1), has_markers)
    call = VALID[LLAMA].replace("PLACED", PLACED)
    for choice, tools in (("required", FUNCTIONS), ("auto", STRICT)):
        assert model.accepts(f"[THINK]Hm.[/THINK]{call}", ToolSet.of(tools, choice))
        assert model.accepts(f"Hm.[/THINK]\n{call}", ToolSet.of(tools, choice), "[THINK]")


@pytest.mark.parametrize(("template", "has_markers"), MODELS)
def test_strict_tools_are_held_to_their_schema_when_they_are_called(template: str, has_markers: bool) -> None:
    model, tools = Model(template, has_markers), ToolSet.of(STRICT, "auto")
    valid = VALID[template].replace("PLACED", PLACED)
    said = "" if template == LLAMA else "Let me see <b>.\n"
    for text in ("", "Hello", "Hello\nWorld {<tool_cal", f"{said}{valid}", valid.replace("here", "Zürich")):
        assert model.accepts(text, tools)
    loose = valid.replace('"get"', '"get_now"').replace("]get[", "]get_now[")
    assert model.accepts(said + loose, tools), "a tool that is not strict takes any object"
    for text in (
        f"{said}{valid.replace('here', 'there')}",
        f"{said}{valid.replace('get', 'got')}",
        f"{said}{valid.replace('3', '12')}",
        f"{said}{valid[:-2]}",
    ):
        assert not model.accepts(text, tools)


def test_after_reasoning_strict_tools_are_held_to_their_schema() -> None:
    for has_markers in (True, False):
        model, tools = Model(QWEN, has_markers), ToolSet.of(STRICT, "auto")
        valid = VALID[QWEN].replace("PLACED", PLACED)
        for text in (f"<think>Hm.</think>\n\n{valid}", f"<think>Hm.</think>Hello {valid}", "<think>Hm.</think>Hello"):
            assert model.accepts(text, tools)
            assert model.accepts(text.removeprefix("<think>"), tools, "...<think>")
        assert not model.accepts(f"<think>Hm.</think>{valid.replace('here', 'there')}", tools)


@pytest.mark.parametrize(("template", "has_markers"), MODELS)
def test_calls_that_must_not_be_parallel(template: str, has_markers: bool) -> None:
    model = Model(template, has_markers)
    valid = VALID[template].replace("PLACED", PLACED)
    several = SEVERAL.get(template, "XX").replace("X", valid).replace("PLACED", PLACED)
    for choice in ("auto", "required"):
        tools = ToolSet.of(FUNCTIONS, choice, False)
        assert model.accepts(valid, tools)
        assert not model.accepts(several, tools)


@pytest.mark.parametrize(("template", "has_markers"), MODELS)
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_some_of_the_tools(template: str, has_markers: bool, mode: str) -> None:
    """The model is told of all tools, and calls none but those that are allowed."""
    model, named = Model(template, has_markers), [{"type": "function", "function": {"name": "get"}}]
    tools = ToolSet.of(FUNCTIONS, {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}})
    valid = VALID[template].replace("PLACED", PLACED)
    assert model.accepts(valid, tools)
    assert not model.accepts(valid.replace('"get"', '"get_now"').replace("]get[", "]get_now["), tools)
    assert model.accepts("Hello", tools) == (mode == "auto")


def test_what_is_free_has_no_grammar() -> None:
    model = Model(QWEN, True)
    for tools in (ToolSet.of(), ToolSet.of(FUNCTIONS), ToolSet.of(STRICT, "none"), ToolSet.of(None, None, False)):
        assert model.format.constraint(tools) is None


UNFOLLOWED = [
    {"type": "object", "properties": {"a": {"type": "string", "not": {"const": "b"}}}},
    {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?!x)b$"}}},
]


@pytest.mark.parametrize("template", [QWEN, QWEN_XML])
@pytest.mark.parametrize("schema", UNFOLLOWED)
def test_a_schema_that_no_grammar_follows_loosens_its_own_tool_alone(template: str, schema: object) -> None:
    model = Model(template, True)
    tools = ToolSet.of([function("f", schema), function("get", SCHEMA)], "required")
    spelled = model.format.tool_format.spelled
    assert model.accepts(spelled([("f", '{"a": "b", "c": [1]}')]), tools)
    assert model.accepts(spelled([("get", PLACED)]), tools)
    assert not model.accepts(spelled([("get", PLACED.replace("here", "there"))]), tools)
    with pytest.raises(ConfigError, match=r"^tools: .*strict: f.*(not|pattern)"):
        model.matcher(ToolSet.of([function("f", schema, strict=True), function("get", SCHEMA)], "required"))


JSON_FORM = ConstraintConfig(kind="json_schema", grammar='{"type": "object", "properties": {"a": {"type": "integer"}}}')
FORMS = [
    (JSON_FORM, '{"a": 1}', '{"a": "b"}'),
    (ConstraintConfig(kind="json_schema", grammar="true"), "[1]", "[1"),
    (ConstraintConfig(kind="regex", grammar="[a-c]{3}/?"), "abc/", "abd"),
    (ConstraintConfig(kind="choices", grammar=("yes", "n}o")), "n}o", "no"),
    (ConstraintConfig(kind="lark", grammar='start: A "}" b\nA: /[0-9]+/\nb: "x" | %json {"const": 1}'), "12}1", "12}2"),
]


@pytest.mark.parametrize("has_markers", [True, False])
@pytest.mark.parametrize(("form", "right", "wrong"), FORMS, ids=["json", "any json", "regex", "choices", "lark"])
def test_a_form_begins_where_reasoning_ends(form: ConstraintConfig, right: str, wrong: str, has_markers: bool) -> None:
    model, none = Model(QWEN, has_markers), ToolSet()
    for before in ("", "<think>Hm, {1} [x] yes.</think>", "<think>\nHm.\n</think>\n\n"):
        assert model.accepts(before + right, none, form=form)
        assert not model.accepts(before + wrong, none, form=form)
    opened = "...<think>\n"
    assert model.accepts(f"Hm.</think>\n{right}", none, opened, form)
    assert not model.accepts(right, none, opened, form)
    plain = replace(model.format, reasoning=())
    assert plain.constraint(none, None, form) is form, "without reasoning and tools it is what it was"


@pytest.mark.parametrize("template", [QWEN, LLAMA, QWEN_XML])
def test_an_answer_is_a_call_or_has_the_form(template: str) -> None:
    model = Model(template, True)
    call = model.format.tool_format.spelled([("get", PLACED)])
    tools = ToolSet.of(FUNCTIONS)
    assert model.accepts(call, tools, form=JSON_FORM)
    assert model.accepts('{"a": 1}', tools, form=JSON_FORM)
    assert not model.accepts('{"a": "b"}', tools, form=JSON_FORM)
    assert not model.accepts("Hello", tools, form=JSON_FORM)
    assert not model.accepts('{"a": 1}', ToolSet.of(FUNCTIONS, "required"), form=JSON_FORM), "the calls alone"
    parser = model.format.parser(tools, has_form=True)
    assert parser.push('{"a": 1}').content + parser.finish().content == '{"a": 1}'


def test_schemas_that_say_themselves_what_else_is_allowed_are_kept() -> None:
    model = Model(QWEN, True)
    for schema, arguments in (
        ({"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}}, '{"x": 1}'),
        ({"type": "object", "additionalProperties": True}, '{"x": [1]}'),
        ({"type": "object", "anyOf": [{"properties": {"x": {"const": 1}}}], "properties": {}}, '{"x": 1}'),
    ):
        tools = ToolSet.of([function("f", schema)], "required")
        assert model.accepts(f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>', tools)


@pytest.mark.parametrize("entry", [each for each in TOOL_FORMATS if each.call.pairs], ids=lambda each: each.models)
def test_definitions_that_are_named_in_many_places_are_written_once(entry: ToolFormat) -> None:
    """Eight levels of eight references each would be millions of rules, and each argument had all definitions."""
    levels = 8
    definitions: dict[str, object] = {f"d{levels}": {"type": "string"}}
    for level in range(levels):
        inner = {f"p{number}": {"$ref": f"#/$defs/d{level + 1}"} for number in range(8)}
        definitions[f"d{level}"] = {"type": "object", "properties": inner}
    properties: dict[str, object] = {f"n{number}": {"type": "integer"} for number in range(1000)}
    properties["deep"] = {"$ref": "#/$defs/d0"}
    tool = function("f", {"type": "object", "properties": properties, "$defs": definitions}, strict=True)
    wanted = AnswerFormat(tool_format=entry).constraint(ToolSet.of([tool]), "")
    assert wanted is not None
    assert len(str(wanted.grammar)) < 200_000


def test_a_grammar_that_is_too_long_is_not_written() -> None:
    """One tool's is left out, as any that cannot be followed; a strict one is refused."""
    entry = next(each for each in TOOL_FORMATS if each.name == "qwen xml")
    properties = {f"n{number}": {"enum": [f"{number}-{each}" for each in range(50)]} for number in range(2000)}
    tools = [function("f", {"type": "object", "properties": properties}), function("g", SCHEMA)]
    wanted = AnswerFormat(tool_format=entry).constraint(ToolSet.of(tools, "required"), "")
    assert wanted is not None
    assert "Zürich" in str(wanted.grammar), "the other one is followed"
    tools[0]["function"]["strict"] = True  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"\(strict: f\): lark has more than"):
        AnswerFormat(tool_format=entry).constraint(ToolSet.of(tools, "required"), "")
