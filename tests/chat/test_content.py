"""Content reaches each template in the form that it takes; the oracle is transformers, given that form."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai.chat.template import ChatTemplate
from genai.errors import TokenizerError
from tests.chat.tool_models import CHATML, QWEN

TEMPLATES = Path(__file__).parent / "templates"
# As SmolVLM's and Idefics 3's: parts only, in every role.
TYPED = """{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}{{ ':' }}
{%- else %}{{ ': ' }}{% endif %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}
{%- elif p['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""
# As Llama 3.2 Vision's: a system text that is a string, users' turns that are either.
MIXED = """{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}
{%- set messages = messages[1:] %}{{ 'System: ' + system }}{% endif %}
{%- for m in messages %}{{ '\n' + m['role'] + ': ' }}{% if m['content'] is string %}{{ m['content'] }}
{%- else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '<image>' }}{% else %}{{ p['text'] }}{% endif %}
{%- endfor %}{% endif %}{% endfor %}"""
PRINTED = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
AS_JSON = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | tojson }}\n{% endfor %}"


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def chat(content: object = "Hi {{ x }}", system: object = "Be brief.") -> list[dict[str, object]]:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": content},
    ]


def expected(source: str, messages: list) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=True)
    return rendered[0]


def file(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def test_texts_become_parts_where_a_template_takes_nothing_else() -> None:
    typed = [{**one, "content": parts(str(one["content"]))} for one in chat()]
    assert ChatTemplate(TYPED).render(chat()) == expected(TYPED, typed)


@pytest.mark.parametrize("source", [PRINTED, AS_JSON, CHATML, QWEN, file("chatml"), file("llama3"), file("thinking")])
def test_parts_become_a_text_where_a_template_takes_no_parts(source: str) -> None:
    messages = chat(parts("Hi ", "you"), parts("Be brief."))
    assert ChatTemplate(source).render(messages) == expected(source, chat("Hi you"))


def test_each_role_has_its_form() -> None:
    picture = [{"type": "image"}, *parts("What?")]
    assert ChatTemplate(MIXED).render(chat(picture, parts("Be brief."))) == expected(MIXED, chat(picture))


@pytest.mark.parametrize("source", [TYPED, file("gemma")])
def test_what_a_template_takes_is_left_as_it_is(source: str) -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, *parts("a", "b")]}]
    assert ChatTemplate(source).render(messages) == expected(source, messages)


def test_a_part_that_would_be_lost_or_printed_is_refused() -> None:
    messages = chat([{"type": "image", "url": "x"}, *parts("What?")])
    with pytest.raises(TokenizerError, match=r"message 1: .* takes text only; .* types: image, text"):
        ChatTemplate(PRINTED).render(messages)


def test_results_reach_templates_that_take_parts_only() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "the result"},
    ]
    text = ChatTemplate(TYPED).render(messages)
    assert '"name": "f"' in text
    assert "the result" in text


def test_a_role_that_cannot_be_tried_has_the_users_form() -> None:
    source = "{% if messages[0].role != 'user' %}{{ raise_exception('who?') }}{% endif %}" + PRINTED
    messages = [{"role": "user", "content": "Hi"}, {"role": "critic", "content": parts("No ", "way")}]
    assert ChatTemplate(source).render(messages) == "user: Hi\ncritic: No way\n"
