"""`genai run`."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.cli.conftest import TIMINGS, FakeLLM, Genai


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_text_on_stdout_and_timings_on_stderr(run_genai: Genai, llm: FakeLLM) -> None:
    outcome = run_genai("run", "m", "Hi")
    assert outcome.code == 0
    assert outcome.out == "Hello, wörld!\n"
    assert outcome.err == ("first token after 0.25 s, 20.0 tokens/s; 5 prompt tokens (2 from the cache), 3 new\n")
    assert llm.calls == [([user("Hi")], {"max_new_tokens": 512})]
    assert llm.loaded == [("m", {"precision": "auto", "device": "auto"})]
    assert llm.is_closed


@pytest.mark.parametrize("arguments", [["-"], []])
def test_prompt_from_standard_input(run_genai: Genai, llm: FakeLLM, arguments: list[str]) -> None:
    run_genai("run", "m", *arguments, stdin="Grüße\n".encode())
    assert llm.calls[0][0] == [user("Grüße")]


def test_options_are_handed_on(run_genai: Genai, llm: FakeLLM) -> None:
    sampling = "--temperature 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 --repetition-penalty 1.1 --seed 7"
    rest = "-n 9 --stop a --stop b --precision int8 --device cpu --threads 2 --max-seq-len 99"
    assert run_genai("run", "m", "Hi", *sampling.split(), *rest.split()).code == 0
    assert llm.calls[0][1] == {
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "seed": 7,
        "stop": ("a", "b"),
    }
    assert llm.loaded[0][1] == {"precision": "int8", "device": "cpu", "num_threads": 2, "max_seq_len": 99}


def test_raw_and_models_without_template_get_plain_text(run_genai: Genai, llm: FakeLLM) -> None:
    run_genai("run", "m", "Hi", "--raw")
    llm.has_chat_template = False
    run_genai("run", "m", "Hi")
    assert [prompt for prompt, _ in llm.calls] == ["Hi", "Hi"]


def test_system_message(run_genai: Genai, llm: FakeLLM) -> None:
    run_genai("run", "m", "Hi", "--system", "Be brief")
    assert llm.calls[0][0] == [{"role": "system", "content": "Be brief"}, user("Hi")]
    assert "drop --raw" in run_genai("run", "m", "Hi", "--system", "x", "--raw").err
    llm.has_chat_template = False
    assert "this model has none" in run_genai("run", "m", "Hi", "--system", "x").err


def test_json(run_genai: Genai, llm: FakeLLM) -> None:
    outcome = run_genai("run", "m", "Hi", "--json")
    assert outcome.err == ""
    assert json.loads(outcome.out) == {
        "model": "m",
        "text": "Hello, wörld!",
        "token_ids": [1, 2, 3],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "cached_tokens": 2},
        "timings": dataclasses.asdict(TIMINGS),
    }


@pytest.mark.parametrize(("stdin", "message"), [(b" \n", "the prompt is empty"), (b"ab\xff", "is not UTF-8 (byte 2)")])
def test_bad_standard_input(run_genai: Genai, llm: FakeLLM, stdin: bytes, message: str) -> None:
    outcome = run_genai("run", "m", stdin=stdin)
    assert outcome.code == 2
    assert message in outcome.err
    assert llm.loaded == []
