"""`genai generate-file`: answers, bad lines, resuming after anything, and one line for what cannot go on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai.batch import file as batch_file
from genai.batch.file import BatchFile, Settings, Summary
from genai.config import EngineConfig
from genai.errors import ConfigError, GraphRunError
from genai.llm.llm import LLM
from tests.cli.conftest import Genai, Outcome
from tests.tiny_package import VOCAB_SIZE, tiny_package

SETTINGS = Settings(options={"max_new_tokens": 8})
CONFIG = EngineConfig(device="cpu", num_threads=1, max_batch=4, max_seq_len=2000, prefix_cache_bytes=0)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("batch") / "tiny")


@pytest.fixture(scope="module")
def llm(package: Path) -> Iterator[LLM]:
    with LLM(package, CONFIG) as llm:
        yield llm


def chat(custom_id: object, text: str = "Hi", **body: object) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    return line(custom_id, "/v1/chat/completions", {"messages": messages, "max_tokens": 8, **body})


def plain(custom_id: object, prompt: object = "Hi", **body: object) -> dict[str, object]:
    return line(custom_id, "/v1/completions", {"prompt": prompt, "max_tokens": 8, **body})


def line(custom_id: object, url: str, body: object) -> dict[str, object]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(path: Path, lines: list[object]) -> Path:
    texts = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in lines]
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return path


def read(path: Path) -> list[dict]:
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return [json.loads(text) for text in data.splitlines()]


def answered(llm: LLM, folder: Path, lines: list[object], out: str = "out.jsonl") -> tuple[list[dict], Summary]:
    """What OUT holds for these lines, in the order of their numbers, and the summary."""
    with BatchFile(write(folder / "in.jsonl", lines), folder / out) as batch:
        summary = batch.run(llm, ("tiny",), SETTINGS)
    return sorted(read(folder / out), key=lambda record: int(record["id"].removeprefix("batch_req_"))), summary


def error_of(record: dict) -> str:
    assert record["error"] is None
    assert record["response"]["status_code"] in (400, 404, 500)
    return record["response"]["body"]["error"]["message"]


def text_of(record: dict) -> str:
    assert record["response"]["status_code"] == 200, record
    choice = record["response"]["body"]["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


def test_a_chat_is_answered_as_the_api_would(llm: LLM, tmp_path: Path) -> None:
    (record,), summary = answered(llm, tmp_path, [chat("a", max_tokens=5)])
    expected = llm.generate([{"role": "user", "content": "Hi"}], max_new_tokens=5)
    response = record.pop("response")
    assert record == {"id": "batch_req_1", "custom_id": "a", "error": None}
    body = response["body"]
    assert (response["status_code"], response["request_id"][:4]) == (200, "req_")
    assert body.pop("id").startswith("chatcmpl-")
    assert abs(body.pop("created") - time.time()) < 60
    num_prompt = expected.usage.prompt_tokens
    assert body == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": expected.text},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": 5,
            "total_tokens": num_prompt + 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }
    assert summary == Summary(answered=1, prompt_tokens=num_prompt, completion_tokens=5)


def test_plain_prompts_and_settings(llm: LLM, tmp_path: Path) -> None:
    stop = llm.generate("Hi", max_new_tokens=30).text[6:8]
    records, _ = answered(
        llm,
        tmp_path,
        [
            plain("text"),
            plain("ids", list(b"Hi")),
            plain("sampled", temperature=1.5, top_p=0.9, top_k=40, min_p=0.01, seed=3, repetition_penalty=1.1),
            plain("again", temperature=1.5, top_p=0.9, top_k=40, min_p=0.01, seed=3, repetition_penalty=1.1),
            plain("stopped", max_tokens=30, stop=[stop, "never"]),
            plain("default", max_tokens=None, stop=None, temperature=0),
            plain("nothing asked for", n=1, best_of=1, stream=False, echo=False, presence_penalty=0.0, user="me"),
            chat("parts", messages=[{"role": "user", "content": [{"type": "text", "text": part} for part in "Hi"]}]),
            chat("newer", max_tokens=None, max_completion_tokens=8, tools=[], response_format={"type": "text"}),
            chat("named", model="tiny"),
        ],
    )  # fmt: skip
    texts = {record["custom_id"]: text_of(record) for record in records}
    hi = llm.generate("Hi", max_new_tokens=8).text
    assert texts["text"] == texts["ids"] == texts["default"] == texts["nothing asked for"] == hi
    assert texts["sampled"] == texts["again"] != hi
    assert texts["stopped"] == llm.generate("Hi", max_new_tokens=30, stop=stop).text
    assert texts["parts"] == texts["newer"] == texts["named"]
    reasons = {record["custom_id"]: record["response"]["body"]["choices"][0]["finish_reason"] for record in records}
    assert reasons["stopped"] == "stop"
    assert reasons["text"] == "length"


def test_logprobs(llm: LLM, tmp_path: Path) -> None:
    (record,), _ = answered(llm, tmp_path, [chat("a", logprobs=True, max_tokens=6)])
    result = llm.generate([{"role": "user", "content": "Hi"}], max_new_tokens=6, logprobs=True)
    content = record["response"]["body"]["choices"][0]["logprobs"]["content"]
    assert [entry["logprob"] for entry in content] == pytest.approx([each.logprob for each in result.logprobs or ()])
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode(errors="replace") == result.text
    assert content[0].keys() == {"token", "logprob", "bytes", "top_logprobs"}


def choices_of(record: dict) -> list[dict]:
    assert record["response"]["status_code"] == 200, record
    return record["response"]["body"]["choices"]


def test_several_texts(llm: LLM, tmp_path: Path) -> None:
    sampled = {"n": 3, "temperature": 1.0, "seed": 5}
    beams = {"num_beams": 3, "num_return_sequences": 2}
    chats, plains, beamed = answered(
        llm, tmp_path, [chat("a", **sampled), plain("b", best_of=3, **sampled), plain("c", **beams)]
    )[0]
    hi = [{"role": "user", "content": "Hi"}]
    expected = [choice.text for choice in llm.generate(hi, max_new_tokens=8, **sampled).choices]
    assert [choice["message"]["content"] for choice in choices_of(chats)] == expected
    expected = [choice.text for choice in llm.generate("Hi", max_new_tokens=8, **sampled).choices]
    assert [choice["text"] for choice in choices_of(plains)] == expected
    assert [choice["index"] for choice in choices_of(plains)] == [0, 1, 2]
    expected = [choice.text for choice in llm.generate("Hi", max_new_tokens=8, **beams).choices]
    assert [choice["text"] for choice in choices_of(beamed)] == expected


def test_forms(llm: LLM, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    named = {"name": "answer", "schema": {**schema, "additionalProperties": False}}
    records, _ = answered(
        llm,
        tmp_path,
        [
            chat("schema", response_format={"type": "json_schema", "json_schema": named}, max_tokens=300),
            chat("object", response_format={"type": "json_object"}, logit_bias={str(ord("}")): 90}, max_tokens=90),
            plain("regex", regex="a{5}"),
            plain("grammar", grammar="start: /b{5}/"),
            plain("lark", lark="start: /c{5}/"),
            plain("choices", choices=["yes", "no"]),
        ],
    )
    texts = {record["custom_id"]: text_of(record) for record in records}
    assert json.loads(texts["schema"]).keys() == {"on"}
    assert json.loads(texts["object"]) == {}
    assert (texts["regex"], texts["grammar"], texts["lark"]) == ("aaaaa", "bbbbb", "ccccc")
    assert texts["choices"] in {"yes", "no"}


def test_tools(llm: LLM, tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"city": {"enum": ["here"]}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    past = [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "rain"}]},
    ]
    asked = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300}
    first, later = answered(llm, tmp_path, [chat("a", **asked), chat("b", messages=past, **asked)])[0]
    for record in (first, later):
        (choice,) = choices_of(record)
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        assert (call["type"], call["function"]["name"]) == ("function", "weather")
        assert json.loads(call["function"]["arguments"]) == {"city": "here"}
    plainly = [{**past[0], "role": "system"}, *past[1:-1], {**past[-1], "content": "rain"}]
    expected = llm.generate(plainly, tools=tools, max_new_tokens=0).usage
    assert later["response"]["body"]["usage"]["prompt_tokens"] == expected.prompt_tokens


def test_logprobs_of_completions(llm: LLM, tmp_path: Path) -> None:
    record, echoed = answered(llm, tmp_path, [plain("a", logprobs=2), plain("b", logprobs=2, echo=True)])[0]
    result = llm.generate("Hi", max_new_tokens=8, logprobs=True, top_logprobs=2, prompt_logprobs=2)
    told = choices_of(record)[0]["logprobs"]
    assert result.logprobs is not None
    assert told["token_logprobs"] == pytest.approx([each.logprob for each in result.logprobs])
    assert [max(top.values()) for top in told["top_logprobs"]] == pytest.approx(
        [each.top[0][1] for each in result.logprobs]
    )
    assert told["text_offset"] == sorted(told["text_offset"])
    assert choices_of(echoed)[0]["text"] == "Hi" + result.text
    both = choices_of(echoed)[0]["logprobs"]
    assert both["tokens"][:2] == ["H", "i"]
    assert both["token_logprobs"][0] is None
    assert both["token_logprobs"][2:] == pytest.approx(told["token_logprobs"])


def test_settings_are_for_lines_that_do_not_say(llm: LLM, tmp_path: Path) -> None:
    settings = Settings(options={"max_new_tokens": 8, "choices": ["yes"], "logprobs": True, "top_logprobs": 1})
    lines: list[object] = [chat("a"), chat("b", choices=["no"], logprobs=False, n=2)]
    with BatchFile(write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl") as batch:
        batch.run(llm, ("tiny",), settings)
    one, two = sorted(read(tmp_path / "out.jsonl"), key=lambda record: record["id"])
    assert (text_of(one), text_of(two)) == ("yes", "no")
    assert [len(entry["top_logprobs"]) for entry in choices_of(one)[0]["logprobs"]["content"]][:3] == [1, 1, 1]
    assert [choice["logprobs"] for choice in choices_of(two)] == [None, None]


BAD_LINES: list[tuple[object, str, object]] = [
    (b"{", "the line is not JSON", None),
    (b"\xff{}", "the line is not UTF-8 (byte 0)", None),
    (b"[]", "the line is not a JSON object", None),
    (b"[" * 100_000, "the line is not JSON", None),
    ({}, "custom_id must be a string", None),
    (line(5, "/v1/completions", {}), "custom_id must be a string", None),
    (line("", "/v1/completions", {}), "custom_id must be a string", None),
    ({**chat("x"), "extra": 1}, "'extra' is no field of a batch line", "x"),
    ({**chat("x"), "method": "GET"}, "method 'GET': must be 'POST'", "x"),
    (line("x", "/v1/audio/speech", {}), "url '/v1/audio/speech': must be one of /v1/chat/completions, /v1/", "x"),
    (line("x", "/v1/embeddings", {"input": "a"}), "this model writes text and gives no embeddings", "x"),
    (line("x", "/v1/completions", []), "body must be a JSON object", "x"),
    (chat("x", model="gpt-4o"), "model 'gpt-4o': this file is answered by 'tiny'", "x"),
    (chat("x", model=5), "model 5:", "x"),
    (chat("x", n=0), "n=0: must be at least 1", "x"),
    (chat("x", n="2"), "n='2': must be a whole number", "x"),
    (chat("x", stream=True), "stream=true is not supported", "x"),
    (chat("x", presence_penalty="much"), "presence_penalty='much': must be a number", "x"),
    (chat("x", logit_bias={"a": 1}), "logit_bias maps token ids", "x"),
    (chat("x", logit_bias={"9999": 1}), "logit_bias: token id 9999 is outside the vocabulary", "x"),
    (chat("x", tools=[{"type": "function"}]), "tools[0].function is missing", "x"),
    (chat("x", tool_choice="required"), "tool_choice='required' needs tools", "x"),
    (chat("x", response_format={"type": "xml"}), "response_format={\"type\": \"xml\"}: input tag 'xml' found", "x"),
    (chat("x", response_format={"type": "json_schema"}), "response_format.json_schema is missing", "x"),
    (chat("x", regex="("), "regex", "x"),
    (chat("x", regex="a", choices=["b"]), "regex and choices cannot be had together", "x"),
    (chat("x", top_logprobs=3), "top_logprobs=3 needs logprobs=True", "x"),
    (chat("x", logprobs=3), "logprobs=3: must be a valid boolean", "x"),
    (chat("x", echo=True), "echo is not supported", "x"),
    (chat("x", prompt_logprobs=1), "prompt_logprobs is not supported", "x"),
    (chat("x", chat_template_kwargs=1), "chat_template_kwargs=1: must be a valid dictionary", "x"),
    (chat("x", chat_template_kwargs={"messages": 1}), "'messages' cannot be set", "x"),
    (chat("x", num_beams=2, stop="a"), "stop_strings cannot be had with num_beams above 1", "x"),
    (plain("x", tools=[{}]), "tools is not supported", "x"),
    (plain("x", response_format={"type": "json_object"}), "response_format is not supported", "x"),
    (chat("x", temprature=1), "temprature is not supported", "x"),
    (chat("x", prompt="a"), "prompt is not supported", "x"),
    (plain("x", logprobs=True), "logprobs=true: must be a valid integer", "x"),
    (plain("x", logprobs=-1), "logprobs=-1: must be greater than or equal to 0", "x"),
    (plain("x", top_logprobs=2), "top_logprobs is not supported", "x"),
    (plain("x", suffix="end"), "suffix is not supported", "x"),
    (plain("x", best_of=3), "best_of=3: must equal n", "x"),
    (chat("x", max_tokens=-2), "max_tokens=-2: must be greater than or equal to -1", "x"),
    (chat("x", max_tokens=1.5), "max_tokens=1.5: must be a valid integer", "x"),
    (chat("x", max_tokens=True), "max_tokens=true: must be a valid integer", "x"),
    (chat("x", max_completion_tokens=9), "max_tokens and max_completion_tokens differ", "x"),
    (chat("x", temperature="hot"), "temperature='hot': must be a number", "x"),
    (chat("x", temperature=-1), "temperature=-1: must be above 0", "x"),
    (chat("x", top_p=7), "top_p=7: must be above 0 and at most 1", "x"),
    (chat("x", seed=-2), "rng_seed=-2: must be between", "x"),
    (chat("x", stop=[""]), "stop_strings=['']: every one is a non-empty string", "x"),
    (chat("x", stop={"a": 1}), "stop_strings={'a': 1}: must be a string or a list", "x"),
    (chat("x", messages=[]), "messages=[]: list must have at least 1 item", "x"),
    (chat("x", messages="Hi"), "messages=\"Hi\": must be a valid list", "x"),
    (chat("x", messages=["Hi"]), "messages[0]=\"Hi\": must be a valid dictionary", "x"),
    (chat("x", messages=[{"role": "user"}]), "messages[0].content is missing", "x"),
    (chat("x", messages=[{"role": "user", "content": 5}]), "messages[0].content=5: must be a valid string or", "x"),
    (
        chat("x", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        "messages[0].content[0]: this model reads text only",
        "x",
    ),
    (plain("x", ["a", "b"]), "prompt: a line has one", "x"),
    (plain("x", None), "prompt is missing", "x"),
    (plain("x", ""), "the prompt has no tokens", "x"),
    (plain("x", [VOCAB_SIZE]), f"token id {VOCAB_SIZE} is outside the vocabulary", "x"),
    (plain("x", "a" * 2100), "the prompt has 2100 tokens; at most 1999 leave room", "x"),
    (plain("x", "\ud800"), "lone surrogate", "x"),
]  # fmt: skip


def test_bad_lines_are_answered_with_what_is_wrong_and_the_others_as_ever(llm: LLM, tmp_path: Path) -> None:
    lines: list[object] = []
    for number, (bad, _, _) in enumerate(BAD_LINES):
        lines += [
            {**bad, "custom_id": f"bad {number}"} if isinstance(bad, dict) and bad.get("custom_id") == "x" else bad
        ]
        lines += [plain(f"good {number}", max_tokens=2)]
    records, summary = answered(llm, tmp_path, lines)
    assert len(records) == len(lines)
    assert (summary.answered, summary.failed) == (len(lines), len(BAD_LINES))
    for number, (_, message, custom_id) in enumerate(BAD_LINES):
        bad, good = records[2 * number : 2 * number + 2]
        assert message in error_of(bad)
        assert bad["custom_id"] == (f"bad {number}" if custom_id == "x" else None)
        assert bad["response"]["status_code"] == (404 if "answered by" in message or "model 5" in message else 400)
        assert good["custom_id"] == f"good {number}"
        assert text_of(good)


@pytest.mark.parametrize("field", ["top_k", "json_schema", "stream", "colour"])
def test_a_line_of_any_depth_is_answered(llm: LLM, tmp_path: Path, field: str) -> None:
    lines: list[object] = []
    for depth in range(880, 1010):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        lines.append(json.dumps(plain(f"{depth}", **{field: "DEEP"})).encode().replace(b'"DEEP"', deep))
    records, summary = answered(llm, tmp_path, lines)
    assert len(records) == summary.failed == len(lines)
    assert {record["response"]["status_code"] for record in records} == {400}


def test_errors_say_which_field(llm: LLM, tmp_path: Path) -> None:
    records, _ = answered(llm, tmp_path, [chat("a", n=0.5), plain("b", "a" * 2100), chat("c", model="x")])
    errors = [record["response"]["body"]["error"] for record in records]
    assert [(error["param"], error["code"], error["type"]) for error in errors] == [
        ("n", None, "invalid_request_error"),
        (None, "context_length_exceeded", "invalid_request_error"),
        ("model", "model_not_found", "invalid_request_error"),
    ]


def test_a_line_without_end_a_bom_blank_lines_and_windows_lines(llm: LLM, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    texts = [json.dumps(plain(name)).encode() for name in "abc"]
    source.write_bytes(b"\xef\xbb\xbf" + texts[0] + b"\r\n\r\n  \n" + texts[1] + b"\n" + texts[2])
    with BatchFile(source, tmp_path / "out.jsonl") as batch:
        assert batch.num_requests == 3
        batch.run(llm, ("tiny",), SETTINGS)
    assert {(record["id"], record["custom_id"]) for record in read(tmp_path / "out.jsonl")} == {
        ("batch_req_1", "a"), ("batch_req_4", "b"), ("batch_req_5", "c")
    }  # fmt: skip


@pytest.mark.parametrize("length", [50, 51, 99, 100, 101, 250])
def test_a_line_too_long_to_hold_is_answered_with_an_error(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(batch_file, "MAX_LINE_BYTES", 50)
    for end in (b"\n", b""):
        source = tmp_path / "in.jsonl"
        source.write_bytes(b"x\n" + b"y" * length + b"\nz\n" + b"w" * length + end)
        out = tmp_path / f"out{len(end)}.jsonl"
        with BatchFile(source, out) as batch:
            assert batch.num_requests == 4
            batch.run(llm, ("tiny",), SETTINGS)
        is_long = ["longer than 50 bytes" in error_of(record) for record in read(out)]
        assert is_long == [False, length > 50, False, length > 50]


def test_names_of_any_letters_come_back_as_they_were(llm: LLM, tmp_path: Path) -> None:
    names = ["ü🙂", "a\nb", "\u2028", "\ud800", "x" * 10_000, "null"]
    records, _ = answered(llm, tmp_path, [plain(name) for name in names])
    assert [record["custom_id"] for record in records] == names
    _, summary = answered(llm, tmp_path, [plain(name) for name in names])
    assert summary == Summary(skipped=len(names))


def test_more_requests_than_the_engine_holds_and_no_more_in_it_than_it_needs(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, most = llm.engine.submit, [0]

    def counting(request: object) -> object:
        sequence = submit(request)  # type: ignore[arg-type]
        most[0] = max(most[0], llm.engine.num_waiting + len(llm.engine.running))
        return sequence

    monkeypatch.setattr(llm.engine, "submit", counting)
    rng = random.Random(0)
    lines: list[object] = [plain(f"{n}", f"{n}", max_tokens=rng.randint(1, 40)) for n in range(60)]
    records, summary = answered(llm, tmp_path, lines)
    assert most[0] == 2 * CONFIG.max_batch
    monkeypatch.undo()
    for record, asked in zip(records, lines, strict=True):
        assert isinstance(asked, dict)
        body = asked["body"]
        assert text_of(record) == llm.generate(body["prompt"], max_new_tokens=body["max_tokens"]).text
    assert summary.completion_tokens == sum(asked["body"]["max_tokens"] for asked in lines)  # type: ignore[index]


def test_a_batch_goes_on_from_any_byte_at_which_it_was_cut(llm: LLM, tmp_path: Path) -> None:
    lines: list[object] = [plain(f"{n}", f"{n}", max_tokens=3) if n % 4 else b"bad line" for n in range(12)]
    whole, _ = answered(llm, tmp_path, lines, "whole.jsonl")
    data = (tmp_path / "whole.jsonl").read_bytes()
    rng = random.Random(0)
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for cut in [0, 1, *ends, *(end - 1 for end in ends), *(rng.randrange(len(data)) for _ in range(20))]:
        (tmp_path / "out.jsonl").write_bytes(data[:cut])
        records, summary = answered(llm, tmp_path, lines)
        assert [record["custom_id"] for record in records] == [record["custom_id"] for record in whole]
        assert [record["response"]["body"].get("choices") for record in records] == [
            record["response"]["body"].get("choices") for record in whole
        ]
        assert summary.skipped == sum(end <= cut for end in ends)
        assert summary.answered == 12 - summary.skipped


def test_progress_counts_what_was_there(llm: LLM, tmp_path: Path) -> None:
    answered(llm, tmp_path, [plain("a")])
    seen: list[tuple[str, int, int]] = []
    lines: list[object] = [plain("a"), plain("b"), b"bad", plain("c")]
    with BatchFile(write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl") as batch:
        batch.run(llm, ("tiny",), SETTINGS, lambda *report: seen.append(report))
    assert {label for label, _, _ in seen} == {"requests"}
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == ("requests", 4, 4)


def test_a_file_larger_than_memory_would_do(llm: LLM, tmp_path: Path) -> None:
    lines: list[object] = [chat(f"{n}", "a" * 10_000, temperature="hot") for n in range(1500)]
    write(tmp_path / "in.jsonl", lines)
    del lines
    tracemalloc.start()
    try:
        with BatchFile(tmp_path / "in.jsonl", tmp_path / "out.jsonl") as batch:
            assert batch.run(llm, ("tiny",), SETTINGS).failed == 1500
        assert tracemalloc.get_traced_memory()[1] < 3e6, "of 15 MB"
    finally:
        tracemalloc.stop()


def test_lines_may_be_added_to_a_batch_that_is_done(llm: LLM, tmp_path: Path) -> None:
    lines: list[object] = [plain("a"), plain("b")]
    answered(llm, tmp_path, lines)
    records, summary = answered(llm, tmp_path, [plain("c"), *lines])
    assert {record["custom_id"] for record in records} == {"a", "b", "c"}
    assert (summary.answered, summary.skipped) == (1, 2)


def test_a_failed_run_answers_its_lines_with_500(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, count = llm._runner._session.run, [0]

    def fail_once(binding: object) -> None:
        count[0] += 1
        if count[0] == 12:
            raise GraphRunError("ONNX Runtime failed: out of luck")
        run(binding)  # type: ignore[arg-type]

    monkeypatch.setattr(llm._runner._session, "run", fail_once)
    records, summary = answered(llm, tmp_path, [plain(f"{n}", max_tokens=12) for n in range(8)])
    failed = [record for record in records if record["response"]["status_code"] == 500]
    assert 0 < len(failed) == summary.failed < 8
    assert {error_of(record) for record in failed} == {"ONNX Runtime failed: out of luck"}
    assert failed[0]["response"]["body"]["error"]["type"] == "server_error"


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [plain("a")])
    with BatchFile(source, tmp_path / "out.jsonl"), pytest.raises(ConfigError, match="written by another process"):
        BatchFile(source, tmp_path / "out.jsonl")
    BatchFile(source, tmp_path / "out.jsonl").close()


def test_a_full_disk_is_one_clear_error_and_the_batch_goes_on_later(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[object] = [plain(f"{n}") for n in range(9)]
    fsync, count = os.fsync, [0]

    def full(descriptor: int) -> None:
        count[0] += 1
        if count[0] > 1:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - 7)
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot write .*out\.jsonl: No space left on device"):
        answered(llm, tmp_path, lines)
    assert not llm.engine.has_work, "nothing goes on in the engine"
    monkeypatch.undo()
    records, summary = answered(llm, tmp_path, lines)
    assert [record["custom_id"] for record in records] == [f"{n}" for n in range(9)]
    assert 0 < summary.skipped < 9


# The command


def command(run_genai: Genai, folder: Path, package: Path, *arguments: object) -> Outcome:
    return run_genai(
        "generate-file", folder / "in.jsonl", folder / "out.jsonl", "--model", package, "--threads", 1, *arguments
    )


def test_the_command_answers_and_sums_up(run_genai: Genai, package: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [plain("a"), chat("b", n=0), plain("c", max_tokens=None, model="tiny")])
    outcome = command(run_genai, tmp_path, package, "-n", 5, "--max-batch", 2)
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("3 of 3 requests answered in ")
    assert ", 1 of them with an error; 13 tokens, " in outcome.err
    assert outcome.err.count("\n") == 1
    again = command(run_genai, tmp_path, package, "--json")
    numbers = json.loads(again.out)
    assert numbers.pop("seconds") < 5
    assert numbers == {"answered": 0, "failed": 0, "skipped": 3, "prompt_tokens": 0, "completion_tokens": 0}
    assert again.err == ""
    write(tmp_path / "in.jsonl", [plain("a"), plain("d")])
    assert ", 1 were answered before; 8 tokens" in command(run_genai, tmp_path, package).err


def test_the_commands_options_are_for_lines_that_do_not_say(run_genai: Genai, package: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [plain("a", max_tokens=None), plain("b", choices=["no"])])
    arguments = ("--choice", "yes", "--n", 2, "--draft", package, "-n", 9)
    outcome = command(run_genai, tmp_path, package, *arguments)
    assert outcome.code == 0, outcome.err
    records = read(tmp_path / "out.jsonl")
    assert {record["custom_id"]: [choice["text"] for choice in choices_of(record)] for record in records} == {
        "a": ["yes", "yes"],
        "b": ["no", "no"],
    }
    write(tmp_path / "in.jsonl", [plain("c")])
    outcome = command(run_genai, tmp_path, package, "--set", "top_p=2")
    assert "--set top_p: write --top-p" in outcome.err
    outcome = command(run_genai, tmp_path, package, "--set", "fly=2")
    assert (outcome.code, "unknown generation option 'fly'" in outcome.err) == (2, True)


def test_an_empty_file_has_an_empty_answer(run_genai: Genai, package: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [])
    assert command(run_genai, tmp_path, package).code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_bad_input_is_one_line_and_exit_code_2(run_genai: Genai, package: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = write(source, [plain("a")])
    twice = write(tmp_path / "twice.jsonl", [plain("a"), b"", b"oops", plain("b"), plain("a")])
    foreign = write(tmp_path / "foreign.jsonl", [{"some": "other file"}])
    cases: list[tuple[list[object], str]] = [
        ([tmp_path / "none.jsonl", target], "none.jsonl: No such file or directory"),
        ([tmp_path, target], "is not a file"),
        (["/dev/null", target], "is not a file"),
        ([good, tmp_path], "is not a file"),
        ([good, good], "answers cannot be written over the requests"),
        ([good, tmp_path / "no" / "out.jsonl"], "out.jsonl: No such file or directory"),
        ([twice, target], "twice.jsonl line 5: custom_id 'a' is on line 1 too; every request needs its own"),
        ([good, foreign], "foreign.jsonl line 1 is no answer of a batch; name another file, or remove it"),
    ]
    for paths, message in cases:
        outcome = run_genai("generate-file", *paths, "--model", package)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("genai: ")
        assert outcome.err.count("\n") == 1
        assert message in outcome.err
    assert foreign.read_text() == '{"some": "other file"}\n'
    assert not target.exists()
    assert "Missing option '--model'" in run_genai("generate-file", good, target).err
    assert "no model 'nothing'" in run_genai("generate-file", good, target, "--model", "nothing").err
    assert "'--max-batch'" in run_genai("generate-file", good, target, "--model", package, "--max-batch", 0).err


GENAI = [sys.executable, "-c", "from genai.cli.main import main; main()"]


def start(folder: Path, package: Path) -> subprocess.Popen[bytes]:
    arguments = ["generate-file", str(folder / "in.jsonl"), str(folder / "out.jsonl"), "--model", str(package)]
    return subprocess.Popen(
        [*GENAI, *arguments, "--threads", "1", "--device", "cpu"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.long
@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_again_and_again_a_batch_is_finished_without_repeating_or_losing_a_line(
    llm: LLM, package: Path, tmp_path: Path, killer: signal.Signals
) -> None:
    rng = random.Random(killer)
    lines: list[object] = [plain(f"{n}", f"text {n}", max_tokens=rng.randint(100, 400)) for n in range(60)]
    lines[7] = b"this is no JSON"
    write(tmp_path / "in.jsonl", lines)
    out = tmp_path / "out.jsonl"
    for seen in (5, 25) if killer == signal.SIGKILL else (10,):
        process = start(tmp_path, package)
        deadline = time.monotonic() + 60
        while num_lines(out) < seen and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(killer)
        _, err = process.communicate(timeout=30)
        assert process.returncode == (130 if killer == signal.SIGINT else -killer)
        assert err == b""
        assert seen <= num_lines(out) < 60, "it was under way"
    if killer == signal.SIGKILL:  # as if the last write had been cut short
        with out.open("ab") as file:
            file.write(b'{"id": "batch_req_59", "custom_id": "58", "resp')
    process = start(tmp_path, package)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    records = read(out)
    assert sorted(record["id"] for record in records) == sorted(f"batch_req_{n + 1}" for n in range(60))
    assert "the line is not JSON" in error_of(next(record for record in records if record["custom_id"] is None))
    for record in records[::6]:
        if record["custom_id"] is not None:
            usage = record["response"]["body"]["usage"]
            expected = llm.generate(f"text {record['custom_id']}", max_new_tokens=usage["completion_tokens"])
            assert text_of(record) == expected.text


def test_a_model_that_is_closed_in_between_leaves_the_rest_for_another_time(package: Path, tmp_path: Path) -> None:
    """As by a handler of signals: what would be written as failed would never be tried again."""
    source, target = write(tmp_path / "in", [plain(n, max_tokens=100) for n in map(str, range(30))]), tmp_path / "out"
    with LLM(package, CONFIG) as llm, BatchFile(source, target) as batch:

        def close(label: str, done: int, total: int) -> None:
            llm.close()

        with pytest.raises(ConfigError, match="the model was closed in between"):
            batch.run(llm, ("tiny",), SETTINGS, close)
    assert read(target)
    assert {record["response"]["status_code"] for record in read(target)} == {200}
