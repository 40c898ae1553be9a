"""Arguments that are written one by one: their JSON is what schema and spelling mean, whole and at every cut."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai.answer.answer import AnswerFormat
from genai.answer.argument_types import types_of
from genai.chat.formats import TOOL_FORMATS
from genai.chat.shapes import ToolFormat
from genai.chat.tools import ToolSet
from tests.chat.test_formats import heard

SCHEMA = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "os": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "n": {"type": "integer"},
        "b": {"type": "boolean"},
        "on": {"$ref": "#/$defs/on"},
        "any": {},
        "si": {"type": ["string", "integer"]},
        "l": {"type": "array"},
    },
    "$defs": {"on": {"type": ["null", "number"]}},
}
TOOLS = ToolSet.of([{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}])
PAIRS = [entry for entry in TOOL_FORMATS if entry.call.pairs is not None]


def entry_of(model: str) -> ToolFormat:
    return next(entry for entry in TOOL_FORMATS if model in entry.models)


def read(entry: ToolFormat, *pieces: str) -> tuple[str, list[object]]:
    content, calls, streamed = heard(AnswerFormat(tool_format=entry).parser(TOOLS), [*pieces])
    assert streamed[: len(calls)] == [arguments for _, arguments in calls]
    return content, [json.loads(arguments) for _, arguments in calls]


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("s", "5", "5"),
        ("s", "null", "null"),
        ("s", "", ""),
        ("s", "a\n\nb</parameter\n", "a\n\nb</parameter\n"),
        ("os", "null", None),
        ("os", "None", None),
        ("os", "5", "5"),
        ("n", " 5 ", 5),
        ("n", "five", "five"),
        ("b", "True", True),
        ("b", "false", False),
        ("on", "None", None),
        ("on", "1.5", 1.5),
        ("any", "[1]", [1]),
        ("any", "True", "True"),
        ("any", "NaN", "NaN"),
        ("si", "5", 5),
        ("si", "x", "x"),
        ("si", "5.5", "5.5"),
        ("l", "[1, 2", "[1, 2"),
        ("more", "5", 5),
    ],
)
def test_raw_values_are_what_the_schema_admits(name: str, written: str, value: object) -> None:
    text = f"<tool_call>\n<function=f>\n<parameter={name}>\n{written}\n</parameter>\n</function>\n</tool_call>"
    for pieces in ([text], [*text]):
        assert read(entry_of("Qwen3-Coder"), *pieces) == ("", [{name: value}])


@pytest.mark.parametrize(
    ("written", "calls"),
    [
        (r"[f(s='it\'s', n=3)]", [{"s": "it's", "n": 3}]),
        (r"[f(s='\x41\u00e9\n\\\q', b=True)]", [{"s": "A\u00e9\n\\\\q", "b": True}]),
        (
            "[f(s='a\nb', l=[1, 'x', None,], any={'a': 1, \"b\": {}})]",
            [{"s": "a\nb", "l": [1, "x", None], "any": {"a": 1, "b": {}}}],
        ),
        ('[f(s="x",)]', [{"s": "x"}]),
        ("f(n=1)", [{"n": 1}]),
        ("[f(n=1), f(n=2)]", [{"n": 1}, {"n": 2}]),
        ('[{"name": "f", "arguments": {"n": 1}}, f()]', [{"n": 1}, {}]),
        ("[f('x')]", []),
        ("[f(n=007)]", []),
        ("[f(s='x)]", []),
        ("[f(n=1, n=2)]", []),
        ("[g()]", []),
    ],
)
def test_calls_in_python(written: str, calls: list[object]) -> None:
    text = f"<|tool_call_start|>{written}<|tool_call_end|>"
    for pieces in ([text], [*text]):
        assert read(entry_of("LFM2"), *pieces) == ("" if calls else text, calls)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("Qwen3-Coder", "<function=f>\n<parameter=s>\nx\n</parameter>\n</function>"),
        ("Qwen3-Coder", "<tool_call><function=f><parameter=s>x</parameter></function></tool_call>"),
        ("GLM-4.5", "<tool_call>f<arg_key>s</arg_key><arg_value>x</arg_value></tool_call>"),
        ("GLM-4.7", "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>x</arg_value>\n</tool_call>"),
        (
            "MiniMax",
            '<minimax:tool_call><invoke name="f"><parameter name="s">x</parameter></invoke></minimax:tool_call>',
        ),
        ("Gemma 4", '<|tool_call>call:f{ s : <|"|>x<|"|> }<tool_call|>'),
        ("Gemma 4", '<|tool_call>call:f{<|"|>s<|"|>:"x"}<tool_call|>'),
        ("Olmo 3", "<function_calls>f(s='x')</function_calls>"),
    ],
)
def test_white_space_and_small_slips_do_not_matter(model: str, text: str) -> None:
    assert read(entry_of(model), text) == read(entry_of(model), *text) == ("", [{"s": "x"}])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab<>/\"'\\\n :{}[],é"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["k", "k_2"]), inner, max_size=2),
    max_leaves=6,
)


@pytest.mark.parametrize("entry", PAIRS, ids=lambda entry: entry.models)
@given(arguments=st.dictionaries(st.sampled_from(["l", "any", "more"]), st.lists(VALUES, max_size=3)), cuts=st.data())
def test_what_is_spelled_is_read(entry: ToolFormat, arguments: dict[str, object], cuts: st.DataObject) -> None:
    text = entry.spelled([("f", json.dumps(arguments))])
    place = cuts.draw(st.integers(0, len(text)))
    assert read(entry, text[:place], text[place:]) == ("", [arguments])


HOSTILE = st.lists(
    st.sampled_from(
        [
            "f",
            "s",
            "n",
            "=",
            "(",
            ")",
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "'",
            '"',
            "\\",
            "\n",
            " ",
            "1",
            "None",
            "<",
            ">",
            "é",
        ]
        + [part for entry in PAIRS for part in (entry.before, entry.after, entry.call.tail, *entry.markers) if part]
        + [
            part
            for entry in PAIRS
            if entry.call.pairs
            for part in (entry.call.pairs.before_key, entry.call.pairs.after_key)
        ]
    ),
    max_size=30,
).map("".join)


@given(st.sampled_from(PAIRS), HOSTILE)
def test_cuts_do_not_matter_and_calls_are_json(entry: ToolFormat, text: str) -> None:
    content, calls = read(entry, entry.before, text)
    assert read(entry, *entry.before, *text) == (content, calls)
    assert all(isinstance(arguments, dict) for arguments in calls)
    if not calls:
        assert content == entry.before + text


@pytest.mark.parametrize("entry", PAIRS, ids=lambda entry: entry.models)
@pytest.mark.parametrize("unit", ["[", "<", "'", "x", "\n", "\\", "</", "[1,"])
def test_effort_is_linear(entry: ToolFormat, unit: str) -> None:
    pairs = entry.call.pairs
    assert pairs is not None
    start = entry.before + entry.call.head("f")[0] + pairs.before_key + "l" + pairs.after_key

    def seconds(count: int) -> float:
        parser = AnswerFormat(tool_format=entry).parser(TOOLS)
        begin = time.process_time()
        parser.push(start)
        for _ in range(count):
            parser.push(unit)
        parser.finish()
        return time.process_time() - begin

    assert min(seconds(4000) for _ in range(3)) < 40 * max(1e-3, min(seconds(400) for _ in range(3)))


def test_types_follow_references_and_combinations() -> None:
    root = {"$defs": {"a": {"enum": ["x", None]}, "loop": {"$ref": "#/$defs/loop"}}}
    for schema, types in (
        ({"$ref": "#/$defs/a"}, {"string", "null"}),
        ({"oneOf": [{"const": 1}, {"$ref": "#/$defs/a"}]}, {"integer", "string", "null"}),
        ({"allOf": [{"type": ["string", "array"]}, {"type": "string"}]}, {"string"}),
        ({"const": True}, {"boolean"}),
    ):
        assert types_of(schema, root) == types
    assert len(types_of({"$ref": "#/$defs/loop"}, root)) == len(types_of(True, root)) == 7


def test_types_of_what_names_itself_in_many_places_take_little_time() -> None:
    loop = {"$ref": "#/$defs/loop"}
    root = {"$defs": {"loop": {"anyOf": [loop] * 9, "allOf": [loop] * 9, "type": ["string", "null"]}}}
    assert types_of(loop, root) == {"string", "null"}


def test_what_is_no_name_hides_no_call_behind_it() -> None:
    """However the text is cut: a name ends where it cannot go on, not where the next one would."""
    text = "<|tool_call_start|>[f(, <|tool_call_start|>[f(n=1)]<|tool_call_end|>"
    form = AnswerFormat(tool_format=entry_of("LFM2"))
    for pieces in ([text], list(text), [text[:30], text[30:]]):
        parser = form.parser(TOOLS)
        for piece in pieces:
            parser.push(piece)
        parser.finish()
        assert [(call.name, call.arguments) for call in parser.tool_calls] == [("f", '{"n": 1}')], pieces
