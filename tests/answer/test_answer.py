"""Answers are taken apart the same way however they are cut, and nothing that the model wrote is lost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai.answer.answer import AnswerFormat, AnswerParser
from genai.chat.formats import KNOWN_REASONING, tool_format_of
from genai.chat.tools import ToolSet
from tests.chat.tool_models import (
    CHATML,
    DEEPSEEK,
    GRANITE,
    LLAMA,
    MISTRAL,
    MISTRAL_NAMED,
    QWEN,
    SMOLLM3,
    tokenizer_with,
)

NAMES = ("get", "get_weather")
TOOLS = ToolSet.of([{"type": "function", "function": {"name": name}} for name in NAMES])
ARGUMENTS = '{"city": "Zü}\\"rich <b>", "n": [1, {"x": null}]}'
CALL = f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}'
OTHER = '{"name": "get", "arguments": {}}'


@dataclass
class Heard:
    """An answer, put together from its deltas."""

    content: str = ""
    reasoning: str = ""
    streamed: list[tuple[str | None, str]] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)


def listen(parser: AnswerParser, pieces: list[str]) -> Heard:
    heard = Heard()
    ids = []
    for delta in (*map(parser.push, pieces), parser.finish()):
        heard.content += delta.content
        heard.reasoning += delta.reasoning
        for call in delta.tool_calls:
            assert call.id or call.arguments, "no delta is empty"
            if call.id is not None:
                assert call.index == len(heard.streamed), "calls come in order"
                assert call.name in NAMES
                heard.streamed.append((call.name, ""))
                ids.append(call.id)
            name, arguments = heard.streamed[call.index]
            heard.streamed[call.index] = (name, arguments + call.arguments)
    assert len(set(ids)) == len(ids)
    assert {call.id for call in parser.tool_calls} <= set(ids)
    heard.calls = [(call.name, call.arguments) for call in parser.tool_calls]
    return heard


def parser_of(template: str, prompt: str | None = None, tools: ToolSet | None = TOOLS) -> AnswerParser:
    return AnswerFormat(tool_format=tool_format_of(template), reasoning=KNOWN_REASONING).parser(tools, prompt)


def hear(template: str, *pieces: str, prompt: str | None = None, tools: ToolSet | None = TOOLS) -> Heard:
    return listen(parser_of(template, prompt, tools), list(pieces))


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


TAGGED = f"<tool_call>\n{CALL}\n</tool_call>"
WEATHER = ("get_weather", ARGUMENTS)
GET = ("get", "{}")


@pytest.mark.parametrize(
    ("template", "text", "content", "calls"),
    [
        (QWEN, TAGGED, "", [WEATHER]),
        (QWEN, f"Let me look.\n{TAGGED}\n<tool_call>{OTHER}</tool_call>\n", "Let me look.\n", [WEATHER, GET]),
        (QWEN, f"{TAGGED} That was it. ", "", [WEATHER]),
        (QWEN, f"<tool_call>[{CALL},\n {OTHER} ]</tool_call>", "", [WEATHER, GET]),
        (QWEN, f"<tool_call>{CALL}\n{OTHER}</tool_call>", "", [WEATHER, GET]),
        (QWEN, f"<tool_call>{CALL}", "", [WEATHER]),
        (QWEN, f"<tool_call>{CALL}</tool_c", "", [WEATHER]),
        (QWEN, f"<tool_call>{CALL}<tool_call>{OTHER}</tool_call>", "", [WEATHER, GET]),
        (QWEN, f'<tool_call>{{"arguments": {ARGUMENTS} , "name":"get_weather"}}</tool_call>', "", [WEATHER]),
        (QWEN, '<tool_call>{"id": "x", "type": "function", "name": "get"}</tool_call>', "", [GET]),
        (QWEN, '<tool_call>{"name": "get", "arguments": null}</tool_call>', "", [GET]),
        (QWEN, f'<tool_call>{{"name": "get_weather", "arguments": {json.dumps(ARGUMENTS)}}}', "", [WEATHER]),
        (QWEN, f"<tool_call><tool_call>{OTHER}</tool_call>", "<tool_call>", [GET]),
        (QWEN, CALL, CALL, []),
        (SMOLLM3, f"<tool_call>{CALL}</tool_call>", "", [WEATHER]),
        (GRANITE, f"<|tool_call|>[{CALL}, {OTHER}]", "", [WEATHER, GET]),
        (LLAMA, CALL.replace("arguments", "parameters"), "", [WEATHER]),
        (LLAMA, f" {CALL}; {OTHER}", "", [WEATHER, GET]),
        (LLAMA, f"<|python_tag|>{CALL}", "", [WEATHER]),
        (LLAMA, "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
        (LLAMA, f"Sure:\n{CALL}", f"Sure:\n{CALL}", []),
        (LLAMA, f"{CALL}; and", "", [WEATHER]),
        (MISTRAL, f"[TOOL_CALLS] [{CALL}, {OTHER}]", "", [WEATHER, GET]),
        (MISTRAL, f"[TOOL_CALLS][{CALL}", "", [WEATHER]),
        (MISTRAL, f"[TOOL_CALLS] [{CALL}, nothing]", "", [WEATHER]),
        (MISTRAL, "[TOOL_CALLS] []", "[TOOL_CALLS] []", []),
        (MISTRAL_NAMED, f"Hm.[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}[TOOL_CALLS]get[ARGS]{{}}", "Hm.", [WEATHER, GET]),
        (MISTRAL_NAMED, f"[TOOL_CALLS]get_weather[CALL_ID]aB3[ARGS] {ARGUMENTS}", "", [WEATHER]),
        (MISTRAL_NAMED, f"[TOOL_CALLS]get_weather{ARGUMENTS}", "", [WEATHER]),
        (MISTRAL_NAMED, "[TOOL_CALLS]get_time[ARGS]{}", "[TOOL_CALLS]get_time[ARGS]{}", []),
        (MISTRAL_NAMED, "[TOOL_CALLS]get[ARGS][1]", "[TOOL_CALLS]get[ARGS][1]", []),
        (MISTRAL_NAMED, "[TOOL_CALLS]get[CALL_ID]x{}", "[TOOL_CALLS]get[CALL_ID]x{}", []),
        (CHATML, CALL, "", [WEATHER]),
        (CHATML, f"\n [{CALL},{OTHER}]\n", "", [WEATHER, GET]),
        (CHATML, f"{CALL}\n{OTHER}", "", [WEATHER, GET]),
        (CHATML, f"Sure:\n\n```json\n{CALL}\n```\nDone", "Sure:\n\n", [WEATHER]),
        (CHATML, f"```\n[{CALL}]\n```", "", [WEATHER]),
        (CHATML, f"Sure: {CALL}", f"Sure: {CALL}", []),
        (CHATML, TAGGED, "", [WEATHER]),
        (CHATML, "```json\n[1, 2]\n```\n[a](b)\n{x}", "```json\n[1, 2]\n```\n[a](b)\n{x}", []),
    ],
)
def test_calls(template: str, text: str, content: str, calls: list[tuple[str, str]]) -> None:
    for pieces in ([text], list(text), cut(text, list(range(0, len(text), 3)))):
        heard = hear(template, *pieces)
        assert (heard.content, heard.calls) == (content, calls)
        assert heard.streamed[: len(calls)] == calls
        assert heard.reasoning == ""


@pytest.mark.parametrize(
    "text",
    [
        TAGGED.replace("get_weather", "get_time"),
        TAGGED.replace("get_weather", "getter"),
        TAGGED.replace('"get_weather"', "get_weather"),
        TAGGED.replace("}]}", "}}}"),
        TAGGED.replace(ARGUMENTS, "[1]"),
        TAGGED.replace(ARGUMENTS, '"no JSON"'),
        TAGGED.replace(ARGUMENTS, r'"{\"a\": \"\ud800\"}"'),
        TAGGED.replace("1,", "01,"),
        TAGGED.replace("Z", "\n"),
        TAGGED.replace("arguments", "args"),
        TAGGED.replace('"arguments"', '"arguments": {}, "parameters"'),
        TAGGED.replace('"name"', '"name": "get", "name"'),
        TAGGED[:-20],
        TAGGED[:20],
        "<tool_call></tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>{" * 50,
        "<tool_call>" + '{"name": "get", "arguments": ' + '{"a":' * 200,
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    text = f"So:\n{text} and on"
    for template in (QWEN, CHATML, SMOLLM3):
        for pieces in ([text], list(text)):
            heard = hear(template, *pieces)
            assert (heard.content, heard.calls) == (text, [])


def test_a_call_that_breaks_off_has_been_streamed_and_is_content_in_the_end() -> None:
    heard = hear(QWEN, '<tool_call>{"name": "get", "arguments": {"a": 1, oops}}', f"<tool_call>{OTHER}")
    assert heard.content == '<tool_call>{"name": "get", "arguments": {"a": 1, oops}}'
    assert heard.streamed == [("get", '{"a": 1, '), GET]
    assert heard.calls == [GET]


def test_arguments_stream_as_they_come_once_the_name_is_known() -> None:
    parser = parser_of(QWEN)
    head = '<tool_call>\n{"name": "get_weather", "arguments": '
    assert all(parser.push(character).tool_calls == () for character in head)
    first, *rest = (parser.push(character).tool_calls for character in ARGUMENTS)
    assert [(delta.index, delta.name, delta.arguments) for delta in first] == [(0, "get_weather", "{")]
    assert first[0].id is not None
    assert first[0].id.startswith("call_")
    assert "".join(delta.arguments for (delta,) in rest) == ARGUMENTS[1:]
    assert {(delta.index, delta.id, delta.name) for (delta,) in rest} == {(0, None, None)}
    assert parser.tool_calls == ()
    parser.push("}")
    assert [call.arguments for call in parser.tool_calls] == [ARGUMENTS]


def test_nothing_is_held_back_but_what_may_become_a_marker() -> None:
    parser = parser_of(QWEN)
    shown = [parser.push(piece).content for piece in ("Hi", " <", "b> <tool", "box <tool_call", "s> `", "{", "\n", "x")]
    assert shown == ["Hi", " ", "<b> ", "<toolbox ", "<tool_calls> `", "{", "\n", "x"]
    parser = parser_of(CHATML)
    shown = [parser.push(piece).content for piece in ("`", "a`` `", "\n`", "``", "x\n", "{", "}", "\n[", "1")]
    assert shown == ["", "`a`` `", "\n", "", "", "", "```x\n{}", "\n", "[1"]


THOUGHT = "<think>\nLet me\n\nsee <tool_call>.\n</think>\n\n"


@pytest.mark.parametrize(
    ("text", "prompt", "reasoning", "content"),
    [
        (f"{THOUGHT}Hello ", None, "Let me\n\nsee <tool_call>.", "Hello "),
        (f"\n {THOUGHT}Hello", "<|assistant|>", "Let me\n\nsee <tool_call>.", "Hello"),
        (" so </think> Hello", "<|assistant|><think>\n", "so", "Hello"),
        ("so [/THINK]Hello", "[THINK]", "so", "Hello"),
        ("[THINK]so[/THINK]Hello", "", "so", "Hello"),
        ("◁think▷so◁/think▷Hello", "", "so", "Hello"),
        ("<think>so[/THINK]Hello", "", "so[/THINK]Hello", ""),
        ("<think>cut off </thin", None, "cut off </thin", ""),
        ("<think> ", None, "", ""),
        ("<think></think>", None, "", ""),
        ("Use <think>x</think>.", None, "", "Use <think>x</think>."),
        ("a</think>b", "<think>\n\n</think>\n\n", "", "a</think>b"),
        ("<thin", None, "", "<thin"),
        (" \n ", None, "", " \n "),
        ("", None, "", ""),
    ],
)
def test_reasoning(text: str, prompt: str | None, reasoning: str, content: str) -> None:
    for tools in (TOOLS, None):
        for pieces in ([text], list(text)):
            heard = hear(QWEN, *pieces, prompt=prompt, tools=tools)
            assert (heard.reasoning, heard.content, heard.calls) == (reasoning, content, [])


def test_reasoning_then_calls() -> None:
    for template, text in ((QWEN, TAGGED), (LLAMA, CALL), (CHATML, f"[{CALL}]")):
        heard = hear(template, *(THOUGHT + text))
        assert (heard.reasoning, heard.content, heard.calls) == ("Let me\n\nsee <tool_call>.", "", [WEATHER])


def test_without_tools_nothing_is_a_call() -> None:
    assert hear(CHATML, TAGGED, tools=None).content == TAGGED
    assert hear(CHATML, TAGGED, tools=ToolSet.of([TOOLS.told[0].described()], "none")).content == TAGGED


def test_only_the_chosen_tool_can_be_called() -> None:
    tools = ToolSet.of(TOOLS.described(), {"type": "function", "function": {"name": "get"}})
    heard = hear(QWEN, TAGGED, tools=tools)
    assert (heard.calls, heard.content) == ([], "")


@pytest.mark.parametrize("template", [QWEN, CHATML, LLAMA, MISTRAL, MISTRAL_NAMED])
def test_a_forced_call_that_is_cut_leaves_nothing_in_the_content(template: str) -> None:
    tools = ToolSet.of(TOOLS.described(), "required")
    text = tool_format_of(template).spelled([WEATHER, GET])
    for length in range(len(text)):
        heard = hear(template, *text[:length], tools=tools)
        assert heard.content == ""
        assert heard.calls in ([], [WEATHER], [WEATHER, GET])


def test_without_parallel_calls_the_first_ends_the_answer() -> None:
    tools = ToolSet.of(TOOLS.described(), "auto", False)
    for template, text in {QWEN: TAGGED + TAGGED, CHATML: f"[{CALL}, {CALL}]", LLAMA: f"{CALL}; {CALL}"}.items():
        heard = hear(template, text, tools=tools)
        assert (heard.calls, heard.content) == ([WEATHER], "")


@pytest.mark.parametrize("following", ["\nThe weather is fine.", "\n\n<think>", "<tool_call>{broken", TAGGED * 3])
def test_calls_end_the_answer(following: str) -> None:
    parser = parser_of(QWEN)
    for character in f"Let me look.\n{TAGGED}":
        assert not parser.is_over
        parser.push(character)
    parser.push("\n")
    assert not parser.is_over, "another call may follow"
    deltas = [parser.push(character) for character in following]
    assert parser.is_over
    assert not any(delta.content for delta in deltas)
    assert len(parser.tool_calls) == (2 if following.startswith(TAGGED) else 1), "one repetition stands"
    assert sum(call.name is not None for delta in deltas for call in delta.tool_calls) == len(parser.tool_calls) - 1


def test_calls_that_go_round_in_circles_end_the_answer() -> None:
    other = TAGGED.replace("Zü", "Be")
    for turns, num_calls in (
        ([TAGGED, other, TAGGED, other, TAGGED], 3),
        ([TAGGED, TAGGED, other, TAGGED], 3),
        ([TAGGED, other, other.replace("Be", "Bl"), TAGGED, other.replace("Be", "Mu")], 5),
    ):
        parser, given = parser_of(QWEN), []
        for character in "".join(turns):
            given += parser.push(character).tool_calls
        assert len(parser.tool_calls) == num_calls == sum(call.name is not None for call in given)
        assert [call.arguments for call in parser.tool_calls] == [
            "".join(call.arguments for call in given if call.index == index) for index in range(num_calls)
        ]


def test_strict_tools_are_called_only_where_a_grammar_can_see_it() -> None:
    strict = ToolSet.of(
        [{"type": "function", "function": {"name": name, "strict": name == "get_weather"}} for name in NAMES]
    )
    heard = hear(CHATML, f"{CALL}\n{OTHER}\n{TAGGED}", tools=strict)
    assert (heard.content, heard.calls) == (f"{CALL}\n", [GET, WEATHER])


MARKERS = [
    "<tool_call>",
    "</tool_call>",
    "<tool",
    "<|tool_call|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|python_tag|>",
]
OTHER_MARKERS = ["<think>", "</think>", "[THINK]", "```json", "```"]
PARTS = ['{"name": "get', '_weather"', '"arguments": ', '"parameters": {', '"id": 1', "get", "é", "1", "null", "\x00"]
CALLS = [CALL, OTHER, CALL[:-3], TAGGED, f"[{CALL}, ", f"get[ARGS]{ARGUMENTS}"]
FRAGMENTS = st.sampled_from([*MARKERS, *OTHER_MARKERS, *'\n {}[],;:"\\x', *PARTS, *CALLS])
HOSTILE = st.lists(FRAGMENTS, max_size=14).map("".join)
TEMPLATES = st.sampled_from([QWEN, CHATML, LLAMA, MISTRAL, MISTRAL_NAMED, GRANITE])


@given(TEMPLATES, HOSTILE, st.lists(st.integers(0, 300), max_size=8), st.sampled_from([None, "<think>"]))
def test_cuts_do_not_matter_and_nothing_is_lost(template: str, text: str, cuts: list[int], prompt: str | None) -> None:
    heard = hear(template, text, prompt=prompt)
    assert hear(template, *cut(text, cuts), prompt=prompt) == heard
    assert hear(template, *text, prompt=prompt) == heard
    rest = iter(text)
    assert all(character in rest for character in heard.reasoning + heard.content), "as they were written, in order"
    for _, arguments in heard.calls:
        assert isinstance(json.loads(arguments), dict)
        assert arguments == "{}" or arguments in text
    if not heard.calls and prompt is None and "think" not in text.lower():
        assert heard.content == text


SAID = st.text(st.characters(exclude_characters="<[{`", exclude_categories=["Cs"])).map(lambda text: f"a{text}b")


@given(SAID, st.lists(st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(), st.text() | st.none())), max_size=3))
def test_what_was_written_is_read(said: str, calls: list[tuple[str, dict[str, str | None]]]) -> None:
    written = [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls]
    written = written[:2] if len(written) == 3 and len(set(written)) == 1 else written  # one repetition stands
    objects = [f'{{"name": "{name}", "arguments": {arguments}}}' for name, arguments in written]
    texts = {
        QWEN: said + "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects),
        CHATML: f"{said}\n```json\n[{', '.join(objects)}]\n```" if objects else f"{said}\n",
        MISTRAL: f"{said}[TOOL_CALLS] [{', '.join(objects)}]" if objects else said,
        MISTRAL_NAMED: said + "".join(f"[TOOL_CALLS]{name}[ARGS]{arguments}" for name, arguments in written),
    }
    for template, text in texts.items():
        heard = hear(template, text)
        assert (heard.content.strip("\n"), heard.calls) == (said.strip("\n"), written)
        assert heard.streamed == written


NESTED = '<tool_call>{"name":"get","arguments":' + '{"a":' * 60
UNITS = [*'{["< `\\\n', "\n{", "\n[", "<tool_call>{", "\n```json\n{", '\n[{"name":"get"}', NESTED, TAGGED]


@pytest.mark.parametrize(
    ("before", "unit"),
    [
        *(("", unit) for unit in UNITS),
        *(("<think>x", unit) for unit in "< \n"),
        *(('<tool_call>{"name":"get","arguments":{"a":"', unit) for unit in ("\\\\", " ", "x")),
        *(('<tool_call>{"arguments":', unit) for unit in (" ", "[", '"x')),
    ],
)
def test_effort_is_linear(before: str, unit: str) -> None:
    """What took time by the square of the text, or recursed, would not get through this."""
    hear(CHATML, before + unit * (50_000 // len(unit)))
    hear(CHATML, *(before + unit * (3_000 // len(unit))))


@pytest.mark.parametrize(
    ("template", "name", "reasoning"),
    [
        (QWEN, "hermes", {"<think>"}),
        (SMOLLM3, "hermes", set()),
        (LLAMA, "llama3", set()),
        (MISTRAL, "mistral", set()),
        (MISTRAL_NAMED, "mistral", set()),
        (GRANITE, "granite", set()),
        (CHATML, "json", set()),
        (DEEPSEEK, "json", {"<think>"}),
    ],
)
def test_the_format_is_found_in_the_template(template: str, name: str, reasoning: set[str]) -> None:
    found = AnswerFormat.of(tokenizer_with(template, has_markers=False))
    assert found.tool_format.name == name
    assert {markers.open for markers in found.reasoning} == reasoning
    assert found.visible_token_ids == frozenset()


def test_reasoning_is_found_in_the_vocabulary() -> None:
    found = AnswerFormat.of(tokenizer_with(CHATML))
    assert {markers.open for markers in found.reasoning} == {"<think>", "[THINK]"}


def test_special_markers_become_visible() -> None:
    tokenizer = tokenizer_with(MISTRAL_NAMED)
    found = AnswerFormat.of(tokenizer)
    ids = tokenizer.encode('[THINK]so[/THINK]Hi[TOOL_CALLS]get[ARGS]{"a": 1}<eos>')
    detokenizer = tokenizer.detokenizer(visible_token_ids=found.visible_token_ids)
    text = [*map(detokenizer.push, ids), detokenizer.finish()]
    heard = listen(found.parser(TOOLS), text)
    assert (heard.reasoning, heard.content, heard.calls) == ("so", "Hi", [("get", '{"a": 1}')])
    assert tokenizer.decode(ids) == 'soHiget{"a": 1}'
