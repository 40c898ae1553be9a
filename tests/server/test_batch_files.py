"""What the server and a batch file make of the same body is the same."""

from __future__ import annotations

import pytest

from genai.batch.request import BatchRequest, request_of
from genai.errors import RequestError
from tests.server.fakes import FakeModel, app_with, said, serving

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"function": {"name": "add", "arguments": {"a": 1}}}
OPTIONS = {
    "seed": 5,
    "stop": ["a", "b"],
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 4,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
    "xtc_probability": 0.5,
    "dry_multiplier": 0.8,
    "min_tokens": 1,
    "ignore_eos": True,
    "bad_words": ["x"],
    "grammar": "start: /a/",
    "n": 2,
    "metadata": {"a": 1},
    "store": False,
    "service_tier": "auto",
    "modalities": ["text"],
    "stream": False,
    "user": None,
}
CHATS: dict[str, dict[str, object]] = {
    "options": OPTIONS,
    "log probabilities": {"logprobs": True, "top_logprobs": 3, "max_completion_tokens": 9},
    "an object": {"response_format": {"type": "json_object"}, "max_tokens": 3},
    "a schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}},
    "tools": {
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "messages": {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
            {"role": "tool", "content": "3", "name": "add"},
            {"role": "assistant", "refusal": "No."},
        ]
    },
}
COMPLETIONS: dict[str, dict[str, object]] = {
    "options": OPTIONS,
    "tokens": {"prompt": [1, 2]},
    "one of several": {"prompt": ["one"], "best_of": 1, "suffix": ""},
    "echo": {"echo": True, "logprobs": 2, "max_tokens": 0},
}


def batched(url: str, body: dict[str, object]) -> BatchRequest:
    return request_of({"custom_id": "a", "method": "POST", "url": url, "body": body}, ("fake",))  # type: ignore[dict-item]


async def refused_by_server(url: str, body: dict[str, object]) -> tuple[str, str]:
    async with serving(app_with(FakeModel())) as http:
        error = (await http.post(url, json=body)).json()["error"]
    return error["param"], error["message"]


@pytest.mark.parametrize("name", CHATS)
async def test_chats(name: str) -> None:
    body = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], **CHATS[name]}
    model = FakeModel()
    model.will_say(*said("a"))
    async with serving(app_with(model)) as http:
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    (served,), line = model.submissions, batched("/v1/chat/completions", body)
    assert line.prompt == served.prompt
    assert served.options == {"max_new_tokens": None, "logprobs": False, "top_logprobs": 0, **line.options}
    assert line.chat.get("tools") == served.tools
    assert line.chat.get("tool_choice") == served.tool_choice
    assert line.chat.get("template_options") == served.template_options


@pytest.mark.parametrize("name", COMPLETIONS)
async def test_completions(name: str) -> None:
    body = {"model": "fake", "prompt": "Hi", **COMPLETIONS[name]}
    model = FakeModel()
    model.will_say(*said("a"))
    async with serving(app_with(model)) as http:
        assert (await http.post("/v1/completions", json=body)).status_code == 200
    (served,), line = model.submissions, batched("/v1/completions", body)
    assert line.prompt == served.prompt
    assert served.options == {"max_new_tokens": 16, **line.options}


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "critic", "content": "Hm"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": "a"}], "continue_final_message": True},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}]},
        {"response_format": {"type": "xml"}},
        {"tools": [{"type": "web_search"}]},
        {"modalities": ["audio"]},
        {"max_tokens": 1, "max_completion_tokens": 2},
        {"functions": [{"name": "f"}]},
        {"audio": {"voice": "alloy"}},
    ],
    ids=str,
)
async def test_what_is_wrong_is_told_alike(wrong: dict[str, object]) -> None:
    body = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], **wrong}
    with pytest.raises(RequestError) as told:
        batched("/v1/chat/completions", body)
    assert (told.value.param, str(told.value)) == await refused_by_server("/v1/chat/completions", body)


def test_batch_files_take_options_by_any_name_and_without_the_apis_bounds() -> None:
    line = batched("/v1/completions", {"prompt": "Hi", "temperature": 9.0, "logprobs": 50, "num_beams": 3, "n": 500})
    assert line.options == {"temperature": 9.0, "logprobs": True, "top_logprobs": 50, "num_beams": 3, "n": 500}
    for twice in ({"seed": 1, "rng_seed": 2}, {"rng_seed": 2, "seed": 1}, {"grammar": "a", "lark": "b"}):
        with pytest.raises(RequestError, match="are the same option; give it once"):
            batched("/v1/completions", {"prompt": "Hi", **twice})
    with pytest.raises(RequestError, match="max_new_tokens=5: another field asks for 6"):
        batched("/v1/completions", {"prompt": "Hi", "max_tokens": 6, "max_new_tokens": 5})
