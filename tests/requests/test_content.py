"""Contents of messages: texts as they are, and a line in place of what a model of texts cannot read."""

from __future__ import annotations

import pytest

from genai.errors import RequestError
from genai.requests.base import Request, read
from genai.requests.chat import ChatRequest
from genai.requests.content import Part, check_media
from genai.requests.messages import template_messages

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "file": {"file_id": "file-1"}}
TEXT = {"type": "text", "text": "What is it?"}


def told(*messages: dict[str, object], refuses_media: bool = False) -> list[object]:
    """The contents that a template is told."""
    body = read(ChatRequest, {"messages": list(messages)})
    return [message["content"] for message in template_messages(body.messages, refuses_media=refuses_media)]


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (IMAGE, "[image omitted: this model reads text only]"),
        (AUDIO, "[audio omitted: this model reads text only]"),
        (FILE, "[document omitted: this model reads text only]"),
        ({"type": "hologram"}, "[hologram omitted: this model reads text only]"),
        ({"type": "input_text", "text": "Look."}, "Look."),
        ({"type": "output_text", "text": "Look.", "annotations": []}, "Look."),
        ({"type": "refusal", "refusal": "No."}, "No."),
    ],
)
def test_a_part_is_told_as_text(part: dict[str, object], line: str) -> None:
    assert told({"role": "user", "content": [part, TEXT]}) == [f"{line}What is it?"]


def test_an_answer_is_told_without_what_is_no_text() -> None:
    """A line in place of it would teach the model to write such lines."""
    thought = {"type": "thinking", "thinking": "hm"}
    assert told({"role": "user", "content": "Hi"}, {"role": "assistant", "content": [thought, TEXT, IMAGE]}) == [
        "Hi",
        "What is it?",
    ]


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_no_parts_are_an_empty_text(role: str) -> None:
    assert told({"role": role, "content": []}) == [""]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": [IMAGE]}], "messages[0].content[0]"),
        (
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{**TEXT, "text": " "}, IMAGE]}],
            "messages[1].content[1]",
        ),
        ([{"role": "user", "content": [FILE, IMAGE, AUDIO]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [FILE]}, {"role": "assistant", "content": []}], "messages[0].content[0]"),
    ],
)
def test_a_request_for_nothing_but_an_image_is_refused(messages: list[dict[str, object]], param: str) -> None:
    with pytest.raises(RequestError, match="this model reads text only, and nothing but this") as refused:
        told(*messages)
    assert refused.value.param == param


def test_what_is_read_of_a_request() -> None:
    """Wherever the parts stand: in messages, in results within them, in items."""

    class Result(Request):
        output: list[Part]

    part = {"type": "input_image"}
    body = read(Result, {"output": [{"type": "input_text", "text": "a"}, part]})
    with pytest.raises(RequestError, match=r"input\[0\].output\[1\]: this model reads text only"):
        check_media([body], [{"role": "tool", "content": "a"}], "input", is_refused=True)


def test_an_agent_s_session_survives_an_image() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    history = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [IMAGE]},
        {"role": "user", "content": [IMAGE]},
    ]
    line = "[image omitted: this model reads text only]"
    assert told(*history) == ["Look.", "", line, line]
    with pytest.raises(RequestError, match="this is of type 'image_url'") as refused:
        told(*history, refuses_media=True)
    assert refused.value.param == "messages[2].content[0]"
    assert told(*history[:2], refuses_media=True) == ["Look.", ""]
