"""What agents give to `/v1/responses`: their tools, the items of their conversations, and how their calls are told."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import httpx
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from genai.answer.tool_calls import ToolCall, ToolCallDelta
from genai.llm.results import Chunk
from server.response_input import MAX_GRAMMARS, conversation
from server.schemas.response_items import InputMessage, InputReasoning
from server.unknown import IGNORED_HEADER
from tests.server.fakes import FakeModel, app_with, choice, chunk, generation, said, serving
from tests.server.live import LiveServer, live_server
from tests.tiny_package import tiny_package

pytestmark = pytest.mark.anyio

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}}
PATCH = {
    "type": "custom",
    "name": "patch",
    "description": "Changes files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "+" /[a-z]+/ LF\n%import common.LF'},
}
TOOLS: list[dict[str, object]] = [
    {"type": "function", "name": "run", "description": "Runs.", "strict": False, "parameters": NUMBER},
    {"type": "namespace", "name": "mcp__files", "description": "Files.", "tools": [
        {"type": "function", "name": "read.it", "parameters": NUMBER, "defer_loading": True},
        {"type": "custom", "name": "note"},
        {"type": "tool_search"},
    ]},
    PATCH,
    {"type": "web_search", "external_web_access": True},
    {"type": "image_generation", "output_format": "png"},
    {"type": "local_shell"},
]  # fmt: skip


async def ask(model: FakeModel, body: dict[str, object], **settings: object) -> httpx.Response:
    async with serving(app_with(model, **settings)) as http:
        return await http.post("/v1/responses", json={"model": "fake", **body})


async def told(items: list[object], **more: object) -> list[dict[str, object]]:
    """What the model is told of a conversation."""
    model = FakeModel()
    model.will_say(*said("a"))
    answer = await ask(model, {"input": items, **more})
    assert answer.status_code == 200, answer.text
    return model.submissions[0].prompt  # type: ignore[return-value]


def calling(name: str, arguments: str) -> list[Chunk]:
    """A model that calls a tool."""
    call = ToolCall(id="call_1", name=name, arguments=arguments)
    half = len(arguments) // 2
    return [
        chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name=name, arguments=arguments[:half]),)),
        chunk(tool_calls=(ToolCallDelta(index=0, arguments=arguments[half:]),)),
        chunk(finish_reason="stop", result=generation(choice("", tool_calls=(call,)))),
    ]


async def test_a_coding_agent_s_request() -> None:
    """The fields that Codex sends with every turn."""
    model = FakeModel()
    model.will_say(*said("a"))
    body: dict[str, object] = {
        "stream": True,
        "input": [
            {"type": "message", "id": "msg_1", "role": "developer", "content": [{"type": "input_text", "text": "Be."}]},
            {"type": "message", "id": "msg_2", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        ],
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "key",
        "client_metadata": {"session": "x"},
        "text": {"verbosity": "low"},
        "service_tier": "priority",
    }
    answer = await ask(model, body)
    assert answer.status_code == 200, answer.text
    assert IGNORED_HEADER not in answer.headers
    assert "response.completed" in answer.text
    tools = [each["function"] for each in model.submissions[0].tools or ()]
    assert [tool["name"] for tool in tools] == ["run", "mcp__files__read.it", "mcp__files__note", "patch"]
    assert tools[0] == {"name": "run", "description": "Runs.", "strict": False, "parameters": NUMBER}
    assert tools[2]["parameters"]["properties"]["input"] == {
        "type": "string",
        "description": "The whole input, as it is.",
    }
    assert tools[3]["strict"] is True
    assert tools[3]["parameters"]["properties"]["input"]["pattern"].startswith("^")
    assert tools[3]["parameters"]["required"] == ["input"]


@pytest.mark.parametrize(
    ("called", "arguments", "item"),
    [
        ("run", '{"n": 1}', {"type": "function_call", "name": "run", "arguments": '{"n": 1}'}),
        (
            "mcp__files__read.it",
            '{"n": 1}',
            {"type": "function_call", "name": "read.it", "namespace": "mcp__files", "arguments": '{"n": 1}'},
        ),
        ("patch", '{"input": "+a\\n"}', {"type": "custom_tool_call", "name": "patch", "input": "+a\n"}),
        (
            "mcp__files__note",
            '{"input": "é \\" x"}',
            {"type": "custom_tool_call", "name": "note", "namespace": "mcp__files", "input": 'é " x'},
        ),
    ],
)
async def test_calls_are_told_by_their_tools(called: str, arguments: str, item: dict[str, object]) -> None:
    model = FakeModel()
    for _ in range(2):
        model.will_say(*calling(called, arguments))
    body = (await ask(model, {"input": "Hi", "tools": TOOLS})).json()
    Response.model_validate(body)
    (output,) = body["output"]
    assert output.pop("id").startswith("ctc_" if item["type"] == "custom_tool_call" else "fc_")
    assert output == {**item, "call_id": "call_1", "status": "completed"}
    answer = await ask(model, {"input": "Hi", "tools": TOOLS, "stream": True})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    for event in events:
        EVENT.validate_python(event)
    (done,) = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert {**done, "id": None} == {**output, "id": None}
    if item["type"] == "custom_tool_call":
        kinds = ("response.custom_tool_call_input.delta", "response.custom_tool_call_input.done")
        pieces = [event.get("delta") or event.get("input") for event in events if event["type"] in kinds]
        assert pieces == [item["input"]] * 2
        assert not any("arguments" in event["type"] for event in events)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"type": "function", "name": "run"}, {"type": "function", "function": {"name": "run"}}),
        ({"type": "custom", "name": "patch"}, {"type": "function", "function": {"name": "patch"}}),
        (
            {"type": "function", "name": "read.it", "namespace": "mcp__files"},
            {"type": "function", "function": {"name": "mcp__files__read.it"}},
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "run"}, {"type": "mcp"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "run"}}]},
            },
        ),
    ],
)
async def test_tools_are_chosen(given: dict[str, object], wanted: dict[str, object]) -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    answer = await ask(model, {"input": "Hi", "tools": TOOLS, "tool_choice": given})
    assert answer.status_code == 200, answer.text
    assert model.submissions[0].tool_choice == wanted


async def test_an_agent_s_history() -> None:
    """Items of other servers, calls of every kind with their results, images, and instructions in the middle."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    messages = await told(
        [
            {"role": "user", "content": "Hi"},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}],
             "encrypted_content": "gAAA", "status": None},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
            {"type": "function_call", "call_id": "c1", "name": "read.it", "namespace": "mcp__files", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "a"}, image]},
            {"type": "developer_note", "text": "?"},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be short."}]},
            {"type": "reasoning", "encrypted_content": "gAAA", "summary": []},
            {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "+a\n", "status": "completed"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
            {"type": "mcp_call", "id": "m1", "server_label": "x", "name": "look", "arguments": "{}", "output": "7"},
            {"type": "item_reference", "id": "msg_of_elsewhere"},
            {"id": "msg_of_elsewhere"},
            {"type": "compaction", "encrypted_content": "gAAA"},
            {"type": "message", "role": "assistant", "id": "x", "content": [
                {"type": "output_text", "text": "Done.", "annotations": [{"type": "url_citation"}], "logprobs": []}]},
            {"role": "user", "content": [{"type": "input_text", "text": "Go on"}]},
        ],
        tools=TOOLS,
    )  # fmt: skip
    assert messages == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [call("c1", "mcp__files__read.it", {})],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a[image omitted: this model reads text only]"},
        {"role": "system", "content": "Be short."},
        {"role": "assistant", "content": "", "tool_calls": [call("c2", "patch", {"input": "+a\n"})]},
        {"role": "tool", "tool_call_id": "c2", "content": "done"},
        {"role": "assistant", "content": "", "tool_calls": [call("m1", "look", {})]},
        {"role": "tool", "tool_call_id": "m1", "content": "7"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Go on"},
    ]


def call(call_id: str, name: str, arguments: object) -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


async def test_media_can_be_refused_even_beside_text() -> None:
    parts = [{"type": "input_text", "text": "What is it?"}, {"type": "input_file", "file_id": "f"}]
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "x"}]}
    for item, param in (({"role": "user", "content": parts}, "input[0].content[1]"), (output, "input[0].output[0]")):
        answer = await ask(FakeModel(), {"input": [item]}, media="refuse")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server({"tiny": tiny_package(tmp_path_factory.mktemp("items") / "tiny")}) as server:
        yield server


@pytest.mark.parametrize(
    ("syntax", "definition", "matches"),
    [("lark", PATCH["format"]["definition"], r"\+[a-z]+\n"), ("regex", "[0-9]{3}|x", "[0-9]{3}|x")],  # type: ignore[index]
)
def test_a_grammar_is_followed(live: LiveServer, syntax: str, definition: str, matches: str) -> None:
    wanted = {"type": "grammar", "syntax": syntax, "definition": definition}
    tool = {"type": "custom", "name": "patch", "format": wanted}
    body = {"input": "Hi", "tools": [tool], "tool_choice": {"type": "custom", "name": "patch"}, "temperature": 1}
    texts = set()
    for _ in range(8):
        answer = live.http.post("/v1/responses", json={**body, "max_output_tokens": 150}).json()
        texts |= {item["input"] for item in answer["output"] if item["type"] == "custom_tool_call"}
    assert texts
    assert all(re.fullmatch(matches, text) for text in texts), texts


async def test_so_many_tools_follow_a_grammar_and_no_more() -> None:
    """Each costs a moment: hundreds would keep a server busy for minutes."""
    tools = [{**PATCH, "name": f"patch{number}"} for number in range(MAX_GRAMMARS + 1)]
    model = FakeModel()
    model.will_say(*said("a"))
    assert (await ask(model, {"input": "a", "tools": tools[1:]})).status_code == 200
    refused = await ask(model, {"input": "a", "tools": tools})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")


def test_thoughts_in_many_pieces_are_joined_in_linear_time() -> None:
    thoughts = [InputReasoning(type="reasoning", summary=[{"type": "x", "text": "x" * 7000}]) for _ in range(4096)]  # type: ignore[list-item]
    begun = time.thread_time()
    (message, _) = conversation(None, [*thoughts, InputMessage(role="user", content="a")], refuses_media=False)
    assert message["reasoning_content"] == "x" * 7000 * 4096
    assert time.thread_time() - begun < 2.0
