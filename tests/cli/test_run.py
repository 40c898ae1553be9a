"""`genai run`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from genai import Choice, Chunk, Drafts, TokenLogprob
from genai.answer.tool_calls import ToolCall
from genai.cli import options
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
    rest = "-n 9 --stop a --stop b --precision int8 --device cpu --threads 2 --max-seq-len 99 --no-same-bits"
    assert run_genai("run", "m", "Hi", *sampling.split(), *rest.split()).code == 0
    assert llm.calls[0][1] == {
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "rng_seed": 7,
        "stop_strings": ["a", "b"],
    }
    how = {"precision": "int8", "device": "cpu", "num_threads": 2, "max_seq_len": 99, "same_bits": False}
    assert llm.loaded[0][1] == how


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


FLAGS: list[tuple[list[str], dict[str, object]]] = [
    (["--min-new-tokens", "2"], {"min_new_tokens": 2}),
    (["--ignore-eos"], {"ignore_eos": True}),
    (["--typical-p", "0.5"], {"typical_p": 0.5}),
    (["--xtc-probability", "0.5"], {"xtc_probability": 0.5}),
    (["--presence-penalty", "-0.5"], {"presence_penalty": -0.5}),
    (["--frequency-penalty", "0.5"], {"frequency_penalty": 0.5}),
    (["--no-repeat-ngram-size", "3"], {"no_repeat_ngram_size": 3}),
    (["--dry-multiplier", "0.8"], {"dry_multiplier": 0.8}),
    (["--bad-word", "a", "--bad-word", "b"], {"bad_words": ["a", "b"]}),
    (["--num-beams", "3", "--length-penalty", "0.5"], {"num_beams": 3, "length_penalty": 0.5}),
    (["--json-schema", '{"type": "null"}'], {"json_schema": '{"type": "null"}'}),
    (["--json-schema", "@FILE"], {"json_schema": '{"a": 1}'}),
    (["--json-object"], {"json_object": True}),
    (["--regex", "@a"], {"regex": "@a"}),
    (["--lark", "start: /a/"], {"lark": "start: /a/"}),
    (["--lark", "@FILE"], {"lark": '{"a": 1}'}),
    (["--choice", "yes", "--choice", "no"], {"choices": ["yes", "no"]}),
    (["--reasoning-effort", "low", "--reasoning-budget", "9"], {"reasoning_effort": "low", "reasoning_budget": 9}),
    (["--speculative", "prompt_lookup", "--draft-length", "5"], {"speculative": "prompt_lookup", "draft_length": 5}),
    (["--set", "dry_base=2", "--set", "stop-criteria=NEVER"], {"dry_base": 2, "stop_criteria": "NEVER"}),
    (["--set", 'logit_bias={"5": 1}'], {"logit_bias": {"5": 1}}),
    (["--template-option", "enable_thinking=false"], {"template_options": {"enable_thinking": False}}),
]
RUN_FLAGS: list[tuple[list[str], dict[str, object]]] = [
    (["--n", "1"], {"n": 1}),
    (["--num-return-sequences", "1"], {"num_return_sequences": 1}),
    (["--echo"], {"echo": True}),
    (["--logprobs", "2", "--json"], {"logprobs": True, "top_logprobs": 2}),
    (["--prompt-logprobs", "0", "--json"], {"prompt_logprobs": 0}),
    (["--tools", '[{"x": 1}]'], {"tools": [{"x": 1}]}),
    (["--tools", "@FILE"], {"tools": {"a": 1}}),
    (["--tool-choice", "required"], {"tool_choice": "required"}),
    (["--tool-choice", "f"], {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    (["--single-tool-call"], {"parallel_tool_calls": False}),
    (["--timeout", "2.5"], {"timeout": 2.5}),
]


@pytest.mark.parametrize(("arguments", "expected"), FLAGS + RUN_FLAGS, ids=lambda value: str(value)[:40])
def test_each_option_is_handed_on(
    run_genai: Genai, llm: FakeLLM, tmp_path: Path, arguments: list[str], expected: dict[str, object]
) -> None:
    (tmp_path / "file").write_text('{"a": 1}')
    arguments = [argument.replace("@FILE", f"@{tmp_path / 'file'}") for argument in arguments]
    outcome = run_genai("run", "m", "Hi", *arguments)
    assert outcome.code == 0, outcome.err
    assert llm.calls[0][1] == {"max_new_tokens": 512, **expected}


@pytest.mark.parametrize(("arguments", "expected"), FLAGS, ids=lambda value: str(value)[:40])
def test_each_option_of_a_chat_is_handed_on(
    run_genai: Genai, llm: FakeLLM, tmp_path: Path, arguments: list[str], expected: dict[str, object]
) -> None:
    (tmp_path / "file").write_text('{"a": 1}')
    arguments = [argument.replace("@FILE", f"@{tmp_path / 'file'}") for argument in arguments]
    outcome = run_genai("chat", "m", *arguments, stdin=b"Hi\n")
    assert outcome.code == 0, outcome.err
    assert llm.calls[0][1] == {"max_new_tokens": 1024, **expected}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--logprobs", "1"], "log probabilities are part of the JSON: add --json"),
        (["--set", "top_k=5"], "--set top_k: write --top-k"),
        (["--set", "max_new_tokens=5"], "--set max_new_tokens: write --max-new-tokens"),
        (["--set", "max_tokens=5"], "--set max_tokens: write --max-new-tokens"),
        (["--set", "dry_base=5", "--set", "dry_base=6"], "--set dry_base=…: the option is given twice"),
        (["--set", "choices=5", "--choice", "a"], "--set choices: it is given twice"),
        (["--set", "top"], "--set top: must be NAME=VALUE"),
        (["--tools", "{"], "--tools: this is not JSON"),
        (["--json-schema", "@/no/file"], "--json-schema: cannot read /no/file: No such file"),
        (["--speculative", "oracle"], "'oracle' is not"),
        (["--n", "0"], "'--n'"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(run_genai: Genai, llm: FakeLLM, arguments: list[str], message: str) -> None:
    outcome = run_genai("run", "m", "Hi", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert llm.calls == []


def test_what_a_chat_has_no_place_for_is_refused(run_genai: Genai, llm: FakeLLM) -> None:
    for name in ("n=2", "echo=true", "logprobs=true", "prompt_logprobs=1", "tools=[]"):
        outcome = run_genai("chat", "m", "--set", name, stdin=b"Hi\n")
        assert (outcome.code, llm.calls) == (2, [])
        assert f"--set {name.split('=')[0]}: not with this command" in outcome.err


def test_a_draft_model_is_loaded_as_the_model_is(run_genai: Genai, llm: FakeLLM) -> None:
    assert run_genai("run", "m", "Hi", "--draft", "small", "--device", "cpu").code == 0
    assert [name for name, _ in llm.loaded] == ["m", "small"]
    assert llm.loaded[0][1] == llm.loaded[1][1] == {"precision": "auto", "device": "cpu"}
    assert llm.calls[0][1] == {"max_new_tokens": 512, "draft": llm}


def test_several_texts_come_one_after_the_other(run_genai: Genai, llm: FakeLLM) -> None:
    texts = ("one", "two")
    llm.choices = [Choice(index=n, text=text, token_ids=[1], finish_reason="stop") for n, text in enumerate(texts)]
    outcome = run_genai("run", "m", "Hi", "--n", 2)
    assert outcome.out == "[1]\none\n[2]\ntwo\n"
    assert "first token after" in outcome.err


def test_calls_are_lines_of_json_and_reasoning_is_no_part_of_the_text(run_genai: Genai, llm: FakeLLM) -> None:
    call = ToolCall(id="1", name="f", arguments='{"a": "ü"}')
    llm.choices = [Choice(index=0, text="", token_ids=[1], finish_reason="stop", reasoning="Hm.", tool_calls=(call,))]
    llm.chunks, llm.words = [Chunk(reasoning="Hm", token_ids=[1]), Chunk(reasoning=".", token_ids=[1])], ()
    outcome = run_genai("run", "m", "Hi")
    assert outcome.out == '{"name": "f", "arguments": {"a": "ü"}}\n'
    assert outcome.err.startswith("Hm.\nfirst token after")
    assert run_genai("run", "m", "Hi", "--n", 2).out == '[1]\n{"name": "f", "arguments": {"a": "ü"}}\n'


def test_json(run_genai: Genai, llm: FakeLLM) -> None:
    outcome = run_genai("run", "m", "Hi", "--json")
    assert outcome.err == ""
    first = {"text": "Hello, wörld!", "token_ids": [1, 2, 3], "finish_reason": "stop"}
    assert json.loads(outcome.out) == {
        "model": "m",
        **first,
        "choices": [{"index": 0, **first}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "cached_tokens": 2},
        "timings": dataclasses.asdict(TIMINGS),
    }


def test_json_has_all_there_is(run_genai: Genai, llm: FakeLLM) -> None:
    entry = TokenLogprob(token_id=1, logprob=-0.5, top=((2, -0.25),))
    llm.choices = [
        Choice(index=0, text="a", token_ids=[1], finish_reason="stop", logprobs=[entry], score=-1.5, stop_string="s"),
        Choice(
            index=1,
            text="b",
            token_ids=[2],
            finish_reason="length",
            reasoning="Hm.",
            tool_calls=(ToolCall(id="1", name="f", arguments="{}"),),
        ),
    ]
    llm.drafts, llm.prompt_logprobs = Drafts(num_drafted=4, num_accepted=3), [None, entry]
    told = json.loads(run_genai("run", "m", "Hi", "--json").out)
    spelled = {"token_id": 1, "token": "<1>", "logprob": -0.5}
    spelled["top"] = [{"token_id": 2, "token": "<2>", "logprob": -0.25}]
    first = {"text": "a", "token_ids": [1], "finish_reason": "stop", "stop_string": "s", "score": -1.5}
    assert told["choices"][0] == {"index": 0, **first, "logprobs": [spelled]}
    assert {name: told[name] for name in first} == first
    assert told["choices"][1]["reasoning"] == "Hm."
    assert told["choices"][1]["tool_calls"] == [{"id": "1", "name": "f", "arguments": "{}"}]
    assert told["prompt_logprobs"] == [None, spelled]
    assert told["drafts"] == {"num_drafted": 4, "num_accepted": 3}
    assert "3 of 4 drafted tokens came true" in run_genai("run", "m", "Hi").err


@pytest.mark.parametrize(("stdin", "message"), [(b" \n", "the prompt is empty"), (b"ab\xff", "is not UTF-8 (byte 2)")])
def test_bad_standard_input(run_genai: Genai, llm: FakeLLM, stdin: bytes, message: str) -> None:
    outcome = run_genai("run", "m", stdin=stdin)
    assert outcome.code == 2
    assert message in outcome.err
    assert llm.loaded == []


def test_every_option_is_in_these_tests() -> None:
    tested = {flag for flags, _ in FLAGS + RUN_FLAGS for flag in flags if flag.startswith("--")}
    groups = (options.GENERATION, options.SEVERAL, options.PROMPT, options.CHAT, options.TOOLS)
    flags = {f"--{name.replace('_', '-')}" for group in groups for name in group}
    others = {"temperature", "top-k", "top-p", "min-p", "repetition-penalty", "seed", "stop"}
    assert flags - tested - {f"--{name}" for name in others} == {"--parallel-tool-calls"}


@pytest.mark.parametrize("name", ["-n", "--max-tokens", "--max-new-tokens"])
def test_tokens_have_three_names(run_genai: Genai, llm: FakeLLM, name: str) -> None:
    assert run_genai("run", "m", "hi", name, 7).code == 0
    assert llm.calls[0][1]["max_new_tokens"] == 7
