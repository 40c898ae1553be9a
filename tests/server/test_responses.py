"""`/v1/responses`: OpenAI's own client over a scripted model, over a tiny random one, and over SmolLM2."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import httpx
import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from genai.answer.tool_calls import ToolCall, ToolCallDelta
from genai.errors import ConfigError, GraphRunError, PromptTooLongError, QueueFullError
from genai.llm.llm import LLM
from tests.server.fakes import FakeModel, app_with, choice, chunk, generation, said, serving
from tests.server.live import LiveServer, live_server
from tests.tiny_package import tiny_package

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
HELLO: dict[str, object] = {"model": "fake", "input": "Hi"}
TOOL: dict[str, object] = {
    "type": "function",
    "name": "add",
    "description": None,
    "parameters": {"type": "object"},
    "strict": None,
}
SPACE = {"type": "namespace", "name": "n"}
LARK = {"type": "grammar", "syntax": "lark"}
CALL = ToolCall(id="call_1", name="add", arguments='{"a": 1}')
THOUGHT_AND_CALLED = [
    chunk(reasoning="h"),
    chunk(reasoning="m"),
    chunk("I "),
    chunk("add."),
    chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name="add", arguments='{"a"'),)),
    chunk(tool_calls=(ToolCallDelta(index=0, arguments=": 1}"), ToolCallDelta(index=1, id="call_2", name="add"))),
    chunk(tool_calls=(ToolCallDelta(index=1, arguments="{}"),)),
    chunk(
        finish_reason="stop",
        result=generation(choice("I add.", reasoning="hm", tool_calls=(CALL,)), cached_tokens=3),
    ),
]


class Silence(asyncio.Event):
    """Nothing, for ten keep-alive intervals."""

    async def wait(self) -> Literal[True]:
        await asyncio.sleep(0.1)
        return True


@asynccontextmanager
async def client(model: FakeModel, **settings: object) -> AsyncIterator[openai.AsyncOpenAI]:
    app = app_with(model, **settings)
    async with serving(app), httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http:
        yield openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=http)


async def ask(model: FakeModel, body: dict[str, object], **settings: object) -> httpx.Response:
    async with serving(app_with(model, **settings)) as http:
        return await http.post("/v1/responses", json=body)


def events_of(answer: httpx.Response) -> list[dict[str, object]]:
    """The events, each of which is one of those that OpenAI's client knows, under its own name and in order."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for number, text in enumerate(answer.text.removesuffix("\n\n").split("\n\n")):
        name, data = text.split("\n")
        event = json.loads(data.removeprefix("data: "))
        EVENT.validate_python(event)
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        events.append(event)
    return events


@pytest.mark.anyio
async def test_a_whole_answer() -> None:
    model = FakeModel()
    model.will_say(*said("Hel", "lo"))
    fields = {"metadata": {"a": "b"}, "instructions": "Be kind.", "max_output_tokens": 9, "user": "u", "top_p": 0.5}
    answer = await ask(model, {**HELLO, **fields})
    assert answer.status_code == 200
    body = answer.json()
    Response.model_validate(body)
    assert body.pop("id").startswith("resp_")
    assert body.pop("created_at") > 1_700_000_000
    (item,) = body.pop("output")
    assert item.pop("id").startswith("msg_")
    assert item == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
    }
    assert body == {
        "object": "response",
        "model": "fake",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Be kind.",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": True,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 0.5,
        "truncation": "disabled",
        "user": "u",
        "safety_identifier": None,
        "prompt_cache_key": None,
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        },
    }
    (submission,) = model.submissions
    assert submission.options == {"top_p": 0.5, "max_new_tokens": 9}
    assert submission.prompt == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.mark.anyio
async def test_the_events_of_a_text() -> None:
    model = FakeModel()
    model.will_say(*said("Hel", "lo"))
    events = events_of(await ask(model, {**HELLO, "stream": True}))
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["delta"] for event in events if "delta" in event] == ["Hel", "lo"]
    last = events[-1]["response"]
    assert isinstance(last, dict)
    assert last["output"] == [events[-2]["item"]]
    assert last["usage"]["total_tokens"] == 12
    assert {event["item_id"] for event in events if "item_id" in event} == {last["output"][0]["id"]}


@pytest.mark.anyio
async def test_reasoning_text_and_calls_through_the_client() -> None:
    model = FakeModel()
    model.will_say(*THOUGHT_AND_CALLED)
    model.will_say(*THOUGHT_AND_CALLED)
    async with client(model) as api:
        whole = await api.responses.create(model="fake", input="1+?", tools=[TOOL])
        async with api.responses.stream(model="fake", input="1+?", tools=[TOOL]) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_response()
    for response in (whole, streamed):
        thought, text, first, second = response.output
        assert thought.type == "reasoning"
        assert [part.text for part in thought.content or ()] == ["hm"]
        assert response.output_text == "I add."
        assert text.type == "message"
        assert first.type == "function_call"
        assert (first.call_id, first.name, first.arguments) == ("call_1", "add", '{"a": 1}')
        assert second.type == "function_call"
        assert (second.call_id, second.arguments) == ("call_2", "{}")
        assert {item.status for item in response.output if item.type != "reasoning"} == {"completed"}
        assert response.usage is not None
        assert response.usage.output_tokens_details.reasoning_tokens == 2
        assert response.usage.input_tokens_details.cached_tokens == 3
    assert kinds[2:8] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
    ]
    assert kinds[-10:] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


@pytest.mark.anyio
async def test_an_answer_can_be_given_back_as_input() -> None:
    model = FakeModel()
    model.will_say(*THOUGHT_AND_CALLED)
    model.will_say(*said("3"))
    async with client(model) as api:
        first = await api.responses.create(model="fake", input="1+?", tools=[TOOL])
        await api.responses.create(
            model="fake",
            input=[
                {
                    "role": "developer",
                    "content": [{"type": "input_text", "text": "Be "}, {"type": "input_text", "text": "kind."}],
                },
                {"role": "user", "content": "1+?"},
                *first.output,
                {"type": "function_call_output", "call_id": "call_1", "output": "2"},
                {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "x"}]},
                {"type": "message", "role": "assistant", "content": "two"},
                {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                {"role": "user", "content": "And?"},
            ],
        )
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    other = {"id": "call_2", "type": "function", "function": {"name": "add", "arguments": {}}}
    assert model.submissions[1].prompt == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1+?"},
        {"role": "assistant", "content": "I add.", "reasoning_content": "hm", "tool_calls": [call, other]},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
        {"role": "tool", "tool_call_id": "call_2", "content": "x"},
        {"role": "assistant", "content": "two"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "And?"},
    ]


@pytest.mark.anyio
async def test_what_the_assistant_did_is_one_turn_until_it_speaks_again() -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    thought = {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    items = [thought, call, {"role": "assistant", "content": "x"}, thought, {"role": "assistant", "content": ""}]
    await ask(model, {"input": items})
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {}}}
    assert model.submissions[0].prompt == [
        {"role": "assistant", "content": "x", "reasoning_content": "hm", "tool_calls": [called]},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"json_object": True}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "array"}, "strict": True}}},
            {"json_schema": {"type": "array"}},
        ),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": None}}, {}),
        ({"max_output_tokens": None}, {"max_new_tokens": 50}),
    ],
)
async def test_fields_become_options(given: dict[str, object], options: dict[str, object]) -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    answer = await ask(model, {**HELLO, **given}, default_max_tokens=50)
    assert answer.status_code == 200
    assert model.submissions[0].options == {"max_new_tokens": 50} | options
    if "text" in given:
        assert answer.json()["text"] == given["text"]


@pytest.mark.anyio
async def test_tools_become_tools() -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    choice_of = {"type": "function", "name": "add"}
    more = {"parallel_tool_calls": False, "chat_template_kwargs": {"enable_thinking": False}}
    answer = await ask(model, {**HELLO, "tools": [{**TOOL, "strict": True}], "tool_choice": choice_of, **more})
    assert answer.json()["tool_choice"] == {**choice_of, "namespace": None}
    assert answer.json()["parallel_tool_calls"] is False
    assert answer.json()["tools"] == [{**TOOL, "strict": True}]
    (submission,) = model.submissions
    function = {"name": "add", "parameters": {"type": "object"}, "strict": True}
    assert submission.tools == [{"type": "function", "function": function}]
    assert submission.tool_choice == {"type": "function", "function": {"name": "add"}}
    assert submission.template_options == {"enable_thinking": False}


@pytest.mark.anyio
async def test_null_is_as_good_as_left_out() -> None:
    from server.schemas.responses import ResponsesRequest

    model = FakeModel()
    model.will_say(*said("a"))
    nothing = {name: None for name, field in ResponsesRequest.model_fields.items() if not field.is_required()}
    assert (await ask(model, {**nothing, **HELLO})).status_code == 200
    assert model.submissions[0].options == {"max_new_tokens": None}


@pytest.mark.anyio
@pytest.mark.parametrize("reason", ["length", "timeout"])
async def test_an_answer_that_breaks_off(reason: str) -> None:
    model = FakeModel()
    model.will_say(*said("ab", finish_reason=reason))
    model.will_say(*said("ab", finish_reason=reason))
    async with client(model) as api:
        whole = await api.responses.create(model="fake", input="Hi", max_output_tokens=2)
    assert (whole.status, whole.output[0].status) == ("incomplete", "incomplete")
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    events = events_of(await ask(model, {**HELLO, "stream": True}))
    assert events[-1]["type"] == "response.incomplete"
    assert events[-2]["item"]["status"] == "incomplete"


@pytest.mark.anyio
async def test_an_answer_of_nothing_is_an_empty_text() -> None:
    model = FakeModel()
    model.will_say(*said())
    model.will_say(*said())
    assert (await ask(model, HELLO)).json()["output"][0]["content"][0]["text"] == ""
    events = events_of(await ask(model, {**HELLO, "stream": True}))
    assert len(events[-1]["response"]["output"]) == 1


@pytest.mark.anyio
async def test_a_call_that_breaks_off_is_text() -> None:
    result = generation(choice("…", finish_reason="length"))
    script = [
        chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name="add", arguments='{"a"'),)),
        chunk('{"name": "add", "arguments": {"a"', finish_reason="length", result=result),
    ]
    model = FakeModel()
    model.will_say(*script)
    model.will_say(*script)
    whole = (await ask(model, HELLO)).json()
    assert [item["type"] for item in whole["output"]] == ["message"]
    events = events_of(await ask(model, {**HELLO, "stream": True}))
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [(item["type"], item["status"]) for item in items] == [
        ("function_call", "incomplete"),
        ("message", "incomplete"),
    ]
    assert events[-1]["response"]["output"] == [items[1]]


@pytest.mark.anyio
async def test_text_in_the_chunk_of_a_call() -> None:
    """The end of a call, a text and the begin of another call may come with one token."""
    model = FakeModel()
    model.will_say(
        chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name="add", arguments="{"),)),
        chunk("x", tool_calls=(ToolCallDelta(index=0, arguments="}"), ToolCallDelta(index=1, id="call_2", name="add"))),
        chunk(tool_calls=(ToolCallDelta(index=1, arguments="{}"),), finish_reason="stop", result=generation(choice())),
    )
    output = (await ask(model, HELLO)).json()["output"]
    assert [item["type"] for item in output] == ["function_call", "message", "function_call"]
    assert [item["arguments"] for item in output if "arguments" in item] == ["{}", "{}"]


@pytest.mark.anyio
async def test_an_error_in_the_middle_is_a_failed_response() -> None:
    model = FakeModel()
    model.will_say(chunk("a"), GraphRunError("secret"))
    answer = await ask(model, {**HELLO, "stream": True})
    assert "secret" not in answer.text
    last = events_of(answer)[-1]
    assert last["type"] == "response.failed"
    response = last["response"]
    assert isinstance(response, dict)
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["output"][0]["content"][0]["text"] == "a"
    assert model.submissions[0].is_cancelled.is_set()


@pytest.mark.anyio
async def test_an_error_after_a_silence_is_an_event() -> None:
    model = FakeModel()
    model.will_say(Silence(), GraphRunError("secret"))
    answer = await ask(model, {**HELLO, "stream": True}, keep_alive_interval=0.01)
    *silences, _, last = answer.text.removesuffix("\n\n").split("\n")
    assert set(silences) == {": keep-alive"}
    error = json.loads(last.removeprefix("data: "))
    EVENT.validate_python(error)
    assert (error["type"], error["code"], error["sequence_number"]) == ("error", "internal_error", 0)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (PromptTooLongError(99, 63), 400, "context_length_exceeded", "input"),
        (ConfigError("json_schema: no such type"), 400, "invalid_value", "text.format"),
        (ConfigError("tool_choice='required' needs tools"), 400, "invalid_value", "tool_choice"),
        (QueueFullError("full"), 429, "queue_full", None),
        (GraphRunError("secret"), 500, "internal_error", None),
    ],
)
async def test_refusals(error: Exception, status: int, code: str, param: str | None, stream: bool) -> None:
    model = FakeModel()
    model.will_refuse(error)
    answer = await ask(model, {**HELLO, "stream": stream})
    assert answer.status_code == status
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


@pytest.mark.anyio
async def test_no_turn_before_the_deadline() -> None:
    model = FakeModel()
    for _ in range(2):
        model.will_say(chunk(finish_reason="timeout", result=generation(choice(finish_reason="timeout"))))
    for stream in (False, True):
        answer = await ask(model, {**HELLO, "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_exceeded")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"input": []}, "input", "nothing that can be answered"),
        ({"input": 5}, "input", "valid string"),
        ({"input": [5]}, "input[0]", "valid dictionary"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input", "nothing that can be answered"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "'developer'"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
            "reads text only",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]},
            "input[0].arguments",
            "JSON object",
        ),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id", "missing"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input", "nothing that can be answered"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "not found"),
        ({"conversation": {"id": "x"}}, "conversation", "or all of it as `input`"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "prompts are not kept here"),
        ({"include": ["message.output_text.logprobs"]}, "include[0]", "are told by /v1/chat/completions"),
        ({"background": True}, "background", "comes with the request"),
        ({"truncation": "middle"}, "truncation", "'disabled'"),
        ({"top_logprobs": 1}, "top_logprobs", "not supported"),
        ({"max_output_tokens": -2}, "max_output_tokens", "greater than or equal to -1"),
        ({"tools": [{"name": "f"}]}, "tools[0].type", "missing"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "pattern"),
        ({"tools": [{**SPACE, "tools": [{"type": "custom"}]}]}, "tools[0].tools[0].name", "missing"),
        (
            {"tools": [{"type": "custom", "name": "f", "format": {**LARK, "definition": "start: a"}}]},
            "tools[0].format.definition",
            "lark: 'a' is not defined",
        ),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice", "'function'"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format", "'json_object'"),
        ({"metadata": {"a": 1}}, "metadata.a", "valid string"),
    ],
)
async def test_a_bad_field_is_named(change: dict[str, object], param: str, message: str) -> None:
    answer = await ask(FakeModel(), {**HELLO, **change})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert message in error["message"]


@pytest.mark.anyio
async def test_the_client_is_told_of_errors() -> None:
    async with client(FakeModel()) as api:
        with pytest.raises(openai.NotFoundError, match="no model 'other'"):
            await api.responses.create(model="other", input="Hi")
        with pytest.raises(openai.BadRequestError, match="not found: it is not kept"):
            await api.responses.create(model="fake", input="Hi", previous_response_id="resp_1")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("responses") / "tiny")


@pytest.fixture(scope="module")
def live(package: Path) -> Iterator[LiveServer]:
    with live_server({"tiny": package}) as server:
        yield server


def test_the_text_is_the_model_s(live: LiveServer, package: Path) -> None:
    with LLM(package) as llm:
        expected = llm.generate([{"role": "user", "content": "Hi"}], max_new_tokens=20, temperature=0)
    responses = live.openai.responses
    whole = responses.create(model="tiny", input="Hi", max_output_tokens=20, temperature=0)
    assert whole.output_text == expected.text
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (expected.usage.prompt_tokens, 20)
    assert whole.status == "incomplete"
    with responses.stream(model="tiny", input="Hi", max_output_tokens=20, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == expected.text


def test_calls_and_schemas(live: LiveServer) -> None:
    create = live.openai.responses.create
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    options = {"model": "tiny", "input": "Hi", "max_output_tokens": 300, "temperature": 0}
    tool = {"type": "function", "name": "paint", "parameters": schema, "strict": True}
    called = create(**options, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    assert called.status == "completed"
    (call,) = called.output
    assert call.type == "function_call"
    assert json.loads(call.arguments).keys() == {"ok"}
    form = {"format": {"type": "json_schema", "name": "n", "schema": {**schema, "additionalProperties": False}}}
    assert json.loads(create(**options, text=form).output_text).keys() == {"ok"}


def test_leaving_a_stream_ends_it(live: LiveServer) -> None:
    (model,) = live.server.state.models.models
    before = num_cancelled(live)
    with live.openai.responses.stream(model="tiny", input="Hi", max_output_tokens=4000) as stream:
        next(iter(stream))
    while model.llm.engine.running:
        threading.Event().wait(0.005)
    assert num_cancelled(live) == before + 1


def num_cancelled(live: LiveServer) -> int:
    """Texts that were ended before their own end, since the server began."""
    line = 'genai_requests_total{finish_reason="cancelled",model="tiny"} '
    (value,) = [
        text.removeprefix(line) for text in live.http.get("/metrics").text.splitlines() if text.startswith(line)
    ]
    return int(float(value))


@pytest.mark.slow
def test_real(smollm2_auto: Path) -> None:
    ask_for = "Name three colours, separated by commas."
    with live_server({"smollm2": smollm2_auto}, engine={"device": "cpu", "max_seq_len": 1024}) as live:
        responses = live.openai.responses
        asked = [{"role": "user", "content": ask_for}]
        chat = live.openai.chat.completions.create(model="smollm2", messages=asked, max_tokens=24, temperature=0)
        expected = chat.choices[0].message.content
        whole = responses.create(model="smollm2", input=ask_for, max_output_tokens=24, temperature=0)
        assert whole.output_text == expected
        with responses.stream(model="smollm2", input=ask_for, max_output_tokens=24, temperature=0) as stream:
            assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == expected
        told = [*asked, *whole.output, {"role": "user", "content": "One more?"}]
        again = responses.create(model="smollm2", input=told, max_output_tokens=8, temperature=0)
        assert again.usage is not None
        assert again.usage.input_tokens_details.cached_tokens > 0
