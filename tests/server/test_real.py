"""OpenAI's client, the server and SmolLM2."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from genai.llm.llm import LLM
from tests.server.live import LiveServer, live_server

pytestmark = pytest.mark.slow

NAME = "smollm2-135m-instruct"
ASK = [{"role": "user", "content": "Name three colours, separated by commas."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "is_capital": {"type": "boolean"}},
    "required": ["city", "is_capital"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ENGINE = {"device": "cpu", "max_batch": 4, "max_seq_len": 1024, "prefix_cache_bytes": 64_000_000}


@pytest.fixture(scope="module")
def expected(smollm2_auto: Path) -> dict[str, str]:
    """What the model says without a server."""
    with LLM(smollm2_auto) as llm:
        return {
            "greedy": llm.generate(ASK, max_new_tokens=24, temperature=0).text,
            "sampled": llm.generate(ASK, max_new_tokens=24, temperature=0.8, top_p=0.9, seed=11).text,
            "plain": llm.generate("The capital of France is", max_new_tokens=12, temperature=0).text,
        }


@pytest.fixture(scope="module")
def live(smollm2_auto: Path, expected: dict[str, str]) -> Iterator[LiveServer]:
    with live_server({NAME: smollm2_auto}, engine=ENGINE) as server:
        yield server


def chat(live: LiveServer, **options: object) -> object:
    return live.openai.chat.completions.create(model=NAME, messages=ASK, **options)


def test_chat_seed_and_streams(live: LiveServer, expected: dict[str, str]) -> None:
    greedy = {"max_tokens": 24, "temperature": 0}
    sampled = {"max_tokens": 24, "temperature": 0.8, "top_p": 0.9, "seed": 11}
    for options, text in ((greedy, expected["greedy"]), (sampled, expected["sampled"])):
        assert chat(live, **options).choices[0].message.content == text
        pieces = [each.choices[0].delta.content or "" for each in chat(live, **options, stream=True)]
        assert "".join(pieces) == text
        assert len(pieces) > 5


def test_completions_and_logprobs(live: LiveServer, expected: dict[str, str]) -> None:
    answer = live.openai.completions.create(
        model=NAME, prompt="The capital of France is", max_tokens=12, temperature=0, logprobs=2
    )
    assert answer.choices[0].text == expected["plain"]
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == expected["plain"]
    assert all(
        max(top.values()) == one for top, one in zip(logprobs.top_logprobs, logprobs.token_logprobs, strict=True)
    )
    echoed = live.openai.completions.create(
        model=NAME, prompt="The capital of France is Paris", max_tokens=0, echo=True, logprobs=0
    )
    assert echoed.choices[0].logprobs.tokens[-1] == " Paris"
    assert echoed.choices[0].logprobs.token_logprobs[-1] > -1, "it knows"


def test_stop(live: LiveServer, expected: dict[str, str]) -> None:
    answer = chat(live, max_tokens=24, temperature=0, stop=["2."])
    assert answer.choices[0].message.content == expected["greedy"].split("2.")[0]
    assert answer.choices[0].finish_reason == "stop"


def test_json_schema(live: LiveServer) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    answer = live.openai.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "Is Paris a capital? Answer in JSON."}],
        max_tokens=120,
        temperature=0,
        response_format=form,
    )
    value = json.loads(answer.choices[0].message.content)
    assert isinstance(value["city"], str)
    assert isinstance(value["is_capital"], bool)


def test_tools(live: LiveServer) -> None:
    answer = live.openai.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=120,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"city"}
    assert answer.choices[0].finish_reason == "tool_calls"


def test_cancelling_frees_the_row_at_once(live: LiveServer) -> None:
    stream = chat(live, max_tokens=900, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert live.http.get("/v1/status").json()["running"] == 1
    stream.close()
    left = time.monotonic()
    while live.http.get("/v1/status").json()["running"]:
        threading.Event().wait(0.005)
    assert time.monotonic() - left < 30  # about a step (0.02 s); 900 tokens take longer than this


def test_a_second_turn_finds_the_first_in_the_cache(live: LiveServer) -> None:
    first = chat(live, max_tokens=24, temperature=0)
    messages = [*ASK, {"role": "assistant", "content": first.choices[0].message.content}]
    messages.append({"role": "user", "content": "And three more?"})
    second = live.openai.chat.completions.create(model=NAME, messages=messages, max_tokens=4, temperature=0)
    assert second.usage.prompt_tokens_details.cached_tokens >= 32


def test_many_at_once(live: LiveServer, expected: dict[str, str]) -> None:
    def ask(_: int) -> str:
        return chat(live, max_tokens=24, temperature=0).choices[0].message.content

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(ask, range(6))) == {expected["greedy"]}


def test_errors(live: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError):
        chat(live, max_tokens=5, extra_body={"regex": "("})
    with pytest.raises(openai.APIStatusError) as caught:
        live.openai.completions.create(model=NAME, prompt="word " * 2000)
    assert (caught.value.status_code, caught.value.code) == (400, "context_length_exceeded")
