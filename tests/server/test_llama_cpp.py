"""llama.cpp's own paths."""

from __future__ import annotations

import json

import pytest

from tests.server.fakes import FakeModel, app_with, choice, chunk, generation, said, serving
from tests.tiny_package import BEGIN_ID, END_ID

pytestmark = pytest.mark.anyio


async def test_completion() -> None:
    model = FakeModel()
    model.will_say(*said("one ", "two", finish_reason="length"))
    async with serving(app_with(model)) as http:
        body = {"prompt": "Count", "n_predict": 2, "temperature": 0, "repeat_penalty": 1.2, "cache_prompt": True}
        answer = (await http.post("/completion", json=body | {"return_tokens": True})).json()
    assert (answer["content"], answer["stop"], answer["stop_type"]) == ("one two", True, "limit")
    assert (answer["tokens"], answer["tokens_predicted"], answer["tokens_evaluated"]) == ([*b"one two"], 7, 7)
    assert answer["generation_settings"] == {"n_ctx": 64}
    assert answer["timings"]["predicted_n"] == 7
    (submission,) = model.submissions
    assert submission.prompt == "Count"
    assert submission.options["max_new_tokens"] == 2
    assert submission.options["repetition_penalty"] == 1.2


async def test_no_limit_unless_there_is_one() -> None:
    model = FakeModel()
    async with serving(app_with(model)) as http:
        for body in ({}, {"n_predict": -1}):
            model.will_say(*said("x"))
            assert (await http.post("/completion", json={"prompt": "a", **body})).status_code == 200
    assert [submission.options["max_new_tokens"] in (None, -1) for submission in model.submissions] == [True, True]


async def test_several_prompts() -> None:
    model = FakeModel()
    model.will_say(*said("b"))
    model.will_say(*said("d"))
    async with serving(app_with(model)) as http:
        answers = (await http.post("/completion", json={"prompt": ["a", "c"]})).json()
    assert [(each["index"], each["content"]) for each in answers] == [(0, "b"), (1, "d")]


async def test_a_stop_string_is_told() -> None:
    model = FakeModel()
    stopped = choice("one", stop_string="two")
    model.will_say(chunk("one", finish_reason="stop", result=generation(stopped)))
    async with serving(app_with(model)) as http:
        answer = (await http.post("/completion", json={"prompt": "a", "stop": ["two"]})).json()
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", "two")


async def test_a_stream_ends_with_its_counts() -> None:
    model = FakeModel()
    model.will_say(*said("one ", "two"))
    async with serving(app_with(model)) as http:
        answer = await http.post("/completion", json={"prompt": "a", "stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert [(each["content"], each["stop"]) for each in events] == [("one ", False), ("two", False), ("", True)]
    assert (events[-1]["stop_type"], events[-1]["tokens_predicted"]) == ("eos", 7)


async def test_grammars() -> None:
    model = FakeModel()
    async with serving(app_with(model)) as http:
        for body in ({"grammar": 'root ::= "yes" | "no"'}, {"json_schema": {"type": "object"}}):
            model.will_say(*said("yes"))
            assert (await http.post("/completion", json={"prompt": "a", **body})).status_code == 200
        wrong = await http.post("/completion", json={"prompt": "a", "grammar": 'root ::= "yes'})
    gbnf, schema = model.submissions
    assert 'start: "yes"' in str(gbnf.options["lark"])
    assert schema.options["json_schema"] == {"type": "object"}
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "grammar")


async def test_a_gap_needs_a_model_that_was_taught() -> None:
    body = {"input_prefix": "def f():\n", "input_suffix": "    return x\n"}
    async with serving(app_with(FakeModel())) as http:
        answer = await http.post("/infill", json=body)
    assert answer.status_code == 400
    assert "was not taught to fill in the middle" in answer.json()["error"]["message"]


async def test_a_gap() -> None:
    model = FakeModel()
    marks = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]
    tokenizer = model.llm.tokenizer
    tokenizer.backend.add_special_tokens(marks)
    prefix, suffix, middle = (tokenizer.token_to_id(mark) for mark in marks)
    model.will_say(*said("x = 1"))
    async with serving(app_with(model)) as http:
        body = {"input_prefix": "ab", "input_suffix": "cd", "prompt": "x", "input_extra": [{"text": "other"}]}
        answer = await http.post("/infill", json=body)
    assert answer.json()["content"] == "x = 1"
    (submission,) = model.submissions
    assert submission.prompt == [*b"other\n\n", prefix, *b"ab", suffix, *b"cd", middle, *b"x"]
    assert prefix in list(submission.options["stop_token_ids"])  # type: ignore[call-overload]


@pytest.mark.parametrize("more", [{"echo": True}, {"n": 2}])
async def test_what_its_answers_cannot_tell_is_refused(more: dict[str, object]) -> None:
    async with serving(app_with(FakeModel())) as http:
        answer = await http.post("/completion", json={"prompt": "a", **more})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(more)))


async def test_a_template_is_that_of_the_model_that_is_named() -> None:
    async with serving(app_with(FakeModel())) as http:
        messages = [{"role": "user", "content": "Hi"}]
        for model, status in (("fake", 200), ("other", 404)):
            answer = await http.post("/apply-template", json={"model": model, "messages": messages})
            assert answer.status_code == status


async def test_what_a_model_is() -> None:
    async with serving(app_with(FakeModel())) as http:
        props = (await http.get("/props")).json()
        slots = (await http.get("/slots")).json()
        text = await http.post("/apply-template", json={"messages": [{"role": "user", "content": "Hi"}]})
    assert (props["total_slots"], props["model_alias"], props["bos_token"]) == (len(slots), "fake", "<|begin|>")
    assert props["default_generation_settings"]["n_ctx"] == 64
    assert "message.role" in props["chat_template"]
    assert slots[0] == {"id": 0, "n_ctx": 64, "is_processing": True, "n_past": 40}
    assert not any(slot["is_processing"] for slot in slots[1:])
    assert text.json() == {"prompt": "<|begin|>user\nHi<|end|><|begin|>assistant\n"}
    assert (BEGIN_ID, END_ID) == (256, 257)
