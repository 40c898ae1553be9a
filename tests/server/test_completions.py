"""`/v1/completions` over a scripted model."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest

from genai.decoding.logprobs import TokenLogprob
from genai.errors import CapacityError, QueueFullError
from tests.server.fakes import FakeModel, app_with, choice, chunk, generation, said, serving
from tests.tiny_package import END_ID

pytestmark = pytest.mark.anyio


async def ask(model: FakeModel, **body: object) -> httpx.Response:
    async with serving(app_with(model)) as http:
        return await http.post("/v1/completions", json={"model": "fake", **body})


def events_of(answer: httpx.Response) -> list[dict[str, object]]:
    lines = answer.text.removesuffix("\n\n").split("\n\n")
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_a_whole_text() -> None:
    model = FakeModel()
    model.will_say(*said("Hel", "lo"))
    body = (await ask(model, prompt="Hi")).json()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}]
    assert model.submissions[0].prompt == "Hi"
    assert model.submissions[0].options == {"max_new_tokens": 16}


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
async def test_forms_of_prompts(prompt: object, prompts: list[object]) -> None:
    model = FakeModel()
    for each in range(len(prompts)):
        model.will_say(*said(f"text {each}"))
    body = (await ask(model, prompt=prompt)).json()
    assert [submission.prompt for submission in model.submissions] == prompts
    assert [each["text"] for each in body["choices"]] == [f"text {each}" for each in range(len(prompts))]
    assert [each["index"] for each in body["choices"]] == list(range(len(prompts)))
    assert body["usage"]["prompt_tokens"] == 7 * len(prompts)


@pytest.mark.parametrize("prompt", [[], [[]], ["a", 1], [1, "a"], [1.5], [-1], [[1], "a"], [[["a"]]], None, 5, {}])
async def test_other_forms_are_refused(prompt: object) -> None:
    answer = await ask(FakeModel(), prompt=prompt)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("prompt")


async def test_streamed_prompts_and_choices_are_told_apart() -> None:
    model = FakeModel()
    for name in ("p", "q"):
        whole = generation(choice(f"{name}0"), choice(f"{name}1", 1))
        model.will_say(
            chunk(f"{name}0"),
            chunk(f"{name}1", index=1, finish_reason="stop"),
            chunk(finish_reason="stop", result=whole),
        )
    answer = await ask(model, prompt=["a", "b"], n=2, stream=True, stream_options={"include_usage": True})
    events = events_of(answer)
    texts = dict.fromkeys(range(4), "")
    for event in events[:-1]:
        for told in event["choices"]:
            texts[told["index"]] += told["text"]
    assert texts == {0: "p0", 1: "p1", 2: "q0", 3: "q1"}
    assert sum(told["finish_reason"] == "stop" for event in events for told in event["choices"]) == 4
    assert events[-1]["usage"]["completion_tokens"] == 8


async def test_if_one_prompt_is_refused_none_runs() -> None:
    for error, status, param in ((QueueFullError("full"), 429, None), (CapacityError("9 > 8"), 400, "prompt")):
        model = FakeModel()
        model.will_say(*said("a"))
        model.will_refuse(error)
        answer = await ask(model, prompt=["a", "b"])
        assert answer.status_code == status
        assert answer.json()["error"]["param"] == param
        assert model.submissions[0].is_cancelled.is_set()


async def test_too_many_texts() -> None:
    answer = await ask(FakeModel(), prompt=["a"] * 17, n=2)
    assert answer.status_code == 400
    assert "34 texts" in answer.json()["error"]["message"]


ENTRIES = (
    TokenLogprob(token_id=0xC3, logprob=-1.0, top=((0xC3, -1.0), (ord("a"), -2.0))),
    TokenLogprob(token_id=0xA9, logprob=-1.5, top=((0xA9, -1.5),)),
    TokenLogprob(token_id=ord("a"), logprob=-0.5, top=((ord("a"), -0.5),)),
)
END = TokenLogprob(token_id=END_ID, logprob=-2.0, top=())


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs(stream: bool) -> None:
    model = FakeModel()
    whole = generation(choice("éa", logprobs=ENTRIES))
    model.will_say(*(chunk(logprobs=(entry,)) for entry in ENTRIES), chunk("éa", finish_reason="stop", result=whole))
    answer = await ask(model, prompt="x", logprobs=2, stream=stream)
    assert model.submissions[0].options == {"max_new_tokens": 16, "logprobs": True, "top_logprobs": 2}
    if stream:
        parts = [event["choices"][0]["logprobs"] for event in events_of(answer) if event["choices"][0]["logprobs"]]
        told = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    else:
        told = answer.json()["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["�", "�", "a"],
        "token_logprobs": [-1.0, -1.5, -0.5],
        "top_logprobs": [{"�": -1.0, "a": -2.0}, {"�": -1.5}, {"a": -0.5}],
        "text_offset": [0, 0, 1],
    }


async def test_the_end_is_told_after_the_last_text() -> None:
    model = FakeModel()
    whole = generation(choice("éa", logprobs=[*ENTRIES, END], has_end_token=True))
    script = [chunk("é", logprobs=ENTRIES[:2]), chunk("a", logprobs=(*ENTRIES[2:], END), has_end_token=True)]
    for _ in range(2):
        model.will_say(script[0], replace(script[1], finish_reason="stop", result=whole))
    told = [event["choices"][0] for event in events_of(await ask(model, prompt="x", logprobs=0, stream=True))]
    assert [(each["text"], each["finish_reason"]) for each in told] == [("é", None), ("a", None), ("", "stop")]
    assert [each["logprobs"] and each["logprobs"]["token_logprobs"] for each in told] == [[-1.0, -1.5], [-0.5], None]
    (body,) = (await ask(model, prompt="x", logprobs=0)).json()["choices"]
    assert body["logprobs"]["token_logprobs"] == [-1.0, -1.5, -0.5], "the token that ends a text is none of it"


async def test_logprobs_of_none_but_the_chosen() -> None:
    model = FakeModel()
    model.will_say(chunk("éa", finish_reason="stop", result=generation(choice("éa", logprobs=ENTRIES))))
    told = (await ask(model, prompt="x", logprobs=0)).json()["choices"][0]["logprobs"]
    assert told["top_logprobs"] is None
    assert len(told["tokens"]) == 3


@pytest.mark.parametrize("prompt", ["xy", [120, 121]])
async def test_logprobs_with_the_prompt_before_the_text(prompt: object) -> None:
    model = FakeModel()
    known = TokenLogprob(token_id=121, logprob=-3.0, top=((121, -3.0),))
    whole = generation(choice("xya", logprobs=list(ENTRIES[2:])), prompt_logprobs=[None, known])
    model.will_say(chunk("xya", finish_reason="stop", result=whole))
    body = (await ask(model, prompt=prompt, echo=True, logprobs=1)).json()
    assert model.submissions[0].options["prompt_logprobs"] == 1
    assert body["choices"][0]["text"] == "xya"
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["x", "y", "a"],
        "token_logprobs": [None, -3.0, -0.5],
        "top_logprobs": [None, {"y": -3.0}, {"a": -0.5}],
        "text_offset": [0, 1, 2],
    }
    answer = await ask(model, prompt=prompt, echo=True, logprobs=1, stream=True)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")


async def test_other_fields() -> None:
    model = FakeModel()
    model.will_say(*said("a"))
    answer = await ask(model, prompt="x", max_tokens=0, echo=True, n=1, best_of=1, suffix="", user="me", seed=3)
    assert answer.status_code == 200
    assert model.submissions[0].options == {"max_new_tokens": 0, "echo": True, "n": 1, "rng_seed": 3}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_a_bad_field_is_named(change: dict[str, object], param: str) -> None:
    answer = await ask(FakeModel(), **{"prompt": "x", **change})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
