"""Ollama's paths."""

from __future__ import annotations

import json
import sys

import httpx
import pytest

from genai.answer.tool_calls import ToolCall, ToolCallDelta
from genai.errors import GenAIError
from tests.server.fakes import FakeModel, app_with, choice, chunk, generation, said, serving

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}


def lines(answer: httpx.Response) -> list[dict[str, object]]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_conversation_is_streamed_unless_told_otherwise() -> None:
    model = FakeModel()
    model.will_say(*said("Hel", "lo"))
    model.will_say(*said("Hello", finish_reason="length"))
    async with serving(app_with(model)) as http:
        streamed = lines(await http.post("/api/chat", json={"model": "fake:latest", "messages": HI}))
        body = {"model": "fake", "messages": HI, "stream": False, "options": {"num_predict": 5, "num_ctx": 4096}}
        whole = (await http.post("/api/chat", json=body)).json()
    assert [each["message"] for each in streamed] == [
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo"},
        {"role": "assistant", "content": ""},
    ]
    assert [each["done"] for each in streamed] == [False, False, True]
    last = streamed[-1]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 7, 5)
    assert last["total_duration"] == 10**9
    assert whole["message"] == {"role": "assistant", "content": "Hello"}
    assert (whole["done"], whole["done_reason"], whole["model"]) == (True, "length", "fake")
    assert model.submissions[1].options["max_new_tokens"] == 5


async def test_options_and_formats() -> None:
    model = FakeModel()
    options = {"temperature": 0.5, "top_k": 4, "seed": 3, "repeat_penalty": 1.1, "stop": ["x"], "num_gpu": 1}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with serving(app_with(model)) as http:
        for form in ("json", schema):
            model.will_say(*said("{}"))
            body = {"model": "fake", "messages": HI, "stream": False, "options": options, "format": form}
            assert (await http.post("/api/chat", json=body)).status_code == 200
        refused = await http.post("/api/chat", json={"model": "fake", "messages": HI, "options": {"mirostat": 2}})
        wrong = await http.post("/api/chat", json={"model": "fake", "messages": HI, "options": {"top_p": 7}})
    given = model.submissions[0].options
    names = ("temperature", "top_k", "rng_seed", "repetition_penalty")
    assert [given[name] for name in names] == [0.5, 4, 3, 1.1]
    assert given["json_object"] is True
    assert model.submissions[1].options["json_schema"] == schema
    assert (refused.status_code, wrong.status_code) == (400, 400)
    assert "mirostat" in refused.json()["error"]
    assert "top_p" in wrong.json()["error"]


async def test_tools_are_called_whole() -> None:
    model = FakeModel()
    call = ToolCall(id="call_1", name="f", arguments='{"a": 1}')
    whole = choice("", finish_reason="stop", tool_calls=(call,))
    model.will_say(
        chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name="f", arguments='{"a"'),)),
        chunk(tool_calls=(ToolCallDelta(index=0, id=None, name=None, arguments=": 1}"),)),
        chunk(finish_reason="stop", result=generation(whole)),
    )
    past = [
        *HI,
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "tool_name": "f", "content": "2"},
    ]
    async with serving(app_with(model)) as http:
        told = lines(await http.post("/api/chat", json={"model": "fake", "messages": past, "tools": [TOOL]}))
    message = told[0]["message"]
    assert isinstance(message, dict)
    assert message["tool_calls"] == [{"id": "call_1", "function": {"name": "f", "arguments": {"a": 1}}}]
    assert len(told) == 2
    prompt = model.submissions[0].prompt
    assert isinstance(prompt, list)
    assert prompt[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert (prompt[2]["role"], prompt[2]["name"]) == ("tool", "f")


async def test_a_text() -> None:
    model = FakeModel()
    for _ in range(2):
        model.will_say(*said("yes"))
    async with serving(app_with(model)) as http:
        told = lines(await http.post("/api/generate", json={"model": "fake", "prompt": "a", "system": "s"}))
        raw = await http.post("/api/generate", json={"model": "fake", "prompt": "a", "raw": True, "stream": False})
        gap = await http.post("/api/generate", json={"model": "fake", "prompt": "a", "suffix": "b"})
    assert [each["response"] for each in told] == ["yes", ""]
    assert raw.json()["response"] == "yes"
    assert "message" not in raw.json()
    assert model.submissions[0].prompt == [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    assert model.submissions[1].prompt == "a"
    assert "was not taught to fill in the middle" in gap.json()["error"]


async def test_thinking_is_told_apart() -> None:
    model = FakeModel()
    whole = choice("4", reasoning="2 + 2")
    model.will_say(chunk(reasoning="2 + 2"), chunk("4", finish_reason="stop", result=generation(whole)))
    async with serving(app_with(model)) as http:
        body = {"model": "fake", "messages": HI, "think": True, "stream": False}
        answer = (await http.post("/api/chat", json=body)).json()
    assert answer["message"] == {"role": "assistant", "content": "4", "thinking": "2 + 2"}


@pytest.mark.parametrize(("think", "effort"), [(True, "medium"), (False, "none"), ("high", "high")])
async def test_whether_to_think_is_told_as_each_template_knows_it(think: object, effort: str) -> None:
    model = FakeModel()
    model.will_say(*said("4"))
    async with serving(app_with(model)) as http:
        assert (await http.post("/api/chat", json={"model": "fake", "messages": HI, "think": think})).status_code == 200
    assert model.submissions[0].options["reasoning_effort"] == effort


@pytest.mark.parametrize(
    ("arguments", "given"),
    [('{"a": "\\ud800", "b": "\\u00e9"}', {"a": "?", "b": "é"}), ('{"a": -1e999}', {"a": -sys.float_info.max})],
)
async def test_arguments_that_no_answer_can_tell_are_told_as_what_comes_next_to_them(
    arguments: str, given: object
) -> None:
    model = FakeModel()
    call = ToolCall(id="call_1", name="f", arguments=arguments)
    whole = choice("", finish_reason="stop", tool_calls=(call,))
    pieces = (ToolCallDelta(index=0, id="call_1", name="f", arguments=arguments),)
    for _ in range(3):
        model.will_say(chunk(tool_calls=pieces), chunk(finish_reason="stop", result=generation(whole)))
    body = {"model": "fake", "messages": HI, "tools": [TOOL]}
    asked = {"model": "fake", "messages": HI, "max_tokens": 9, "tools": [{"name": "f", "input_schema": {}}]}
    async with serving(app_with(model)) as http:
        told = lines(await http.post("/api/chat", json=body))
        at_once = (await http.post("/api/chat", json={**body, "stream": False})).json()
        message = (await http.post("/v1/messages", json=asked)).json()
    for each in (told[0], at_once):
        assert each["message"]["tool_calls"][0]["function"]["arguments"] == given  # type: ignore[index]
    assert message["content"][0]["input"] == given


async def test_errors() -> None:
    model = FakeModel()
    model.will_say(chunk("a"), GenAIError("broken"))
    async with serving(app_with(model)) as http:
        unknown = await http.post("/api/chat", json={"model": "other", "messages": HI})
        told = lines(await http.post("/api/chat", json={"model": "fake", "messages": HI}))
    assert (unknown.status_code, list(unknown.json())) == (404, ["error"])
    assert "the model failed" in str(told[-1]["error"])


async def test_who_asks_for_nothing_has_the_model_loaded() -> None:
    async with serving(app_with(FakeModel())) as http:
        chat = (await http.post("/api/chat", json={"model": "fake"})).json()
        text = (await http.post("/api/generate", json={"model": "fake"})).json()
    assert (chat["done_reason"], text["done_reason"]) == ("load", "load")


async def test_what_is_served() -> None:
    async with serving(app_with(FakeModel())) as http:
        tags = (await http.get("/api/tags")).json()
        shown = (await http.post("/api/show", json={"model": "fake:latest"})).json()
        version = (await http.get("/api/version")).json()["version"]
        assert (await http.get("/api/ps")).json() == tags
    assert tags["models"][0]["name"] == "fake"
    assert tags["models"][0]["details"]["format"] == "onnx"
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"]["fake.context_length"] == 64
    assert version.split(".")[0].isdecimal()
