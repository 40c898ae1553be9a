"""`/v1/chat/completions` over a scripted model: what it is asked for, and how its answers are told."""

from __future__ import annotations

import json

import httpx
import pytest

from genai.answer.tool_calls import ToolCall, ToolCallDelta
from genai.decoding.logprobs import TokenLogprob
from genai.errors import ConfigError, GraphRunError, PromptTooLongError, QueueFullError
from tests.server.fakes import FakeModel, app_with, choice, chunk, generation, said, serving
from tests.tiny_package import END_ID

pytestmark = pytest.mark.anyio

HELLO: dict[str, object] = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


async def ask(model: FakeModel, body: dict[str, object], **settings: object) -> httpx.Response:
    async with serving(app_with(model, **settings)) as http:
        return await http.post("/v1/chat/completions", json=body)


def events_of(answer: httpx.Response) -> list[dict[str, object]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.removesuffix("\n\n").split("\n\n")
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_a_whole_answer() -> None:
    model = FakeModel()
    model.will_say(*said("Hel", "lo"))
    answer = await ask(model, HELLO)
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("system_fingerprint").startswith("fp_")
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "object": "chat.completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "timings": {
            "queue_seconds": 0.25,
            "time_to_first_token": 0.5,
            "total_seconds": 1.0,
            "tokens_per_second": 4.0,
        },
    }


async def test_a_streamed_answer() -> None:
    model = FakeModel()
    model.will_say(*said("Hel", "lo"))
    events = events_of(await ask(model, {**HELLO, "stream": True}))
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    choices = [event["choices"] for event in events]
    assert choices == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "Hel"}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "lo"}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
    ]
    assert all("usage" not in event for event in events)


async def test_the_last_text_comes_before_the_reason() -> None:
    """Clients that stop at `finish_reason` would not read what stands beside it."""
    model = FakeModel()
    model.will_say(chunk("ab", finish_reason="stop", result=generation(choice("ab"))))
    told = [event["choices"][0] for event in events_of(await ask(model, {**HELLO, "stream": True}))]
    assert [(each["delta"], each["finish_reason"]) for each in told] == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "ab"}, None),
        ({}, "stop"),
    ]


async def test_usage_comes_last_if_asked_for() -> None:
    model = FakeModel()
    whole = generation(choice("ab"), cached_tokens=4)
    model.will_say(chunk("ab", finish_reason="stop", result=whole))
    events = events_of(await ask(model, {**HELLO, "stream": True, "stream_options": {"include_usage": True}}))
    assert [event["usage"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


async def test_several_answers() -> None:
    model = FakeModel()
    whole = generation(choice("a", 0), choice("b", 1, "length"))
    script = [chunk("a"), chunk("b", index=1), chunk(finish_reason="stop")]
    script.append(chunk(index=1, finish_reason="length", result=whole))
    model.will_say(*script)
    model.will_say(*script)
    body = (await ask(model, {**HELLO, "n": 2})).json()
    assert [each["message"]["content"] for each in body["choices"]] == ["a", "b"]
    assert [each["finish_reason"] for each in body["choices"]] == ["stop", "length"]
    events = events_of(await ask(model, {**HELLO, "n": 2, "stream": True}))
    told = [(event["choices"][0]["index"], event["choices"][0]["delta"].get("role")) for event in events]
    assert told == [(0, "assistant"), (0, None), (1, "assistant"), (1, None), (0, None), (1, None)]
    assert model.submissions[0].options["n"] == 2


async def test_fields_become_options() -> None:
    model = FakeModel()
    fields = {
        "seed": 5,
        "stop": ["a", "b"],
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "logit_bias": {"7": -100},
        "max_completion_tokens": 9,
        "logprobs": True,
        "top_logprobs": 3,
        "top_k": 4,
        "min_p": 0.01,
        "typical_p": 0.9,
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 3,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "dry_multiplier": 0.8,
        "dry_base": 1.5,
        "dry_allowed_length": 3,
        "min_tokens": 1,
        "ignore_eos": False,
        "stop_token_ids": [7],
        "bad_words": ["x"],
        "allowed_token_ids": [1, 2],
        "regex": "a+",
    }
    model.will_say(*said("a"))
    assert (await ask(model, {**HELLO, **fields})).status_code == 200
    (submission,) = model.submissions
    assert submission.options == {
        "rng_seed": 5,
        "stop_strings": ["a", "b"],
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "logit_bias": {7: -100},
        "max_new_tokens": 9,
        "logprobs": True,
        "top_logprobs": 3,
        "top_k": 4,
        "min_p": 0.01,
        "typical_p": 0.9,
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 3,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "dry_multiplier": 0.8,
        "dry_base": 1.5,
        "dry_allowed_length": 3,
        "min_new_tokens": 1,
        "ignore_eos": False,
        "stop_token_ids": [7],
        "bad_words": ["x"],
        "allowed_token_ids": [1, 2],
        "regex": "a+",
    }
    assert 599 < (submission.timeout or 0) <= 600


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}}},
            {"json_schema": {"type": "array"}},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}},
            {"json_schema": {"type": "array"}},
        ),
        ({"response_format": {"type": "json_schema", "schema": {"type": "array"}}}, {"json_schema": {"type": "array"}}),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
            {"json_schema": {"type": "object"}},
        ),
        ({"grammar": "start: /a/"}, {"lark": "start: /a/"}),
        ({"choices": ["a", "b"]}, {"choices": ["a", "b"]}),
    ],
)
async def test_constraints(given: dict[str, object], options: dict[str, object]) -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    assert (await ask(model, {**HELLO, **given})).status_code == 200
    names = ("json_object", "json_schema", "lark", "choices")
    assert {name: value for name, value in model.submissions[0].options.items() if name in names} == options


async def test_null_is_as_good_as_left_out() -> None:
    from genai.requests.chat import ChatRequest

    model = FakeModel()
    model.will_say(*said("a"))
    nothing = {name: None for name, field in ChatRequest.model_fields.items() if not field.is_required()}
    assert (await ask(model, {**HELLO, **nothing})).status_code == 200
    assert model.submissions[0].options == {"logprobs": False, "top_logprobs": 0, "max_new_tokens": None}


async def test_what_the_template_is_given() -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": "1+2?", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "assistant", "refusal": "No."},
    ]
    body = {
        **HELLO,
        "messages": messages,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert (await ask(model, body)).status_code == 200
    (submission,) = model.submissions
    assert submission.prompt == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1+2?", "name": "ann"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
        {"role": "assistant", "content": "No."},
    ]
    assert submission.tools == [TOOL]
    assert submission.tool_choice == {"type": "function", "function": {"name": "add"}}
    assert submission.template_options == {"enable_thinking": False}


async def test_messages_as_clients_give_them_back() -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    function = {"name": "add", "arguments": "  "}
    call = {"index": 0, "id": "c1", "type": "function", "function": function, "extra_content": {"a": 1}}
    more = {"audio": None, "annotations": [], "provider_specific_fields": {"a": 1}, "refusal": None}
    messages = [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": "", "function_call": None, "tool_calls": [call], **more},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": []},
        {"role": "assistant", "content": None, **more},
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": ""}},
        {"role": "function", "name": "add", "content": "3"},
        {"role": "system", "content": "Go on."},
    ]
    answer = await ask(model, {**HELLO, "messages": messages})
    assert answer.status_code == 200, answer.text
    called = {"type": "function", "function": {"name": "add", "arguments": {}}}
    assert model.submissions[0].prompt == [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **called}]},
        {"role": "tool", "content": "", "tool_call_id": "c1", "name": "add"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "3", "name": "add"},
        {"role": "system", "content": "Go on."},
    ]


@pytest.mark.parametrize(
    ("last", "more", "is_continued"),
    [
        ({}, {}, False),
        ({"prefix": True}, {}, True),
        ({"prefix": False}, {"continue_final_message": True}, True),
        ({"prefix": None}, {"continue_final_message": False}, False),
    ],
)
async def test_which_answers_are_continued(
    last: dict[str, object], more: dict[str, object], is_continued: bool
) -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The", **last}]
    assert (await ask(model, {**HELLO, "messages": messages, **more})).status_code == 200
    assert model.submissions[0].continue_final_message is is_continued
    assert model.submissions[0].prompt == [HELLO["messages"][0], {"role": "assistant", "content": "The"}]


async def test_images_may_be_refused() -> None:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    body = {**HELLO, "messages": [{"role": "user", "content": parts}]}
    model = FakeModel()
    model.will_say(*said("a"))
    assert (await ask(model, body)).status_code == 200
    answer = await ask(FakeModel(), body, media="refuse")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0].content[1]")


async def test_tool_calls_and_reasoning() -> None:
    model = FakeModel()
    call = ToolCall(id="call_1", name="add", arguments='{"a": 1}')
    whole = generation(choice("", reasoning="hm", tool_calls=(call,)))
    script = [
        chunk(reasoning="hm"),
        chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name="add"),)),
        chunk(tool_calls=(ToolCallDelta(index=0, arguments='{"a": 1}'),)),
        chunk(finish_reason="stop", result=whole),
    ]
    model.will_say(*script)
    model.will_say(*script)
    body = {**HELLO, "tools": [TOOL]}
    (told,) = (await ask(model, body)).json()["choices"]
    assert told["finish_reason"] == "tool_calls"
    assert told["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
    }
    choices = [event["choices"][0] for event in events_of(await ask(model, {**body, "stream": True}))]
    assert [each["delta"] for each in choices] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
        {},
    ]
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_logprobs() -> None:
    model = FakeModel()
    entries = (
        TokenLogprob(token_id=ord("a"), logprob=-0.5, top=((ord("a"), -0.5), (0xC3, float("-inf")))),
        TokenLogprob(token_id=0xC3, logprob=-1.0, top=()),
    )
    whole = generation(choice("a", logprobs=entries))
    script = [chunk("a", logprobs=entries[:1]), chunk(logprobs=entries[1:], finish_reason="stop", result=whole)]
    model.will_say(*script)
    model.will_say(*script)
    body = {**HELLO, "logprobs": True, "top_logprobs": 2}
    told = (await ask(model, body)).json()["choices"][0]["logprobs"]
    first, second = told["content"]
    assert first == {
        "token": "a",
        "bytes": [97],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "a", "bytes": [97], "logprob": -0.5},
            {"token": "�", "bytes": [0xC3], "logprob": -9999.0},
        ],
    }
    assert (second["token"], second["bytes"]) == ("�", [0xC3])
    events = events_of(await ask(model, {**body, "stream": True}))
    streamed = [event["choices"][0]["logprobs"] for event in events]
    assert [entry for some in streamed if some for entry in some["content"]] == told["content"]


async def test_the_end_token_is_not_among_the_logprobs() -> None:
    model = FakeModel()
    entries = [TokenLogprob(token_id=token, logprob=-0.5, top=()) for token in (ord("a"), END_ID)]
    whole = generation(choice("a", logprobs=entries, has_end_token=True))
    end = chunk(logprobs=entries[1:], has_end_token=True, finish_reason="stop", result=whole)
    for _ in range(2):
        model.will_say(chunk("a", logprobs=entries[:1]), end)
    body = {**HELLO, "logprobs": True}
    told = (await ask(model, body)).json()["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in told] == ["a"]
    streamed = [event["choices"][0]["logprobs"] for event in events_of(await ask(model, {**body, "stream": True}))]
    assert streamed == [None, {"content": told, "refusal": None}, None]


async def test_finish_reasons() -> None:
    model = FakeModel()
    model.will_say(*said("a", finish_reason="timeout"))
    model.will_say(*said("", finish_reason="timeout"))
    model.will_say(*said("a", finish_reason="cancelled"))
    answers = [await ask(model, HELLO) for _ in range(3)]
    assert answers[0].json()["choices"][0]["finish_reason"] == "length"
    assert (answers[1].status_code, answers[1].json()["error"]["code"]) == (503, "deadline_exceeded")
    assert (answers[2].status_code, answers[2].json()["error"]["code"]) == (503, "shutting_down")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (PromptTooLongError(99, 63), 400, "context_length_exceeded", "messages"),
        (ConfigError("no"), 400, "invalid_value", None),
        (ConfigError("the prompt has no tokens"), 400, "invalid_value", "messages"),
        (ConfigError("min_new_tokens=9 is above max_new_tokens=5"), 400, "invalid_value", "min_tokens"),
        (ConfigError("logit_bias: token id 9 is outside"), 400, "invalid_value", "logit_bias"),
        (ConfigError("lark: 1(8): expected"), 400, "invalid_value", "grammar"),
        (ConfigError("tools[0].function.name='f': another"), 400, "invalid_value", "tools"),
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
    assert ("retry-after" in answer.headers) == (status == 429)


async def test_an_error_in_the_middle_of_a_stream_is_an_event() -> None:
    model = FakeModel()
    model.will_say(chunk("a"), GraphRunError("secret"))
    answer = await ask(model, {**HELLO, "stream": True})
    assert answer.status_code == 200
    last = answer.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert model.submissions[0].is_cancelled.is_set()


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "Hi"}, "messages", "valid list"),
        ({"messages": [{"role": "critic", "content": ""}]}, "messages[0]", "role"),
        ({"messages": [{"role": "function", "content": ""}]}, "messages[0].name", "missing"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "this model reads text only",
        ),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type", "missing"),
        ({"continue_final_message": True}, "continue_final_message", "must be an assistant's without calls"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools", "missing"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "", "type": "function", "function": {"name": "f", "arguments": "["}}],
                    }
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
            "JSON object",
        ),
        ({"functions": [{"name": "f"}]}, "functions", "not supported: give tools"),
        ({"system": "Be kind."}, "system", "not supported: give a system message"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"top_p": -0.5}, "top_p", "greater than or equal to 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 33}, "n", "33 texts are asked for (prompts times n); at most 32"),
        ({"n": 1.5}, "n", "valid integer"),
        ({"n": True}, "n", "valid integer"),
        ({"seed": -2}, "seed", "greater than or equal to -1"),
        ({"seed": 10**30}, "seed", "less than"),
        ({"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
        ({"stop": ["a"] * 65}, "stop", "at most 64"),
        ({"max_tokens": -2}, "max_tokens", "greater than or equal to -1"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "differ"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is no token id"),
        ({"logit_bias": {"٣": 1}}, "logit_bias", "is no token id"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "less than or equal to 100"),
        ({"response_format": {"type": "xml"}}, "response_format", "'json_object'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'function'"),
        ({"tool_choice": "always"}, "tool_choice", "'none', 'auto' or 'required'"),
        ({"modalities": ["audio"]}, "modalities[0]", "'text'"),
    ],
)
async def test_a_bad_field_is_named(change: dict[str, object], param: str, message: str) -> None:
    answer = await ask(FakeModel(), {**HELLO, **change})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert message in error["message"]


async def test_models_by_name() -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    answer = await ask(model, {"messages": HELLO["messages"]})
    assert answer.json()["model"] == "fake", "without a name, the first model answers"
    answer = await ask(model, {**HELLO, "model": "other"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "there are: fake" in answer.json()["error"]["message"]


async def test_the_deadline_is_what_is_left_of_it() -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    await ask(model, HELLO, request_timeout=5)
    assert 4 < (model.submissions[0].timeout or 0) <= 5


async def test_the_default_limit() -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    await ask(model, HELLO, default_max_tokens=50)
    assert model.submissions[0].options["max_new_tokens"] == 50
