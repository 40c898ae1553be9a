"""Conversations with tools render through templates that each want them in a form of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genai.chat.template import ChatTemplate
from genai.chat.tools import ToolSet
from genai.errors import TokenizerError
from tests.chat.tool_models import (
    CHATML,
    DEEPSEEK,
    GRANITE,
    LLAMA,
    MISTRAL,
    MISTRAL_NAMED,
    QWEN,
    SMOLLM3,
    TEXT_ARGUMENTS,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = ToolSet.of([{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA, "strict": True}}])
ARGUMENTS = '{"city": "Zürich"}'


def call(call_id: str, arguments: object = ARGUMENTS) -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def result(call_id: str, content: object) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


IDS = ("call_0123456789abcdef01234567", "call_fedcba9876543210fedcba98")
ONE = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "tool_calls": [call(IDS[0])]},
    result(IDS[0], "21 °C"),
    {"role": "user", "content": "And now?"},
]
TWO = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "Both.", "tool_calls": [call(IDS[0]), call(IDS[1], '{"city": "Bern"}')]},
    result(IDS[1], [{"type": "text", "text": "19"}, {"type": "text", "text": " °C"}]),
    result(IDS[0], "21 °C"),
]


def render(source: str, messages: list[dict[str, object]], tools: ToolSet = TOOLS) -> str:
    return ChatTemplate(source).render(messages, tools=tools.described(), variables={"enable_thinking": None})


@pytest.mark.parametrize("source", [QWEN, LLAMA, MISTRAL, MISTRAL_NAMED, GRANITE, TEXT_ARGUMENTS, SMOLLM3])
def test_templates_that_know_tools_are_given_them(source: str) -> None:
    assert ChatTemplate(source).takes_tools
    text = render(source, ONE[:1])
    assert "Weather?" in text
    if source != TEXT_ARGUMENTS:
        assert "get_weather" in text
    assert "strict" not in text, "models were not trained on it"
    assert "You can call these functions" not in text
    assert "get_weather" not in render(source, ONE[:1], ToolSet.of(TOOLS.described(), "none"))


def test_smollm3s_own_variable_still_works() -> None:
    text = ChatTemplate(SMOLLM3).render(ONE[:1], variables={"xml_tools": [{"name": "own"}]})
    assert "Tools: {'name': 'own'}" in text


def test_arguments_become_objects() -> None:
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>' in render(QWEN, ONE)
    assert '{"name": "get_weather", "parameters": {"city": "Zürich"}}' in render(LLAMA, ONE)
    assert '[TOOL_CALLS]get_weather[ARGS]{"city": "Zürich"}</s>' in render(MISTRAL_NAMED, ONE)
    as_objects = [ONE[0], {**ONE[1], "tool_calls": [call(IDS[0], json.loads(ARGUMENTS))]}, *ONE[2:]]
    for source in (QWEN, LLAMA, MISTRAL, MISTRAL_NAMED, TEXT_ARGUMENTS, SMOLLM3, CHATML):
        assert render(source, as_objects) == render(source, ONE)


def test_arguments_become_text_where_the_template_joins_them() -> None:
    assert '[call]get_weather\n{"city": "Zürich"}[result]21 °C' in render(TEXT_ARGUMENTS, ONE)


def test_ids_become_short_where_the_template_insists() -> None:
    text = render(MISTRAL, TWO)
    calls, results = text.split("[TOOL_CALLS]")[1].split("</s>")
    ids = [one["id"] for one in json.loads(calls)]
    assert len(set(ids)) == 2
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert results == f"[TOOL_RESULTS] {ids[1]} 19 °C[/TOOL_RESULTS][TOOL_RESULTS] {ids[0]} 21 °C[/TOOL_RESULTS]"
    own = [{**ONE[1], "tool_calls": [call("aB3aB3aB3")]}, result("aB3aB3aB3", "21")]
    assert "aB3aB3aB3" in render(MISTRAL, [ONE[0], *own]), "an id that will do is kept"


def test_calls_get_turns_of_their_own_where_the_template_shows_one() -> None:
    text = render(LLAMA, [*TWO, {"role": "user", "content": "Thanks"}])
    head, bern = '[assistant] {"name": "get_weather", "parameters": {"city": ', '[ipython] "19 °C"<|eot_id|>'
    zurich = '[ipython] "21 °C"<|eot_id|>'
    assert text.endswith(
        f'{head}"Zürich"}}}}<|eot_id|>{zurich}{head}"Bern"}}}}<|eot_id|>{bern}[user] Thanks<|eot_id|>[assistant] '
    )


def test_a_result_names_its_function() -> None:
    assert "[TOOL_RESULTS]get_weather: 21 °C" in render(MISTRAL_NAMED, ONE)


@pytest.mark.parametrize("calls", [None, []])
def test_no_calls_are_none(calls: object) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "tool_calls": calls}]
    assert "[assistant] Ho<|eot_id|>" in render(LLAMA, messages)


def test_templates_that_know_no_tools_are_given_text() -> None:
    for source in (CHATML, DEEPSEEK):
        assert not ChatTemplate(source).takes_tools
        text = render(source, TWO)
        assert text.startswith("<|im_start|>system\nYou can call these functions")
        assert '<tools>\n{"name": "get_weather", "description": "", "parameters": {"type": "object", ' in text
        calls = "".join(
            f'\n<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
            for city in ("Zürich", "Bern")
        )
        results = "\n".join(f"<tool_response>\n{degrees} °C\n</tool_response>" for degrees in (19, 21))
        assert f"<|im_start|>assistant\nBoth.{calls}<|im_end|>\n<|im_start|>user\n{results}<|im_end|>\n" in text


def test_results_and_what_the_user_says_next_are_one_turn() -> None:
    """Gemma's template insists that user and model take turns."""
    source = (Path(__file__).parent / "templates" / "gemma.jinja").read_text(encoding="utf-8")
    text = ChatTemplate(source).render(ONE, tools=TOOLS.described(), variables={"bos_token": "<bos>"})
    assert "<tool_response>\n21 °C\n</tool_response>\nAnd now?<end_of_turn>" in text
    assert text.count("<start_of_turn>user") == 2


@pytest.mark.parametrize("content", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_tools_are_told_behind_the_system_text(content: object) -> None:
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    text = render(source, [{"role": "system", "content": content}, *ONE[:1]])
    assert text.index("Be brief.") < text.index("You can call these functions") < text.index("user: Weather?")
    assert text.count("system: ") == 1


def test_without_tools_a_template_is_given_what_it_was() -> None:
    assert "You can call" not in ChatTemplate(CHATML).render(ONE[:1])
    assert "tool_response" in ChatTemplate(CHATML).render(ONE), "an earlier turn had tools"


def test_templates_without_calls_are_given_them_as_text() -> None:
    text = render(SMOLLM3, ONE)
    assert "<|im_start|>assistant\n<tool_call>\n" in text
    assert "<|im_start|>user\n21 °C<|im_end|>\n" in text


@pytest.mark.parametrize(
    ("tool_calls", "part"),
    [
        ("x", r"message 1: tool_calls is a list of"),
        (["x"], r"message 1: tool_calls is a list of"),
        ([{"id": "a"}], r"message 1: tool_calls\[0\] is not of the form"),
        ([{"function": {"name": 3}}], r"message 1: tool_calls\[0\] is not of the form"),
        ([call("a", "{")], r"message 1: tool_calls\[0\]: the arguments are no JSON"),
        ([call("a", "[" * 100_000)], r"message 1: tool_calls\[0\]: the arguments are no JSON"),
        ([call("a"), call("b", "[1]")], r"message 1: tool_calls\[1\]: the arguments are a list"),
    ],
)
def test_calls_of_the_wrong_form_are_refused(tool_calls: object, part: str) -> None:
    with pytest.raises(TokenizerError, match=part):
        render(QWEN, [ONE[0], {"role": "assistant", "content": "x", "tool_calls": tool_calls}])


def test_when_no_form_will_do_the_first_failure_is_told() -> None:
    source = "{{ tools }}{{ raise_exception('no ' ~ messages[1].tool_calls | length ~ ' calls') }}"
    with pytest.raises(TokenizerError, match="no 2 calls"):
        render(source, TWO)


def test_ids_take_the_form_that_a_template_writes_as_part_of_the_call() -> None:
    template = ChatTemplate(
        "{{ tools | length if tools }}{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
        "<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}{% endfor %}"
        "{% elif m.role == 'tool' %}Return of {{ m.tool_call_id }}: {{ m.content }}{% else %}{{ m.content }}{% endif %}"
        "{{ '\n' }}{% endfor %}"
    )
    calls = [{"role": "assistant", "content": None, "tool_calls": [call(IDS[0]), call(IDS[1])]}]
    chat = [{"role": "user", "content": "x"}, *calls, result(IDS[1], "b"), result(IDS[0], "a"), *calls]
    spelled = [
        f"<|tool_call_begin|>functions.get_weather:{index}<|tool_call_argument_begin|>{ARGUMENTS}" for index in range(4)
    ]
    assert template.render(chat, tools=TOOLS.described()) == (
        f"1x\n{spelled[0]}{spelled[1]}\nReturn of functions.get_weather:1: b\n"
        f"Return of functions.get_weather:0: a\n{spelled[2]}{spelled[3]}\n"
    )
