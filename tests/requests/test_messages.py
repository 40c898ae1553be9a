"""Conversations as chat templates are told them."""

from __future__ import annotations

import pytest

from genai.errors import RequestError
from genai.requests.base import read
from genai.requests.chat import ChatRequest
from genai.requests.messages import template_messages


def told(arguments: object, **call: object) -> dict[str, object]:
    """The call that a template is told."""
    past = {"function": {"name": "add", "arguments": arguments}, **call}
    body = read(ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [past]}]})
    (message,) = template_messages(body.messages)
    (made,) = message["tool_calls"]  # type: ignore[misc]
    return made  # type: ignore[no-any-return]


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
def test_arguments_become_an_object(arguments: object) -> None:
    expected = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert told(arguments) == expected
    assert told(arguments, id="c1", type="function") == {"id": "c1", **expected}


@pytest.mark.parametrize("arguments", ["", " \n", "{}", {}])
def test_blank_arguments_are_none(arguments: object) -> None:
    assert told(arguments) == {"type": "function", "function": {"name": "add", "arguments": {}}}


@pytest.mark.parametrize("arguments", ["[]", "1", "{", "[" * 100_000])
def test_other_arguments_are_refused(arguments: str) -> None:
    with pytest.raises(RequestError, match="must be a JSON object") as refused:
        told(arguments)
    assert refused.value.param == "messages[0].tool_calls[0].function.arguments"
