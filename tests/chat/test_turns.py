"""Turns that a template does not take render as the same conversation in turns that it takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from genai.chat.formats import GENERIC
from genai.chat.template import ChatTemplate
from genai.chat.tool_messages import spell_results
from genai.chat.turns import Turns
from genai.errors import TokenizerError

TEMPLATES = Path(__file__).parent / "templates"
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "date_string": "1 Jan 2025"}
TURN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TAKES_NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
LEAVES_OUT_LATER_SYSTEMS = (
    "{% if messages[0].role == 'system' %}[system]{{ messages[0].content }}{% endif %}"
    "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)
TAKES_PARTS_AND_NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('no') }}{% endif %}[{{ m.role }}]{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
)
SHOWS_NO_TEXT = "{{ messages | length }}"
CALL = {"id": "abc123def", "type": "function", "function": {"name": "look", "arguments": {}}}


def source_of(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def said(turns: str) -> list[dict[str, object]]:
    """`s:` a system text, `u:` the user's, `a:` the assistant's; a bar between turns."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns.split("|")]


def render(source: str, messages: list[dict[str, object]], **options: object) -> str:
    return ChatTemplate(source).render(messages, variables=VARIABLES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "given", "taken"),
    [
        (source_of("mistral"), "s:A|s:B|u:C", "s:A\n\nB|u:C"),
        (source_of("mistral"), "u:A|u:B|a:C|u:D", "u:A\n\nB|a:C|u:D"),
        (source_of("mistral"), "u:A|a:B|a:C|u:D", "u:A|a:B\n\nC|u:D"),
        (source_of("mistral"), "s:A|u:B|a:C|s:D|u:E", "s:A|u:B|a:C|u:D\n\nE"),
        (source_of("gemma"), "u:A|a:B|s:C|u:D", "u:A|a:B|u:C\n\nD"),
        (source_of("gemma"), "s:A|s:B|u:C|u:D", "s:A\n\nB|u:C\n\nD"),
        (TAKES_NO_SYSTEM, "s:A|u:B|a:C|u:D", "u:A\n\nB|a:C|u:D"),
        (TAKES_NO_SYSTEM, "s:A|s:B|a:C|u:D", "u:A\n\nB|a:C|u:D"),
        (TAKES_NO_SYSTEM, "s:A", "u:A"),
        (TAKES_NO_SYSTEM, "a:A|u:B", "u:|a:A|u:B"),
        (source_of("gemma"), "s:A|a:B|u:C", "s:A|u:|a:B|u:C"),
        (TAKES_PARTS_AND_NO_SYSTEM, "s:A|u:B|a:C|s:D|u:E", "u:A\n\nB|a:C|u:D\n\nE"),
        (LEAVES_OUT_LATER_SYSTEMS, "s:A|s:B|u:C", "s:A\n\nB|u:C"),
        (LEAVES_OUT_LATER_SYSTEMS, "u:A|s:B", "u:A|u:B"),
    ],
)
def test_turns_are_given_as_the_template_takes_them(source: str, given: str, taken: str) -> None:
    text = render(source, said(given))
    assert text == render(source, said(taken))
    assert all(turn[2:] in text for turn in given.split("|")), "nothing is lost"


@pytest.mark.parametrize("source", [source_of("chatml"), TURN, SHOWS_NO_TEXT])
@pytest.mark.parametrize("turns", ["s:A|s:B|u:C", "u:A|a:B|s:C|u:D", "u:A|u:B|a:C|a:D|u:E", "a:A|u:B"])
def test_a_template_that_takes_all_is_given_what_it_was(source: str, turns: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    expected, _ = render_jinja_template([said(turns)], chat_template=source, add_generation_prompt=True, **VARIABLES)
    assert render(source, said(turns)) == expected[0]


def test_what_follows_a_result_is_part_of_it_where_the_template_insists() -> None:
    called = [*said("u:A"), {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    result = {"role": "tool", "tool_call_id": "abc123def", "content": "21"}
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    given = [*called, result, *said("u:B|u:C")]
    expected = [*called, {**result, "content": "21\n\nB\n\nC"}]
    assert render(source_of("mistral"), given, tools=tools) == render(source_of("mistral"), expected, tools=tools)


def test_what_joined_messages_have_besides_is_kept() -> None:
    source = (
        "{% for m in messages %}{% if not loop.first and m.role == messages[loop.index0 - 1].role %}"
        "{{ raise_exception('twice') }}{% endif %}[{{ m.role }}]{{ m.content }}{{ m.reasoning_content }}"
        "{% for call in m.tool_calls or [] %}({{ call.function.name }}){% endfor %}{% endfor %}{{ tools }}"
    )
    text = {"role": "assistant", "content": "B", "reasoning_content": "hm"}
    call = {"role": "assistant", "content": None, "reasoning_content": "ah", "tool_calls": [CALL]}
    assert "[assistant]Bhm\n\nah(look)" in render(source, [*said("u:A"), text, call])
    parts = {"role": "user", "content": [{"type": "text", "text": "C"}]}
    assert "[user]C\n\nD" in render(source, [parts, *said("u:D")])
    listed = "{% for p in m.content %}<{{ p.text }}>{% endfor %}"
    either = f"{{% if m.content is string %}}{{{{ m.content }}}}{{% else %}}{listed}{{% endif %}}"
    assert "[user]<C><D>" in render(source.replace("{{ m.content }}", either), [parts, *said("u:D")])


def test_a_template_is_tried_once() -> None:
    template = ChatTemplate(TAKES_NO_SYSTEM)
    template.render(said("s:A|u:B"))
    tried = template._turns._taken.copy()
    assert tried == {2: False}
    for turns in ("s:C|u:D", "u:A|a:B"):
        template.render(said(turns))
    assert template._turns._taken == tried, "no other trial was needed"


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "mistral", "thinking"])
@pytest.mark.parametrize("begun", ["The sky is", "", " two\nlines \n"])
def test_a_begun_answer_goes_on_where_it_ended(name: str, begun: str) -> None:
    asked = said("s:Be brief.|u:Sky?")
    text = render(source_of(name), [*asked, {"role": "assistant", "content": begun}], continue_final_message=True)
    begun = begun.lstrip() if name in ("llama3", "gemma") else begun  # as they show any message
    assert text.endswith(begun)
    if begun and name != "mistral":  # it writes no more than a space before an answer
        assert text == render(source_of(name), asked) + begun


def test_a_begun_answer_of_parts() -> None:
    parts = {"role": "assistant", "content": [{"type": "text", "text": "The sky"}]}
    text = render(source_of("gemma"), [*said("u:Sky?"), parts], continue_final_message=True)
    assert text.endswith("<start_of_turn>model\nThe sky")


@pytest.mark.parametrize(
    ("source", "last", "message"),
    [
        (TURN, {"role": "user", "content": "x"}, "only an assistant's message"),
        (TURN, {"role": "assistant", "content": "x", "tool_calls": [CALL]}, "without tool calls"),
        (SHOWS_NO_TEXT, {"role": "assistant", "content": "x"}, "cannot be continued"),
    ],
)
def test_what_cannot_be_continued(source: str, last: dict[str, object], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        render(source, [*said("u:A"), last], continue_final_message=True)


def test_many_turns_are_joined_in_linear_time() -> None:
    """One that is copied for each that follows would take minutes of a request that an agent may send."""
    users: list[dict[str, object]] = [{"role": "user", "content": "x" * 7000} for _ in range(4096)]
    results: list[dict[str, object]] = [
        {"role": "tool", "content": "x" * 7000, "tool_call_id": "a"} for _ in range(4096)
    ]
    begun = time.thread_time()
    turns = Turns(lambda messages: str(messages[-1]["content"]))  # shows the last message alone
    assert [len(str(each["content"])) for each in turns.fitted(users)] == [4096 * 7000 + 4095 * 2]
    spelled = spell_results(results, GENERIC)
    assert len(str(spelled[0]["content"])) > 4096 * 7000
    assert time.thread_time() - begun < 2.0
