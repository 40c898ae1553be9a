"""Requests as coding agents send them to `/v1/messages`: their shapes, in our own words; each is answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.fakes import FakeModel, app_with, said, serving
from tests.server.live import LiveServer, live_server
from tests.tiny_package import tiny_package

EPHEMERAL = {"cache_control": {"type": "ephemeral", "ttl": "1h", "scope": "global"}}
SCHEMA = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"path": {}}}
TOOLS = [
    {"name": "Read", "description": "Reads a file", "input_schema": SCHEMA, "eager_input_streaming": True},
    {"name": "Find", "description": "Finds one", "input_schema": SCHEMA, "defer_loading": True, **EPHEMERAL},
    {"name": "Edit", "input_schema": SCHEMA, "input_examples": [{"path": "a"}], "allowed_callers": ["direct"]},
]
SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: version=2.0.1; entrypoint=cli; nonce=1f2e3d;"},
    {"type": "text", "text": "You help with code.", **EPHEMERAL},
    {"type": "text", "text": "\nBe brief.", **EPHEMERAL},
]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
ASKED = {
    "role": "user",
    "content": [
        {"type": "text", "text": "<reminder>The date is today.</reminder>"},
        {"type": "text", "text": "Read it.", **EPHEMERAL},
    ],
}
CALLED = {
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "I should look.", "signature": "c2lnbmVk"},
        {"type": "redacted_thinking", "data": "aGlkZGVu"},
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [{"type": "web_search_result"}]},
        {"type": "text", "text": "I look.", "citations": None},
        {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a"}, "caller": {"type": "direct"}},
    ],
}
RESULTS = {
    "role": "user",
    "content": [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "It says "}, IMAGE]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [], "is_error": True, **EPHEMERAL},
        {"type": "text", "text": "Go on."},
    ],
}
REQUESTS: dict[str, dict[str, object]] = {
    "a probe": {"max_tokens": 1, "messages": [{"role": "user", "content": "quota"}], "metadata": {"user_id": "u"}},
    "the first turn": {
        "max_tokens": 32000,
        "system": SYSTEM,
        "messages": [ASKED],
        "tools": TOOLS,
        "metadata": {"user_id": '{"device": "d", "session": "s"}'},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "thread": {"id": "t"},
    },
    "the next turn": {
        "max_tokens": 32000,
        "system": SYSTEM,
        "messages": [ASKED, CALLED, RESULTS, {"role": "system", "content": "12 of 99 tokens are left."}],
        "tools": TOOLS,
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
        "thinking": {"type": "enabled", "budget_tokens": 31999},
    },
    "a title": {
        "max_tokens": 100,
        "temperature": 1,
        "system": [{"type": "text", "text": "Name the talk."}],
        "messages": [{"role": "user", "content": "<talk>Hi</talk>"}],
        "tools": [],
        "thinking": {"type": "disabled"},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    },
    "a web search": {
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Search."}],
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
    },
    "a begun answer": {
        "max_tokens": 100,
        "messages": [
            {"role": "user", "content": "JSON"},
            {"role": "assistant", "content": [{"type": "text", "text": "{"}]},
        ],
    },
    "an answer of nothing": {
        "max_tokens": 100,
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": []},
            {"role": "user", "content": []},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "Hi?"},
        ],
    },
}


async def ask(
    model: FakeModel, body: dict[str, object], path: str = "/v1/messages", **settings: object
) -> httpx.Response:
    async with serving(app_with(model, **settings)) as http:
        return await http.post(path, json={"model": "fake", **body})


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
async def test_what_agents_send_is_answered(name: str, stream: bool) -> None:
    model = FakeModel()
    model.will_say(*said("Yes."))
    answer = await ask(model, {**REQUESTS[name], "stream": stream})
    assert answer.status_code == 200, answer.text
    assert "Yes." in answer.text
    assert "citations" not in answer.text, "clients of other languages know no null there"


@pytest.mark.anyio
@pytest.mark.parametrize("name", REQUESTS)
async def test_what_agents_send_is_counted(name: str) -> None:
    body = {key: value for key, value in REQUESTS[name].items() if key not in ("max_tokens", "metadata", "temperature")}
    answer = await ask(FakeModel(), body, "/v1/messages/count_tokens")
    assert answer.status_code == 200, answer.text
    assert answer.json()["input_tokens"] > 0


@pytest.mark.anyio
async def test_what_the_template_is_given_of_it() -> None:
    model = FakeModel()
    model.will_say(*said("Yes."))
    await ask(model, REQUESTS["the next turn"])
    (submission,) = model.submissions
    call = {"id": "toolu_1", "type": "function", "function": {"name": "Read", "arguments": {"path": "a"}}}
    assert submission.prompt == [
        {"role": "system", "content": "You help with code.\nBe brief."},
        {"role": "user", "content": "<reminder>The date is today.</reminder>Read it."},
        {"role": "assistant", "content": "I look.", "reasoning_content": "I should look.", "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": "toolu_1",
            "content": "It says [image omitted: this model reads text only]",
        },
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: "},
        {"role": "user", "content": "Go on."},
        {"role": "system", "content": "12 of 99 tokens are left."},
    ]
    assert [tool["function"]["name"] for tool in submission.tools or ()] == ["Read", "Find", "Edit"]
    assert not submission.continue_final_message


@pytest.mark.anyio
async def test_turns_of_nothing_are_turns() -> None:
    model = FakeModel()
    model.will_say(*said("Yes."))
    await ask(model, REQUESTS["an answer of nothing"])
    told = [(message["role"], message["content"]) for message in model.submissions[0].prompt]
    assert told == [("user", "Hi"), ("assistant", ""), ("user", ""), ("assistant", ""), ("user", "Hi?")]


@pytest.mark.anyio
async def test_tools_of_other_servers_are_left_out() -> None:
    model = FakeModel()
    model.will_say(*said("Yes."))
    tools = [*TOOLS[:1], {"type": "bash_20250124", "name": "bash"}]
    assert (await ask(model, {**REQUESTS["a web search"], "tools": tools})).status_code == 200
    assert [tool["function"]["name"] for tool in model.submissions[0].tools or ()] == ["Read"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("block", "text"),
    [
        (IMAGE, "[image omitted: this model reads text only]"),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
            "[document omitted: this model reads text only]",
        ),
        (
            {
                "type": "document",
                "title": "T",
                "context": "C",
                "source": {"type": "text", "media_type": "text/plain", "data": "D"},
            },
            "T\nC\nD",
        ),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "D"}]}},
            "D",
        ),
        (
            {"type": "search_result", "source": "S", "title": "T", "content": [{"type": "text", "text": "D"}]},
            "T\nS\nD",
        ),
        ({"type": "container_upload", "file_id": "f"}, "[container_upload omitted: this model reads text only]"),
    ],
)
async def test_blocks_that_are_no_text(block: dict[str, object], text: str) -> None:
    model = FakeModel()
    for _ in range(2):
        model.will_say(*said("Yes."))
    asked = {"role": "user", "content": [{"type": "text", "text": "Look: "}, block]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [block]}]}
    for messages in ([asked], [ASKED, CALLED, result]):
        answer = await ask(model, {"max_tokens": 9, "messages": messages})
        assert answer.status_code == 200, answer.text
    first, second = (submission.prompt for submission in model.submissions)
    assert first[-1]["content"] == f"Look: {text}"
    assert second[-1]["content"] == text
    is_read = "omitted" not in text
    strict = FakeModel()
    strict.will_say(*said("Yes."))
    answer = await ask(strict, {"max_tokens": 9, "messages": [asked]}, media="refuse")
    assert answer.status_code == (200 if is_read else 400)
    if not is_read:
        assert "messages[0].content[1]: this model reads text only" in answer.json()["error"]["message"]


@pytest.mark.anyio
async def test_a_begun_answer_is_continued() -> None:
    model = FakeModel()
    model.will_say(*said("}"))
    assert (await ask(model, REQUESTS["a begun answer"])).json()["content"] == [{"type": "text", "text": "}"}]
    assert model.submissions[0].continue_final_message
    assert model.submissions[0].prompt[-1] == {"role": "assistant", "content": "{"}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    package: Path = tiny_package(tmp_path_factory.mktemp("agents") / "tiny")
    with live_server({"tiny": package}) as server:
        yield server


def test_a_nonce_does_not_cost_the_prefix_cache(live: LiveServer) -> None:
    def usage(nonce: str, system: str) -> dict[str, int]:
        header = {"type": "text", "text": f"x-anthropic-billing-header: nonce={nonce};"}
        body = {
            "max_tokens": 1,
            "system": [header, {"type": "text", "text": system}],
            "messages": [{"role": "user", "content": "Hi"}],
        }
        answer = live.http.post("/v1/messages", json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, int] = answer.json()["usage"]
        return told

    system = "You help with code. " * 30
    first, second = usage("1f2e3d", system), usage("a9b8c7", system)
    total = first["input_tokens"] + first["cache_read_input_tokens"]
    assert second["input_tokens"] + second["cache_read_input_tokens"] == total
    assert second["cache_read_input_tokens"] > 0.9 * total


def test_a_begun_answer_is_the_rest_of_the_whole(live: LiveServer) -> None:
    letters = {"temperature": 0, "allowed_token_ids": list(range(ord(" "), ord("z")))}
    asked = [{"role": "user", "content": "Hi"}]
    chat = {"messages": asked, "max_tokens": 12, **letters}
    whole = live.http.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
    for last in ({"prefix": True}, {}):
        begun = [*asked, {"role": "assistant", "content": whole[:5], **last}]
        body = {"messages": begun, "max_tokens": 7, **letters}
        body |= {} if last else {"continue_final_message": True}
        answer = live.http.post("/v1/chat/completions", json=body).json()
        assert whole[:5] + answer["choices"][0]["message"]["content"] == whole
    num_begun = live.http.post("/v1/messages/count_tokens", json={"messages": begun}).json()["input_tokens"]
    assert num_begun == answer["usage"]["prompt_tokens"]
