"""Answers made of messages (gpt-oss's harmony): told apart at every cut, forced, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from genai.answer.answer import AnswerFormat
from genai.chat.formats import tool_format_of
from genai.chat.template import ChatTemplate
from genai.chat.tools import ToolSet
from genai.config import EngineConfig
from genai.llm.llm import LLM
from genai.options.generation_config import ConstraintConfig
from tests.answer.test_tool_grammar import Model
from tests.chat.test_formats import heard
from tests.chat.tool_models import SPECIAL, tokenizer_with
from tests.tiny_package import tiny_package

HARMONY = (
    "{%- set ns = namespace(name=none) %}"
    "{%- if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif %}"
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- if 'tool_calls' in m %}"
    "{%- if '<|channel|>analysis' in m.content %}{{ raise_exception('tags') }}{% endif %}"
    "{%- if m.content and m.thinking %}{{ raise_exception('Cannot pass both content and thinking') }}{% endif %}"
    "{%- if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "{%- set c = m.tool_calls[0].function %}<|start|>assistant to=functions.{{ c.name }}<|channel|>commentary json"
    "<|message|>{{ c.arguments | tojson }}<|call|>{% set ns.name = c.name %}"
    "{%- else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}"
    "{%- elif m.role == 'tool' %}<|start|>functions.{{ ns.name }} to=assistant<|channel|>commentary<|message|>"
    "{{ m.content | tojson }}<|end|>{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""As gpt-oss's own template has it, cut down: it shows one call a message, and refuses what it does not take."""
MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>")
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["here", "there"]}}, "required": ["city"]}
FUNCTIONS = [
    {"type": "function", "function": {"name": "get", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "get_all"}},
]
TOOLS = ToolSet.of(FUNCTIONS)
THOUGHT = "<|channel|>analysis<|message|>Hm, {1}.\n<|end|><|start|>assistant"
SAID = "<|channel|>final<|message|>It is <b>fine</b>.\n"
CALLED = '<|channel|>commentary to=functions.get <|constrain|>json<|message|>{"city": "here"}'
GET = ("get", '{"city": "here"}')


@cache
def form() -> AnswerFormat:
    return AnswerFormat.of(tokenizer_with(HARMONY, special=(*SPECIAL, *MARKERS)))


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls"),
    [
        (THOUGHT + SAID, "Hm, {1}.", "It is <b>fine</b>.\n", []),
        (SAID + "<|return|>", "", "It is <b>fine</b>.\n", []),
        (SAID + "<|end|>", "", "It is <b>fine</b>.\n", []),
        (THOUGHT + CALLED, "Hm, {1}.", "", [GET]),
        (THOUGHT + CALLED + "<|call|>", "Hm, {1}.", "", [GET]),
        (
            f'{THOUGHT} to=functions.get<|channel|>commentary json<|message|>{{"city": "here"}}<|call|>',
            "Hm, {1}.",
            "",
            [GET],
        ),
        (THOUGHT + THOUGHT + SAID, "Hm, {1}.\n\nHm, {1}.", "It is <b>fine</b>.\n", []),
        (
            f"{THOUGHT}<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{CALLED}",
            "Hm, {1}.",
            "I look.",
            [GET],
        ),
        (THOUGHT + CALLED.replace("get", "got") + "<|call|>", "Hm, {1}.", '{"city": "here"}', []),
        (THOUGHT + CALLED[:-1], "Hm, {1}.", '{"city": "here"', []),
        ("<|channel|>analysis<|message|>I th", "I th", "", []),
        (THOUGHT + "<|channel|>commentary to=functions.get <|constr", "Hm, {1}.", "", []),
        ("Plain text", "", "Plain text", []),
    ],
)
def test_messages_are_told_apart_at_every_cut(
    text: str, reasoning: str, content: str, calls: list[tuple[str, str]]
) -> None:
    def read(pieces: list[str]) -> tuple[str, str, list[tuple[str, str]]]:
        parser = form().parser(TOOLS)
        deltas = [*map(parser.push, pieces), parser.finish()]
        return (
            "".join(delta.reasoning for delta in deltas),
            "".join(delta.content for delta in deltas),
            [(call.name, call.arguments) for call in parser.tool_calls],
        )

    assert read([text]) == read([*text]) == (reasoning, content, calls)
    for place in range(len(text)):
        assert read([text[:place], text[place:]]) == (reasoning, content, calls)


def test_a_call_ends_the_answer_and_forced_ones_leave_no_content() -> None:
    parser = form().parser(TOOLS)
    parser.push(THOUGHT + CALLED)
    assert not parser.is_over or parser.tool_calls
    parser.push("<|start|>assistant" + SAID)
    assert parser.is_over
    forced = ToolSet.of(FUNCTIONS, "required")
    for length in range(len(THOUGHT + CALLED)):
        content, calls, _ = heard(form().parser(forced), [(THOUGHT + CALLED)[:length]])
        assert (content, calls) == ("", [])


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(HARMONY, True, tokenizer_with(HARMONY, special=(*SPECIAL, *MARKERS)))


def test_calls_are_forced(model: Model) -> None:
    required = ToolSet.of(FUNCTIONS, "required")
    for text in (CALLED, THOUGHT + CALLED, CALLED.replace("here", "there")):
        assert model.accepts(text, required)
    for text in (SAID, CALLED + CALLED, CALLED.replace("here", "x"), CALLED.replace("get", "got"), "Hm", CALLED + SAID):
        assert not model.accepts(text, required)
    single = ToolSet.of(FUNCTIONS, "auto", False)
    for text in (CALLED, SAID, THOUGHT + SAID, THOUGHT + CALLED):
        assert model.accepts(text, single)


def test_a_form_is_that_of_the_last_message(model: Model) -> None:
    wanted = ConstraintConfig(kind="json_schema", grammar='{"type": "object", "properties": {"a": {"const": 1}}}')
    answer = '<|channel|>final<|message|>{"a": 1}'
    assert model.accepts(answer, ToolSet(), form=wanted)
    assert model.accepts(THOUGHT + answer, ToolSet(), form=wanted)
    assert model.accepts(THOUGHT + CALLED, TOOLS, form=wanted)
    for text in ('{"a": 1}', THOUGHT + SAID, answer.replace("1", "2")):
        assert not model.accepts(text, TOOLS, form=wanted)


def test_conversations_are_spelled_as_the_template_takes_them() -> None:
    template = ChatTemplate(HARMONY)
    assert template.tool_format is tool_format_of(HARMONY)
    assert template.tool_format.name == "harmony"
    calls = [
        {"id": name, "function": {"name": name, "arguments": arguments}} for name, arguments in (GET, ("get_all", "{}"))
    ]
    results = [{"role": "tool", "tool_call_id": name, "content": name.upper()} for name in ("get", "get_all")]
    asked = {"role": "user", "content": "x"}
    said = {"role": "assistant", "content": "Let me see.", "reasoning_content": "Hm.", "tool_calls": calls}
    text = template.render([asked, said, *results], tools=FUNCTIONS)
    assert text.endswith(
        "<|start|>assistant<|channel|>analysis<|message|>Hm.\n\nLet me see.<|end|>"
        '<|start|>assistant to=functions.get<|channel|>commentary json<|message|>{"city": "here"}<|call|>'
        '<|start|>functions.get to=assistant<|channel|>commentary<|message|>"GET"<|end|>'
        "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant to=functions.get_all<|channel|>commentary json<|message|>{}<|call|>"
        '<|start|>functions.get_all to=assistant<|channel|>commentary<|message|>"GET_ALL"<|end|><|start|>assistant'
    )


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tiny_package(
        tmp_path_factory.mktemp("harmony"), tokenizer=tokenizer_with(HARMONY, special=("<eos>", *MARKERS))
    )
    with LLM(folder, EngineConfig(device="cpu", max_batch=2, num_threads=1, max_seq_len=1500)) as loaded:
        yield loaded


def test_a_budget_leads_to_the_last_message(llm: LLM) -> None:
    chat = [{"role": "user", "content": "x"}]
    wanted = {"choices": ["yes", "no"]}
    result = llm.generate(chat, reasoning_budget=3, max_new_tokens=200, **wanted)
    assert result.text in ("yes", "no")
    thinks = llm.tokenizer.token_to_id("<|channel|>")
    result = llm.generate(chat, tools=FUNCTIONS, tool_choice="required", reasoning_budget=3, max_new_tokens=200)
    assert thinks in result.token_ids
    assert result.text == ""
    assert [call.name for call in result.tool_calls] in (["get"], ["get_all"])
