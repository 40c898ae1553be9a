"""Fields that nobody knows, on every path: ignored and told, or refused; and those that are known to change nothing."""

from __future__ import annotations

import logging

import httpx
import pytest
from starlette.testclient import TestClient

from genai.requests.foreign import HARMLESS
from genai.requests.generation import served
from server.unknown import IGNORED_HEADER
from tests.server.fakes import FakeModel, app_with, said, serving

pytestmark = pytest.mark.anyio

TURN = {"messages": [{"role": "user", "content": "Hi"}]}
BODIES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": TURN,
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {**TURN, "max_tokens": 8},
    "/v1/messages/count_tokens": TURN,
    "/tokenize": TURN,
    "/detokenize": {"tokens": [65]},
}


async def ask(path: str, more: dict[str, object], **settings: object) -> httpx.Response:
    model = FakeModel()
    model.will_say(*said("Hello"))
    async with serving(app_with(model, **settings)) as http:
        return await http.post(path, json={**BODIES[path], **more})


@pytest.mark.parametrize("path", BODIES)
async def test_they_are_ignored_and_told(path: str) -> None:
    answer = await ask(path, {"tempreature": 1, "b": {"c": [1]}, "nothing": None, "empty": [], "user": "me"})
    assert answer.status_code == 200, answer.text
    assert answer.headers[IGNORED_HEADER] == "tempreature, b"
    assert IGNORED_HEADER not in (await ask(path, {})).headers


async def test_a_name_of_nothing_is_told_as_a_header_can_have_it() -> None:
    """A header's value must not end with a space: the connection would be closed."""
    answer = await ask("/v1/completions", {"b": 1, "": 1})
    assert answer.headers[IGNORED_HEADER] == "b, ?"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
async def test_streams_tell_them_too(path: str) -> None:
    answer = await ask(path, {"stream": True, "b": 1})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers[IGNORED_HEADER] == "b"


@pytest.mark.parametrize("path", BODIES)
async def test_they_can_be_refused(path: str) -> None:
    answer = await ask(path, {"b": 1, "c": 2, "nothing": None, "user": "me"}, unknown_fields="refuse")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "b is not supported"
    accepted = await ask(path, {"nothing": None, "user": "me"}, unknown_fields="refuse")
    assert accepted.status_code == 200


@pytest.mark.parametrize("path", BODIES)
async def test_what_changes_nothing_is_not_told(path: str) -> None:
    labels = dict.fromkeys(("user", "safety_identifier", "prompt_cache_key"), "me")
    own = {"metadata": {"user_id": "me"}, "store": True, **labels}
    told: dict[str, object] = {**{name: {"effort": "low"} for name in HARMLESS}, **own}
    answer = await ask(path, told)
    assert answer.status_code == 200, answer.text
    assert IGNORED_HEADER not in answer.headers


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_what_binds_a_text_elsewhere_is_not_ignored(path: str) -> None:
    """Options of chat and completions are taken, or refused by name; how texts are sampled is ignored and told."""
    sampled = "min_p typical_p xtc_probability xtc_threshold seed repetition_penalty presence_penalty frequency_penalty"
    sampled += " no_repeat_ngram_size dry_multiplier dry_base dry_allowed_length reasoning_effort reasoning_budget"
    own = {"temperature", "top_p", "top_k"}
    for name in {*served("chat"), *served("completion"), "guided_regex"} - {*sampled.split()} - own:
        answer = await ask(path, {name: 2})
        assert answer.status_code == 400, name
        assert f"{name} is not supported" in answer.text


@pytest.mark.parametrize("path", BODIES)
async def test_null_is_as_good_as_left_out(path: str) -> None:
    model = FakeModel()
    model.will_say(*said("Hello"))
    async with serving(app_with(model)) as http:
        document = (await http.get("/openapi.json")).json()
        name = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        fields = document["components"]["schemas"][name.rpartition("/")[2]]["properties"]
        answer = await http.post(path, json={**dict.fromkeys(fields), **BODIES[path]})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("path", "given", "options"),
    [
        ("/v1/chat/completions", {"top_k": -1, "top_p": 0, "seed": -1, "max_tokens": -1}, "top_k top_p rng_seed"),
        ("/v1/chat/completions", {"max_completion_tokens": -1, "max_tokens": None}, ""),
        ("/v1/completions", {"top_k": -1, "top_p": 0.0, "seed": -1, "max_tokens": -1}, "top_k top_p rng_seed"),
        ("/v1/responses", {"top_p": 0, "max_output_tokens": -1}, "top_p"),
        ("/v1/messages", {"top_p": 0, "top_k": -1}, "top_k top_p"),
    ],
)
async def test_values_that_mean_off(path: str, given: dict[str, object], options: str) -> None:
    """What the model is given for them is what switches an option off, whatever its own default is."""
    from genai.options.generation_config import GenerationConfig

    model = FakeModel()
    model.will_say(*said("Hello"))
    async with serving(app_with(model, default_max_tokens=5)) as http:
        answer = await http.post(path, json={**BODIES[path], **given})
    assert answer.status_code == 200, answer.text
    own = GenerationConfig().updated(top_k=50, top_p=0.9, seed=7, max_new_tokens=9)
    config = own.updated(**model.submissions[0].options)
    if path != "/v1/messages":
        assert config.max_new_tokens is None
    values = {"top_k": 0, "top_p": 1.0, "rng_seed": None}
    assert [getattr(config.sampling_config, name) for name in options.split()] == [
        values[name] for name in options.split()
    ]


def test_each_stands_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "server.unknown")
    with TestClient(app_with(FakeModel()), base_url="http://localhost") as http:
        for more in ({"b": 1}, {"b": 2}, {"b": 3, "x\r\ny é": 1}):
            answer = http.post("/tokenize", json={**TURN, **more})
    assert answer.headers[IGNORED_HEADER] == "b, x??y??"
    told = [record.getMessage() for record in caplog.records if record.name == "server.unknown"]
    assert told == [
        "/tokenize: ignored, since nothing here knows them: b",
        "/tokenize: ignored, since nothing here knows them: x??y??",
    ]


async def test_what_is_told_of_many_is_bounded() -> None:
    answer = await ask("/tokenize", {f"{number:03}" * 100: 1 for number in range(90)})
    assert answer.status_code == 200
    assert len(answer.headers[IGNORED_HEADER]) < 2000
    assert answer.headers[IGNORED_HEADER].endswith(", ...")
