"""Rendering is held against transformers; the sandbox against templates that mean harm."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jinja2
import pytest

from genai.chat import bounds
from genai.chat.template import ChatTemplate
from genai.errors import TokenizerError

TEMPLATES = Path(__file__).parent / "templates"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather <now> & here, in °C — 天気",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "abc123def", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich"}}}
CHAT = [
    {"role": "user", "content": "Hi <b>there</b> & 'you'\n"},
    {"role": "assistant", "content": " Hello! \n"},
    {"role": "user", "content": "Grüezi 你好 {{ 1 }} {% x %}"},
]
WITH_SYSTEM = [{"role": "system", "content": "  Be brief.\n"}, *CHAT]
WITH_TOOLS = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "get_weather", "content": "21", "tool_call_id": "abc123def"},
    {"role": "assistant", "content": "21 °C"},
    {"role": "user", "content": "Thanks"},
]
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is it? "}]}]
REASONED = [*CHAT, {"role": "assistant", "content": "4", "reasoning": "2+2"}, {"role": "developer", "content": "x"}]

CASES = [
    ("chatml", CHAT, {}),
    ("chatml", WITH_SYSTEM, {"add_generation_prompt": False}),
    ("llama3", CHAT, {}),
    ("llama3", WITH_SYSTEM, {"date_string": "1 Jan 2025"}),
    ("llama3", WITH_TOOLS, {"tools": [TOOL, TOOL]}),
    ("llama3", WITH_TOOLS, {"tools": [TOOL], "tools_in_user_message": False}),
    ("gemma", CHAT, {}),
    ("gemma", WITH_SYSTEM, {}),
    ("gemma", PARTS, {}),
    ("mistral", CHAT, {}),
    ("mistral", WITH_SYSTEM, {}),
    ("mistral", WITH_TOOLS, {"tools": [TOOL]}),
    ("thinking", REASONED, {}),
    ("thinking", WITH_SYSTEM, {"enable_thinking": False}),
]


def render(source: str, **options: object) -> str:
    return ChatTemplate(source).render([{"role": "user", "content": "hi"}], variables=options)


@pytest.mark.parametrize(("name", "messages", "options"), CASES)
def test_renders_as_transformers_does(name: str, messages: list, options: dict) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    variables = {"bos_token": "<s>", "eos_token": "</s>"} | options
    tools = variables.pop("tools", None)
    prompt = variables.pop("add_generation_prompt", True)
    expected, _ = render_jinja_template(
        [messages], tools=tools, chat_template=source, add_generation_prompt=prompt, **variables
    )
    ours = ChatTemplate(source).render(messages, tools=tools, add_generation_prompt=prompt, variables=variables)
    assert ours == expected[0]
    assert len(ours) > 20


def test_a_template_is_compiled_once_and_rendered_often() -> None:
    template = ChatTemplate(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    )
    for count in (1, 3, 1):
        assert template.render([{"role": "user", "content": "x"}] * count) == str(count)


def test_json_is_written_as_transformers_writes_it() -> None:
    assert render("{{ {'b': '<é>', 'a': 1} | tojson }}") == '{"b": "<é>", "a": 1}'
    assert (
        render("{{ {'b': 1, 'a': [1, 2]} | tojson(indent=2, sort_keys=true) }}")
        == '{\n  "a": [\n    1,\n    2\n  ],\n  "b": 1\n}'
    )


def test_the_date_is_todays() -> None:
    assert render("{{ strftime_now('%Y') }}") in {str(time.localtime().tm_year), str(time.localtime().tm_year + 1)}


def test_a_message_object_is_not_changed() -> None:
    message = {"role": "user", "content": "x", "reasoning": "y"}
    ChatTemplate("{{ messages[0].thinking }}").render([message])
    assert message == {"role": "user", "content": "x", "reasoning": "y"}


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        ("Hi", "a prompt that is a string needs no chat template"),
        ({"role": "user", "content": "x"}, "not dict"),
        ([], "empty"),
        (["Hi"], "message 0 is a str"),
        ([{"content": "x"}], "message 0 has no role"),
        ([{"role": 3, "content": "x"}], "message 0 has no role"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": 3}], "message 0 is a int"),
        ([{"role": "user", "content": "x", "extra": object()}], "only JSON values"),
    ],
)
def test_messages_of_the_wrong_form_are_refused(messages: object, part: str) -> None:
    with pytest.raises(TokenizerError, match=part):
        ChatTemplate("x").render(messages)


def test_values_nested_without_end_are_refused() -> None:
    endless: list = []
    endless.append(endless)
    with pytest.raises(TokenizerError, match="nested"):
        ChatTemplate("x").render([{"role": "user", "content": endless}])


@pytest.mark.parametrize("source", ["{% for %}", "{{ x", "{% unknown %}", "{% generation %}", "{% break %}"])
def test_a_syntax_error_is_one_line(source: str) -> None:
    with pytest.raises(TokenizerError, match=r"cannot be compiled|failed") as caught:
        render(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{{ messages.nothing.at_all }}", "has no attribute"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{% include 'x' %}", "no loader"),
        ("{{ [1] | tojson(indent=messages) }}", "failed"),
    ],
)
def test_an_error_in_the_template_is_one_line(source: str, part: str) -> None:
    with pytest.raises(TokenizerError, match=part) as caught:
        render(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}{{ messages.__class__.__base__ }}",
        "{{ raise_exception.__globals__ }}{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ namespace.__init__.__globals__['sys'] }}",
        "{{ self.__init__.__globals__['x'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id') }}",
        "{{ ('{0.__class__.__mro__}').format(1) }}",
        "{{ dict.__class__('x', (), {}) }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ lipsum(n=1000000) }}",
        "{{ ''|attr('__class__')|attr('mro')() }}",
    ],
)
def test_a_template_cannot_reach_beyond_its_data(source: str) -> None:
    with pytest.raises(TokenizerError):
        assert render(source) in {"", "nothing"}


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ range(100000000) | list }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 9 ** 99999999 }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=7) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%00000000000000000000900000000d' % 1 }}",
        "{% for i in range(10000) %}{{ 'x' * 10000 }}{% endfor %}",
        "{{ 'x' | center(300000000) }}",
        "{% filter center(300000000) %}x{% endfilter %}",
        "{{ messages | map(attribute='role') | map('center', 300000000) | list }}",
        "{{ ('a\nb' * 1000) | indent(100000) }}",
        "{{ ['x'] | batch(300000000, 'y') | list }}",
        "{{ ('a' * 10000) | replace('a', 'b' * 10000) }}",
        "{{ ('a' * 10000).replace('a', 'b' * 10000) }}",
        "{{ ('\t' * 10000).expandtabs(10000) }}",
        "{{ ('a' * 10000).translate({97: 'b' * 10000}) }}",
        "{{ (['a' * 10000] * 10000) | join }}",
        "{{ ('b' * 10000).join(['a'] * 10000) }}",
        "{{ ([['a'] * 10000] * 10000) | sum(start=[]) }}",
        "{{ 1 | round(100000000) }}",
        "{{ (1).to_bytes(300000000, 'big') | length }}",
        "{{ ('x'.encode() * 300000000) | length }}",
        "{{ '{:300000000}'.format('x') }}",
        "{{ '{:>{w}}'.format('x', w=300000000) }}",
        "{{ ('{:9000000}' * 10).format(*range(10)) }}",
        "{{ '{x:.300000000f}'.format_map({'x': 1.5}) }}",
        "{{ '%300000000d' | format(1) }}",
        "{{ '%*d' | format(300000000, 1) }}",
        "{{ '%.*f' % (300000000, 1.5) }}",
        "{{ '%9000000d%9000000d' % (1, 1) }}",
        "{{ ('%(a)s' * 10000) % {'a': 'x' * 10000} }}",
        "{{ [[1]] | tojson(indent=300000000) }}",
        "{{ [[1]] | tojson(indent='x' * 150000) }}",
        "{{ range(1000) | list | tojson(separators=('x' * 150000, ':')) }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
        "{{ ns.x | tojson }}",
        "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 30,
        "{% set ns = namespace(x=[]) %}{% for i in range(10000) %}{% set ns.x = ns.x + ['y' * 99999] %}{% endfor %}",
        "{% set x = 'y' * 99999 %}{% set ns = namespace(x=[]) %}"
        "{% for i in range(10000) %}{% set ns.x = ns.x + [x[1:]] %}{% endfor %}",
    ],
)
def test_a_template_cannot_run_on_and_on(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_SIZE", 200_000)  # less, as memory is watched, which takes time
    monkeypatch.setattr(bounds, "MAX_TOTAL", 12_800_000)
    monkeypatch.setattr(bounds, "MAX_STEPS", 10_000)
    start = time.monotonic()
    with memory_below(40_000_000), pytest.raises(TokenizerError, match=r"it makes|it runs|recursion|too big"):
        render(source)
    assert time.monotonic() - start < 30


def test_nothing_runs_while_a_template_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "check_call", lambda *_: pytest.fail("a filter ran"))
    with memory_below(5_000_000):
        ChatTemplate("{{ 'x' | center(30000000) }}{{ 'x' | upper }}{% set y = '%30000000d' | format(1) %}")


def test_filters_and_methods_do_what_jinjas_own_do() -> None:
    source = """
{{- ['b', 'a'] | join('-') }}{{ messages | join(', ', attribute='role') }}{{ '-'.join(['x', 'y']) }}
{{- [1, 2] | sum }}{{ messages | map(attribute='n') | sum(start=4) }}{{ '%5.1f|%-4s|%(a)' | format(1.25, 'x') if 0 }}
{{- '%5.1f|%-4s|' | format(1.25, 'x') }}{{ '%(a)s' | format(a='b') }}{{ '{:>4}{a}'.format(1, a='z') }}
{{- '{a:03}'.format_map({'a': 7}) }}{{ 'abc'[1:] }}{{ [1, 2, 3][::-1] }}{{ 'a b' | center(9) | replace(' ', '_') }}
{{- 'x\ny' | indent(2, true) }}{{ {'a': [1, 2]} | tojson(indent=2) }}{{ 2.345 | round(2) }}
{{- [1, 2, 3] | batch(2, 0) | list }}{% set t %}{{ [1] }}{{ 'q' }}{% endset %}{{ t }}{{ 'a' ~ [1] ~ none }}"""
    messages = [{"role": "user", "content": "hi", "n": 1}, {"role": "assistant", "content": "x", "n": 2}]
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    plain.policies["json.dumps_kwargs"] = {}
    assert ChatTemplate(source).render(messages) == plain.from_string(source).render(messages=messages)


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_SECONDS", -1.0)
    with pytest.raises(TokenizerError, match="seconds"):
        render("{% for m in messages %}x{% endfor %}")


def test_a_long_conversation_stays_within_the_budget() -> None:
    source = (TEMPLATES / "mistral.jinja").read_text(encoding="utf-8")
    chat = [{"role": role, "content": "word " * 200} for _ in range(500) for role in ("user", "assistant")]
    text = ChatTemplate(source).render(chat, variables={"bos_token": "<s>", "eos_token": "</s>"})
    assert text.count("[INST]") == 500
