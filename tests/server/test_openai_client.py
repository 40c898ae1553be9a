"""OpenAI's own client against the real server over a tiny random model; what it is told equals what `LLM` gives."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from genai.llm.llm import LLM
from tests.server.live import LiveServer, live_server
from tests.tiny_package import tiny_package

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "ok": {"type": "boolean"}},
    "required": ["colour", "ok"],
    "additionalProperties": False,
}
BAD_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
TOOL = {"type": "function", "function": {"name": "paint", "parameters": SCHEMA}}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("server") / "tiny")


@pytest.fixture(scope="module")
def live(package: Path) -> Iterator[LiveServer]:
    with live_server({"tiny": package, "org/other": package}) as server:
        yield server


@pytest.fixture(scope="module")
def llm(package: Path) -> Iterator[LLM]:
    """The same model without a server."""
    with LLM(package) as model:
        yield model


def test_models(live: LiveServer) -> None:
    assert [model.id for model in live.openai.models.list()] == ["tiny", "org/other"]
    assert live.openai.models.retrieve("org/other").id == "org/other"
    with pytest.raises(openai.NotFoundError):
        live.openai.models.retrieve("none")


def test_chat(live: LiveServer, llm: LLM) -> None:
    for options, ours in (
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 1, "seed": 7, "top_p": 0.9}, {"temperature": 1, "seed": 7, "top_p": 0.9}),
        (
            {"seed": 1, "extra_body": {"top_k": 3, "repetition_penalty": 1.2}},
            {"seed": 1, "top_k": 3, "repetition_penalty": 1.2},
        ),
    ):
        answer = live.openai.chat.completions.create(model="tiny", messages=HI, max_tokens=20, **options)
        alone = llm.generate(HI, max_new_tokens=20, **ours)
        assert answer.choices[0].message.content == alone.text
        assert answer.choices[0].message.role == "assistant"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
        assert answer.usage.completion_tokens == len(alone.token_ids)


def test_streamed_is_whole(live: LiveServer) -> None:
    options = {"model": "org/other", "messages": HI, "max_tokens": 20, "seed": 3, "temperature": 1, "n": 2}
    whole = live.openai.chat.completions.create(**options)
    texts, reasons, usage = ["", ""], {}, None
    for chunk in live.openai.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_completions(live: LiveServer, llm: LLM) -> None:
    prompts = ["one", "two", "three, and four"]
    answer = live.openai.completions.create(model="tiny", prompt=prompts, max_tokens=12, temperature=0, echo=True)
    alone = [llm.generate(prompt, max_new_tokens=12, temperature=0).text for prompt in prompts]
    assert [choice.text for choice in answer.choices] == [a + b for a, b in zip(prompts, alone, strict=True)]
    tokens = live.openai.completions.create(model="tiny", prompt=list(b"one"), max_tokens=12, temperature=0)
    assert tokens.choices[0].text == alone[0]
    streamed = ["", "", ""]
    for chunk in live.openai.completions.create(
        model="tiny", prompt=prompts, max_tokens=12, temperature=0, stream=True
    ):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == alone


def test_stop(live: LiveServer, llm: LLM) -> None:
    text = llm.generate("abc", max_new_tokens=30, temperature=0).text
    stop = text[5:7]
    answer = live.openai.completions.create(model="tiny", prompt="abc", max_tokens=30, temperature=0, stop=[stop])
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_logprobs(live: LiveServer, llm: LLM) -> None:
    alone = llm.generate(HI, max_new_tokens=6, temperature=0, logprobs=True, top_logprobs=3)
    answer = live.openai.chat.completions.create(
        model="tiny", messages=HI, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert [entry.bytes for entry in content] == [[token] for token in alone.token_ids]
    for entry, ours in zip(content, alone.logprobs or (), strict=True):
        assert entry.logprob == pytest.approx(ours.logprob, abs=1e-4)
        assert [each.logprob for each in entry.top_logprobs] == pytest.approx([b for _, b in ours.top], abs=1e-4)
        assert entry.top_logprobs[0].bytes == entry.bytes
    scored = live.openai.completions.create(model="tiny", prompt="hello", max_tokens=0, echo=True, logprobs=1)
    told = scored.choices[0].logprobs
    assert told.tokens == list("hello")
    assert told.token_logprobs[0] is None
    logits = llm.logits(list(b"hello"))
    expected = [
        float(row[token]) - math.log(sum(math.exp(x) for x in row)) for row, token in zip(logits, b"ello", strict=False)
    ]
    assert told.token_logprobs[1:] == pytest.approx(expected, abs=1e-3)


def test_json_schema(live: LiveServer) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "paint", "schema": SCHEMA}}
    answer = live.openai.chat.completions.create(
        model="tiny", messages=HI, max_tokens=200, temperature=0, response_format=form
    )
    value = json.loads(answer.choices[0].message.content)
    assert value.keys() == {"colour", "ok"}
    assert value["colour"] in ("red", "blue")


def test_other_constraints(live: LiveServer) -> None:
    def text(**extension: object) -> str:
        answer = live.openai.completions.create(model="tiny", prompt="a", max_tokens=20, extra_body=extension)
        return answer.choices[0].text

    assert text(choices=["yes", "no"]) in ("yes", "no")
    assert text(regex="[0-9]{3}-[a-f]{2}")[3] == "-"
    assert text(grammar='start: "<" /[a-z]/ ">"')[::2] == "<>"


def test_tools(live: LiveServer) -> None:
    options = {"model": "tiny", "messages": HI, "max_tokens": 300, "tools": [TOOL], "parallel_tool_calls": False}
    answer = live.openai.chat.completions.create(**options, tool_choice="required")
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "paint"
    assert json.loads(call.function.arguments).keys() == {"colour", "ok"}
    named = {"type": "function", "function": {"name": "paint"}}
    pieces, ids = "", []
    for chunk in live.openai.chat.completions.create(**options, tool_choice=named, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or ():
            pieces += delta.function.arguments or ""
            ids += [delta.id] if delta.id else []
    assert len(ids) == 1
    assert json.loads(pieces).keys() == {"colour", "ok"}
    past = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    assert live.openai.chat.completions.create(model="tiny", messages=past, max_tokens=3).choices


def test_tools_and_a_format_together(live: LiveServer) -> None:
    """A call, or JSON that follows the schema; where a call is required, that alone."""
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    options = {
        "model": "tiny",
        "messages": HI,
        "max_tokens": 300,
        "temperature": 1,
        "tools": [TOOL],
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    }
    kinds = set()
    for seed in range(12):
        (choice,) = live.openai.chat.completions.create(**options, seed=seed).choices
        if calls := choice.message.tool_calls:
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            assert [call.function.name for call in calls] == ["paint"]
        else:
            assert json.loads(choice.message.content or "") in ({"n": 1}, {"n": 2})
        kinds.add(bool(calls))
    assert kinds == {True, False}
    (required,) = live.openai.chat.completions.create(**options, tool_choice="required", seed=0).choices
    assert required.message.tool_calls
    (none,) = live.openai.chat.completions.create(**options, tool_choice="none", seed=0).choices
    assert json.loads(none.message.content or "") in ({"n": 1}, {"n": 2})


def test_many_at_once_are_as_alone(live: LiveServer, llm: LLM) -> None:
    prompts = [f"prompt {number} " * (1 + number % 5) for number in range(24)]
    alone = [llm.generate(prompt, max_new_tokens=10, temperature=1, seed=5).text for prompt in prompts]

    def ask(prompt: str) -> str:
        answer = live.openai.completions.create(model="tiny", prompt=prompt, max_tokens=10, temperature=1, seed=5)
        return answer.choices[0].text

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(ask, prompts)) == alone


def test_a_stream_that_is_closed_frees_its_row(live: LiveServer) -> None:
    stream = live.openai.completions.create(
        model="tiny", prompt="a", max_tokens=4000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert live.http.get("/v1/status").json()["running"] == 1
    stream.close()
    while live.http.get("/v1/status").json()["running"]:
        threading.Event().wait(0.01)


def test_status_shows_rows(live: LiveServer) -> None:
    stream = live.openai.completions.create(
        model="tiny", prompt="abc", max_tokens=4000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    status = live.http.get("/v1/status").json()
    (row,) = status["rows"]
    assert 3 <= row["valid"] <= row["capacity"] <= 4096
    assert status["models"]["tiny"]["rows"] == status["rows"]
    assert status["models"]["org/other"]["rows"] == []
    stream.close()


@pytest.mark.parametrize(
    ("kind", "param", "change"),
    [
        (openai.NotFoundError, "model", {"model": "none"}),
        (openai.BadRequestError, "temperature", {"temperature": 9}),
        (openai.BadRequestError, "functions", {"functions": [{"name": "f"}]}),
        (openai.BadRequestError, "messages", {"messages": []}),
        (openai.BadRequestError, "response_format", {"response_format": BAD_FORMAT}),
        (openai.APIStatusError, "messages", {"messages": [{"role": "user", "content": "x" * 5000}]}),
    ],
)
def test_errors(live: LiveServer, kind: type[openai.APIStatusError], param: str, change: dict[str, object]) -> None:
    with pytest.raises(kind) as caught:
        live.openai.chat.completions.create(**{"model": "tiny", "messages": HI, "max_tokens": 2, **change})
    assert caught.value.param == param
    assert caught.value.request_id


def test_a_prompt_that_is_too_long_is_told_with_the_numbers(live: LiveServer) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        live.openai.completions.create(model="tiny", prompt="x" * 5000)
    assert caught.value.status_code == 400
    assert caught.value.code == "context_length_exceeded"
    assert "5000 tokens; at most 4095 leave room" in caught.value.message


def test_a_full_queue_is_429(package: Path) -> None:
    engine = {"device": "cpu", "max_batch": 1, "max_waiting": 1, "kv_cache_bytes": 10_000_000}
    long = {"model": "tiny", "prompt": "a", "max_tokens": 4000, "stream": True, "extra_body": {"ignore_eos": True}}
    with live_server({"tiny": package}, engine=engine) as live, ThreadPoolExecutor(2) as threads:
        streams = []
        for state in ("running", "waiting"):
            streams.append(threads.submit(live.openai.completions.create, **long))
            while live.http.get("/v1/status").json()[state] < 1:
                threading.Event().wait(0.01)
        with pytest.raises(openai.RateLimitError) as caught:
            live.openai.completions.create(model="tiny", prompt="b", max_tokens=1)
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        for stream in streams:
            stream.result().close()
        assert live.openai.completions.create(model="tiny", prompt="b", max_tokens=1).choices


def test_a_deadline_cuts_a_text(package: Path) -> None:
    with live_server({"tiny": package}, request_timeout=0.5) as live:
        answer = live.openai.completions.create(
            model="tiny", prompt="a", max_tokens=4000, extra_body={"ignore_eos": True}
        )
        assert answer.choices[0].finish_reason == "length"
        assert 0 < answer.usage.completion_tokens < 4000
