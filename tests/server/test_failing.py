"""What a request is to blame for, though it shows only while its texts are written: 400 whole, told in a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from genai.errors import CapacityError, ConfigError
from tests.server.fakes import FakeModel, app_with, chunk, serving

pytestmark = pytest.mark.anyio

ASKED = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": ASKED},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": ASKED, "max_tokens": 16},
}
ERROR = ConfigError("min_new_tokens=5: no token is left that may come")


async def ask(path: str, *script: Any, **more: object) -> Any:
    model = FakeModel()
    model.will_say(*script)
    async with serving(app_with(model)) as http:
        answer = await http.post(path, json=BODIES[path] | more)
    assert model.submissions[0].is_cancelled.is_set()
    return answer


def told(body: dict[str, Any]) -> tuple[str, str]:
    """(type or code, message) of an error, in any of the shapes."""
    error = body["error"]
    return error["type"], error["message"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_first_piece(path: str, stream: bool) -> None:
    answer = await ask(path, ERROR, stream=stream)
    assert answer.status_code == 400
    assert told(answer.json()) == ("invalid_request_error", str(ERROR))
    assert answer.json()["error"].get("param") in (None, "min_tokens")


@pytest.mark.parametrize("path", BODIES)
async def test_in_the_middle_of_a_whole_answer(path: str) -> None:
    answer = await ask(path, chunk("a"), ERROR)
    assert (answer.status_code, told(answer.json())) == (400, ("invalid_request_error", str(ERROR)))


@pytest.mark.parametrize("path", BODIES)
async def test_in_the_middle_of_a_stream(path: str) -> None:
    answer = await ask(path, chunk("a"), ERROR, stream=True)
    assert answer.status_code == 200
    *_, last = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert "[DONE]" not in answer.text
    if path == "/v1/responses":
        assert last["type"] == "response.failed"
        assert last["response"]["error"] == {"code": "invalid_prompt", "message": str(ERROR)}
    else:
        assert told(last) == ("invalid_request_error", str(ERROR))


async def test_what_does_not_fit_any_more() -> None:
    answer = await ask("/v1/chat/completions", chunk("a"), CapacityError("9 of 8 tokens"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


async def test_one_of_several_prompts() -> None:
    model = FakeModel()
    model.will_say(chunk("a"), ERROR)
    model.will_say(chunk("b"), ERROR)
    async with serving(app_with(model)) as http:
        answer = await http.post("/v1/completions", json={"prompt": ["a", "b"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "min_tokens")
    assert all(each.is_cancelled.is_set() for each in model.submissions)
