"""`/v1/messages`: Anthropic's own client over a scripted model, over a tiny random one, and over SmolLM2."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anthropic
import httpx
import httpx2
import pytest
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from genai.answer.tool_calls import ToolCall, ToolCallDelta
from genai.errors import ConfigError, GraphRunError, PromptTooLongError, QueueFullError
from genai.llm.llm import LLM
from tests.server.fakes import FakeModel, app_with, choice, chunk, generation, said, serving
from tests.server.live import LiveServer, live_server
from tests.tiny_package import tiny_package

EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
HI = [{"role": "user", "content": "Hi"}]
HELLO: dict[str, object] = {"model": "fake", "max_tokens": 16, "messages": HI}
TOOL = {"name": "add", "description": "Adds", "input_schema": {"type": "object"}}
USED = {"type": "tool_use", "id": "call_1", "name": "add", "input": {}}
CALL = ToolCall(id="call_1", name="add", arguments='{"a": 1}')
THOUGHT_AND_CALLED = [
    chunk(reasoning="h"),
    chunk(reasoning="m"),
    chunk("I "),
    chunk("add."),
    chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name="add", arguments='{"a"'),)),
    chunk(tool_calls=(ToolCallDelta(index=0, arguments=": 1}"),)),
    chunk(
        finish_reason="stop",
        result=generation(choice("I add.", reasoning="hm", tool_calls=(CALL,)), cached_tokens=3),
    ),
]


@asynccontextmanager
async def client(
    model: FakeModel, api_key: str = "none", **settings: object
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    app = app_with(model, **settings)
    async with serving(app), httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http:
        yield anthropic.AsyncAnthropic(base_url="http://localhost", api_key=api_key, max_retries=0, http_client=http)


async def ask(model: FakeModel, body: dict[str, object], **settings: object) -> httpx.Response:
    async with serving(app_with(model, **settings)) as http:
        return await http.post("/v1/messages", json=body)


def events_of(answer: httpx.Response) -> list[dict[str, object]]:
    """The events, each of which is one of those that Anthropic's client knows, under its own name."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for text in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = text.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "ping":
            EVENT.validate_python(event)
        events.append(event)
    return events


@pytest.mark.anyio
async def test_a_whole_answer() -> None:
    model = FakeModel()
    model.will_say(*said("Hel", "lo"))
    answer = await ask(model, HELLO)
    assert answer.status_code == 200
    body = answer.json()
    anthropic.types.Message.model_validate(body)
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }
    assert model.submissions[0].options == {"max_new_tokens": 16}


@pytest.mark.anyio
async def test_the_events_of_an_answer() -> None:
    model = FakeModel()
    model.will_say(*THOUGHT_AND_CALLED)
    events = events_of(await ask(model, {**HELLO, "tools": [TOOL], "stream": True}))
    start, ping, *blocks, delta, stop = events
    assert (start["type"], ping["type"], stop) == ("message_start", "ping", {"type": "message_stop"})
    assert start["message"]["usage"] == delta["usage"] | {
        "output_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 0},
    }
    assert start["message"]["usage"]["input_tokens"] == 4
    assert blocks == [
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "h"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "m"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "I "}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "add."}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "call_1", "name": "add", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a"'}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ": 1}"}},
        {"type": "content_block_stop", "index": 2},
    ]
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert delta["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": 6,
        "output_tokens_details": {"thinking_tokens": 2},
    }


@pytest.mark.anyio
async def test_streamed_is_whole_through_the_client() -> None:
    model = FakeModel()
    model.will_say(*THOUGHT_AND_CALLED)
    model.will_say(*THOUGHT_AND_CALLED)
    options = {"model": "fake", "max_tokens": 16, "messages": HI, "tools": [TOOL]}
    async with client(model) as api:
        whole = await api.messages.create(**options)
        async with api.messages.stream(**options) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            streamed = await stream.get_final_message()
    assert text == "I add."
    thought, said_text, call = whole.content
    assert (thought.type, said_text.type, call.type) == ("thinking", "text", "tool_use")
    assert (call.id, call.name, call.input) == ("call_1", "add", {"a": 1})
    assert streamed.to_dict(exclude_none=True) | {"id": ""} == whole.to_dict(exclude_none=True) | {"id": ""}


@pytest.mark.anyio
async def test_an_answer_can_be_given_back() -> None:
    model = FakeModel()
    model.will_say(*THOUGHT_AND_CALLED)
    model.will_say(*said("3"))
    cached = {"cache_control": {"type": "ephemeral"}}
    async with client(model) as api:
        first = await api.messages.create(model="fake", max_tokens=16, messages=HI, tools=[TOOL])
        await api.messages.create(
            model="fake",
            max_tokens=16,
            system=[{"type": "text", "text": "Be "}, {"type": "text", "text": "kind.", **cached}],
            messages=[
                *HI,
                {"role": "assistant", "content": first.content},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "call_1", "content": "3", **cached},
                        {
                            "type": "tool_result",
                            "tool_use_id": "call_2",
                            "content": [{"type": "text", "text": "no"}],
                            "is_error": True,
                        },
                        {"type": "tool_result", "tool_use_id": "call_3"},
                        {"type": "text", "text": "And "},
                        {"type": "text", "text": "now?"},
                    ],
                },
                {"role": "assistant", "content": "Now."},
                {"role": "user", "content": "Yes?"},
            ],
            tools=[{**TOOL, **cached}],
        )
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert model.submissions[1].prompt == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "I add.", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "tool", "tool_call_id": "call_2", "content": "Error: no"},
        {"role": "tool", "tool_call_id": "call_3", "content": ""},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Now."},
        {"role": "user", "content": "Yes?"},
    ]


@pytest.mark.anyio
async def test_fields_become_options() -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    fields = {
        "stop_sequences": ["x", "y"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "system": "",
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "tools": [{**TOOL, "type": "custom", "strict": True}],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "array"}}},
    }
    assert (await ask(model, {**HELLO, **fields})).status_code == 200
    (submission,) = model.submissions
    assert submission.options == {
        "max_new_tokens": 16,
        "stop_strings": ["x", "y"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "json_schema": {"type": "array"},
    }
    assert submission.prompt == HI
    function = {"name": "add", "parameters": {"type": "object"}, "description": "Adds", "strict": True}
    assert submission.tools == [{"type": "function", "function": function}]


@pytest.mark.anyio
async def test_null_is_as_good_as_left_out() -> None:
    from server.schemas.messages import MessagesRequest

    model = FakeModel()
    model.will_say(*said("a"))
    nothing = {name: None for name, field in MessagesRequest.model_fields.items() if not field.is_required()}
    assert (await ask(model, {**HELLO, **nothing})).status_code == 200
    assert model.submissions[0].options == {"max_new_tokens": 16}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("given", "choice_of", "is_parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        ({"type": "any", "disable_parallel_tool_use": False}, "required", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "add"}, {"type": "function", "function": {"name": "add"}}, None),
    ],
)
async def test_which_tool(given: dict[str, object], choice_of: object, is_parallel: bool | None) -> None:
    from server.routes.messages import _is_parallel
    from server.schemas.messages import MessagesRequest

    model = FakeModel()
    model.will_say(*said("a"))
    body = {**HELLO, "tools": [TOOL], "tool_choice": given}
    assert (await ask(model, body)).status_code == 200
    assert model.submissions[0].tool_choice == choice_of
    assert _is_parallel(MessagesRequest.model_validate(body)) is is_parallel


@pytest.mark.anyio
async def test_thinking_and_effort_are_options_of_reasoning() -> None:
    model = FakeModel()
    for given, wanted in (
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"thinking": {"type": "enabled"}}, {"reasoning_effort": "medium"}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "high"}},
            {"reasoning_effort": "high", "reasoning_budget": 1024},
        ),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({}, {}),
    ):
        model.will_say(*said("a"))
        answer = await ask(model, {**HELLO, "max_tokens": 2000, **given})
        assert answer.status_code == 200, answer.text
        options = model.submissions[-1].options
        assert {name: value for name, value in options.items() if "reasoning" in name} == wanted


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("finish_reason", "max_tokens", "told"),
    [
        ("stop", 16, "end_turn"),
        ("length", 2, "max_tokens"),
        ("length", 16, "model_context_window_exceeded"),
        ("timeout", 16, "max_tokens"),
    ],
)
async def test_stop_reasons(finish_reason: str, max_tokens: int, told: str) -> None:
    model = FakeModel()
    model.will_say(*said("ab", finish_reason=finish_reason))
    assert (await ask(model, {**HELLO, "max_tokens": max_tokens})).json()["stop_reason"] == told


@pytest.mark.anyio
@pytest.mark.parametrize("matched", ["b", None])
async def test_which_stop_sequence(matched: str | None) -> None:
    model = FakeModel()
    for _ in range(2):
        model.will_say(chunk(finish_reason="stop", result=generation(choice("", token_ids=[97], stop_string=matched))))
    body = {**HELLO, "stop_sequences": ["a", "b"]}
    whole = (await ask(model, body)).json()
    assert (whole["stop_sequence"], whole["stop_reason"]) == (matched, "stop_sequence" if matched else "end_turn")
    (delta,) = [
        event["delta"]
        for event in events_of(await ask(model, {**body, "stream": True}))
        if event["type"] == "message_delta"
    ]
    assert delta == {"stop_reason": whole["stop_reason"], "stop_sequence": matched}


@pytest.mark.anyio
async def test_a_limit_is_no_stop_sequence() -> None:
    model = FakeModel()
    result = generation(choice("", token_ids=[*b"ab"], finish_reason="length"))
    model.will_say(chunk(finish_reason="length", result=result))
    answer = (await ask(model, {**HELLO, "max_tokens": 2, "stop_sequences": ["b"]})).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("max_tokens", None)


@pytest.mark.anyio
async def test_a_call_that_breaks_off_is_text() -> None:
    model = FakeModel()
    result = generation(choice("…", finish_reason="length"))
    for _ in range(2):
        model.will_say(
            chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name="add", arguments='{"a"'),)),
            chunk('add {"a"', finish_reason="length", result=result),
        )
    whole = (await ask(model, {**HELLO, "max_tokens": 1})).json()
    assert [block["type"] for block in whole["content"]] == ["text"]
    assert whole["stop_reason"] == "max_tokens"
    events = events_of(await ask(model, {**HELLO, "stream": True}))
    assert [event["index"] for event in events if event["type"] == "content_block_stop"] == [0, 1]


@pytest.mark.anyio
async def test_an_answer_of_nothing() -> None:
    model = FakeModel()
    model.will_say(*said())
    assert (await ask(model, HELLO)).json()["content"] == []


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (PromptTooLongError(99, 63), 400, "invalid_request_error"),
        (ConfigError("tool_choice='required' needs tools"), 400, "invalid_request_error"),
        (QueueFullError("full"), 429, "rate_limit_error"),
        (GraphRunError("secret"), 500, "api_error"),
    ],
)
async def test_refusals(error: Exception, status: int, kind: str, stream: bool) -> None:
    model = FakeModel()
    model.will_refuse(error)
    answer = await ask(model, {**HELLO, "stream": stream})
    assert answer.status_code == status
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == answer.headers["x-request-id"]
    assert ("retry-after" in answer.headers) == (status == 429)
    assert "secret" not in answer.text


@pytest.mark.anyio
async def test_the_client_is_told_of_errors(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("right\n")
    async with client(FakeModel(), "wrong", api_keys_file=keys) as api:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await api.messages.create(model="fake", max_tokens=1, messages=HI)
        assert caught.value.body["error"]["type"] == "authentication_error"
    async with client(FakeModel(), "right", api_keys_file=keys) as api:
        with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
            await api.messages.create(model="other", max_tokens=1, messages=HI)
        with pytest.raises(anthropic.BadRequestError, match="invalid_request_error"):
            await api.messages.create(model="fake", max_tokens=0, messages=HI)
        with pytest.raises(anthropic.NotFoundError):
            await api.messages.count_tokens(model="other", messages=HI)
    model = FakeModel()
    model.will_say(chunk(finish_reason="timeout", result=generation(choice(finish_reason="timeout"))))
    model.will_say(chunk("a"), GraphRunError("secret"))
    async with client(model) as api:
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error") as overloaded:
            await api.messages.create(model="fake", max_tokens=1, messages=HI)
        assert overloaded.value.status_code == 503
        with pytest.raises(anthropic.APIStatusError, match="api_error"):
            async with api.messages.stream(model="fake", max_tokens=1, messages=HI) as stream:
                await stream.get_final_message()
    assert model.submissions[1].is_cancelled.is_set()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": None}, "max_tokens is missing"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"messages": []}, "messages=[]"),
        ({"messages": [*HI, {"role": "assistant", "content": [USED]}]}, "messages must not end with a tool_use"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages[0].content[0]: this model reads text only, and nothing but this (image) is asked",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text is missing"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages[0].content[0].type is missing"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}],
                    }
                ]
            },
            "messages[0].content[0].content[0]: this model reads text only",
        ),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema is missing"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "all"}}, "tool_choice"),
        ({"thinking": {"type": "perhaps"}}, "thinking"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"temperature": 3}, "temperature=3"),
        ({"container": "c"}, "container is not supported"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers is not supported"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
    ],
)
async def test_a_bad_field_is_named(change: dict[str, object], message: str) -> None:
    answer = await ask(FakeModel(), {**HELLO, **change})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert message in answer.json()["error"]["message"]


@pytest.mark.anyio
async def test_a_missing_field_is_named() -> None:
    answer = await ask(FakeModel(), {"messages": HI})
    assert answer.json()["error"] == {"type": "invalid_request_error", "message": "max_tokens is missing"}


@pytest.mark.anyio
async def test_errors_of_the_middleware_have_the_same_shape() -> None:
    async with serving(app_with(FakeModel(), max_body_bytes=1 << 20)) as http:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            wrong = await http.post(path, content=b"{", headers={"content-type": "application/json"})
            assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_request_error")
            long = await http.post(path, json={"system": "x" * 2_000_000})
            assert (long.status_code, long.json()["error"]["type"]) == (413, "request_too_large")
            host = await http.post(path, json={}, headers={"host": "elsewhere"})
            assert (host.status_code, host.json()["error"]["type"]) == (403, "permission_error")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("messages") / "tiny")


@pytest.fixture(scope="module")
def live(package: Path) -> Iterator[LiveServer]:
    with live_server({"tiny": package}) as server:
        yield server


@pytest.fixture(scope="module")
def api(live: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as it:
        yield it


def test_the_text_is_the_model_s(api: anthropic.Anthropic, package: Path) -> None:
    with LLM(package) as llm:
        expected = llm.generate(HI, max_new_tokens=20, temperature=0)
        stop = expected.text[5]
        stopped = llm.generate(HI, max_new_tokens=20, temperature=0, stop_strings=[stop]).text
    options = {"model": "tiny", "max_tokens": 20, "extra_body": {"temperature": 0}, "messages": HI}
    whole = api.messages.create(**options)
    assert "".join(block.text for block in whole.content) == expected.text
    assert whole.stop_reason == "max_tokens"
    usage = whole.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == expected.usage.prompt_tokens
    with api.messages.stream(**options, stop_sequences=["never", stop]) as stream:
        assert "".join(stream.text_stream) == stopped
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", stop)
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == expected.usage.prompt_tokens
    *_, delta, _ = events = list(api.messages.create(**options, stream=True))
    begun = events[0].message.usage
    assert (begun.input_tokens, begun.cache_read_input_tokens) == (
        delta.usage.input_tokens,
        delta.usage.cache_read_input_tokens,
    )


def test_calls(api: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    options = {
        "model": "tiny",
        "max_tokens": 300,
        "extra_body": {"temperature": 0},
        "messages": HI,
        "tools": [{"name": "paint", "input_schema": schema, "strict": True}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    whole = api.messages.create(**options)
    assert whole.stop_reason == "tool_use"
    (call,) = whole.content
    assert call.type == "tool_use"
    assert call.input.keys() == {"ok"}
    with api.messages.stream(**options) as stream:
        (streamed,) = stream.get_final_message().content
    assert streamed.input == call.input


def test_counted_is_what_is_used(api: anthropic.Anthropic) -> None:
    tool = {"name": "paint", "description": "Paints", "input_schema": {"type": "object", "properties": {}}}
    messages = [
        *HI,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "paint", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "done"}]},
    ]
    for options in (
        {"messages": HI},
        {"messages": HI, "system": "Be kind."},
        {"messages": messages, "tools": [tool]},
        {"messages": messages, "tools": [tool], "tool_choice": {"type": "none"}},
    ):
        count = api.messages.count_tokens(model="tiny", **options).input_tokens
        usage = api.messages.create(model="tiny", max_tokens=1, **options).usage
        assert count == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_leaving_a_stream_ends_it(live: LiveServer, api: anthropic.Anthropic) -> None:
    (model,) = live.server.state.models.models
    before = num_cancelled(live)
    with api.messages.stream(model="tiny", max_tokens=4000, messages=HI) as stream:
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
    asked = [{"role": "user", "content": "Name three colours, separated by commas."}]
    with (
        live_server({"smollm2": smollm2_auto}, engine={"device": "cpu", "max_seq_len": 1024}) as live,
        anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as api,
    ):
        options = {"model": "smollm2", "max_tokens": 24, "extra_body": {"temperature": 0}, "messages": asked}
        chat = live.openai.chat.completions.create(model="smollm2", max_tokens=24, temperature=0, messages=asked)
        expected = chat.choices[0].message.content
        assert api.messages.create(**options).content[0].text == expected
        with api.messages.stream(**options) as stream:
            assert "".join(stream.text_stream) == expected
            usage = stream.get_final_message().usage
        counted = api.messages.count_tokens(model="smollm2", messages=asked).input_tokens
        assert counted == usage.input_tokens + usage.cache_read_input_tokens
        assert usage.cache_read_input_tokens > 0
