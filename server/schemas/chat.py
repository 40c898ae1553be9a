"""`POST /v1/chat/completions`: what is answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.schemas.common import Response, Timings, Usage


class FunctionCall(Response):
    """A function and its arguments."""

    name: str
    arguments: str = Field(description="A JSON object, as text.")


class ToolCall(Response):
    """A call that the model makes."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AnswerMessage(Response):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = Field(default=None, description="Extension. What it thought first.")
    tool_calls: list[ToolCall] | None = None


class TopLogprob(Response):
    """A token that could have come. bytes: its own, which may be part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token that came, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(Response):
    """Log probabilities of a text's tokens."""

    content: list[TokenLogprob] | None
    refusal: None = None


class ChatChoice(Response):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Response):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = Field(description="Changes when the model's package does.")
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings
