"""Answers that are kept: gone on behind, looked at, deleted, called off; bounded, and each key's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from server.kept import KeptResponses
from server.schemas.response_items import InputMessage
from server.schemas.responses import ResponseObject
from tests.server.fakes import FakeModel, app_with, choice, chunk, generation, said, serving

pytestmark = pytest.mark.anyio

HELLO: dict[str, object] = {"model": "fake", "input": "Hi"}


@asynccontextmanager
async def talking(model: FakeModel, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(app_with(model, **settings)) as http:
        yield http


async def test_a_conversation_goes_on_behind_an_answer() -> None:
    model = FakeModel()
    for text in ("Hello", "Blue", "Green"):
        model.will_say(*said(text))
    async with talking(model) as http:
        first = (await http.post("/v1/responses", json={**HELLO, "instructions": "Be kind.", "store": True})).json()
        assert (first["store"], first["previous_response_id"]) == (True, None)
        body = {"input": [{"role": "user", "content": "A colour?"}], "previous_response_id": first["id"]}
        second = (await http.post("/v1/responses", json=body)).json()
        assert second["previous_response_id"] == first["id"]
        await http.post("/v1/responses", json={"input": "Another?", "previous_response_id": second["id"]})
    roles = ("user", "assistant", "user", "assistant", "user")
    texts = ("Hi", "Hello", "A colour?", "Blue", "Another?")
    told = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    assert model.submissions[1].prompt == told[:3], "instructions are those of each request"
    assert model.submissions[2].prompt == told


async def test_kept_answers_are_told_and_deleted() -> None:
    model = FakeModel()
    model.will_say(*said("Hello"))
    async with talking(model) as http:
        whole = (await http.post("/v1/responses", json=HELLO)).json()
        path = f"/v1/responses/{whole['id']}"
        assert (await http.get(path)).json() == whole
        assert (await http.post(f"{path}/cancel")).json() == whole, "it has ended"
        deleted = await http.delete(path)
        assert deleted.json() == {"id": whole["id"], "object": "response", "deleted": True}
        for gone in (await http.get(path), await http.delete(path), await http.post(f"{path}/cancel")):
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "response_not_found")
        reference = {"input": [{"type": "item_reference", "id": whole["output"][0]["id"]}]}
        assert (await http.post("/v1/responses", json=reference)).status_code == 400
        behind = await http.post("/v1/responses", json={**HELLO, "previous_response_id": whole["id"]})
        error = behind.json()["error"]
        assert (behind.status_code, error["code"]) == (400, "previous_response_not_found")
        assert error["param"] == "previous_response_id"


@pytest.mark.parametrize(("change", "settings"), [({"store": False}, {}), ({}, {"kept_responses_bytes": 0})])
async def test_nothing_is_kept_if_nothing_is_to_be(change: dict[str, object], settings: dict[str, object]) -> None:
    model = FakeModel()
    model.will_say(*said("Hello"))
    async with talking(model, **settings) as http:
        whole = (await http.post("/v1/responses", json={**HELLO, **change})).json()
        assert whole["store"] is False
        assert (await http.get(f"/v1/responses/{whole['id']}")).status_code == 404


async def test_a_streamed_answer_is_kept_before_its_last_event() -> None:
    model = FakeModel()
    model.will_say(*said("Hello"))
    model.will_say(*said("Bye"))
    async with talking(model) as http:
        answer = await http.post("/v1/responses", json={**HELLO, "stream": True})
        last = answer.text.strip().split("\n\n")[-1]
        assert last.startswith("event: response.completed")
        response_id = last.partition('"id": "')[2].partition('"')[0]
        assert (await http.get(f"/v1/responses/{response_id}")).json()["output"][0]["content"][0]["text"] == "Hello"


async def test_references_to_kept_items_are_looked_up() -> None:
    model = FakeModel()
    model.will_say(*said("Hello"))
    model.will_say(*said("Bye"))
    async with talking(model) as http:
        (item,) = (await http.post("/v1/responses", json=HELLO)).json()["output"]
        items = [{"role": "user", "content": "Hi"}, {"type": "item_reference", "id": item["id"]}]
        await http.post("/v1/responses", json={"input": [*items, {"role": "user", "content": "?"}]})
    assert model.submissions[1].prompt == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "?"},
    ]


async def test_who_asks_with_another_key_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_API_KEYS", "one,two")
    model = FakeModel()
    model.will_say(*said("Hello"))
    mine, other = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    async with talking(model) as http:
        whole = (await http.post("/v1/responses", json=HELLO, headers=mine)).json()
        path = f"/v1/responses/{whole['id']}"
        assert (await http.get(path, headers=other)).status_code == 404
        assert (await http.delete(path, headers=other)).status_code == 404
        assert (await http.post(f"{path}/cancel", headers=other)).status_code == 404
        behind = {**HELLO, "previous_response_id": whole["id"]}
        assert (await http.post("/v1/responses", json=behind, headers=other)).status_code == 400
        reference = {"input": [{"type": "item_reference", "id": whole["output"][0]["id"]}]}
        assert (await http.post("/v1/responses", json=reference, headers=other)).status_code == 400
        assert (await http.get(path, headers=mine)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_called_off(stream: bool) -> None:
    """What it has said so far is the answer, and it is kept."""
    model, going_on = FakeModel(), asyncio.Event()
    whole = generation(choice("Hel", finish_reason="cancelled"))
    model.will_say(chunk("Hel"), going_on, chunk(finish_reason="cancelled", result=whole))
    app = app_with(model)
    async with serving(app) as http:
        asking = asyncio.ensure_future(http.post("/v1/responses", json={**HELLO, "stream": stream}))
        while not (running := app.state.server.responses.ids_of_running):
            await asyncio.sleep(0.01)
        path = f"/v1/responses/{running[0]}"
        assert (await http.get(path)).json()["status"] == "in_progress"
        assert (await http.post(f"{path}/cancel")).json()["status"] == "cancelled"
        assert model.submissions[0].is_cancelled.is_set()
        going_on.set()
        answer = await asking
        assert answer.status_code == 200
        kept = (await http.get(path)).json()
    assert (kept["status"], kept["incomplete_details"]) == ("cancelled", None)
    assert kept["output"][0]["content"][0]["text"] == "Hel"
    assert ('"status": "cancelled"' in answer.text) if stream else answer.json() == kept


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def response(number: int, text: str = "") -> ResponseObject:
    fields = dict.fromkeys(
        ("instructions", "max_output_tokens", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key")
    )
    return ResponseObject(
        id=f"resp_{number}",
        created_at=0,
        status="completed",
        metadata={"text": text},
        model="m",
        output=[],
        parallel_tool_calls=True,
        previous_response_id=None,
        store=True,
        text={},
        tool_choice="auto",
        tools=[],
        **fields,
    )


async def test_what_is_kept_is_bounded_in_bytes_and_in_time() -> None:
    clock = Clock()
    kept = KeptResponses(20_000, 60.0, clock)
    for number in range(100):
        clock.now = number / 10
        await kept.keep(response(number, "x" * 1000), [InputMessage(role="user", content="y" * 1000)])
        assert 0 < kept.num_bytes <= 20_000
    assert kept.get("resp_99")
    for gone in ("resp_0", "resp_90"):
        with pytest.raises(Exception, match="is not kept"):
            kept.get(gone)
    await kept.keep(response(100, "x" * 30_000), [])
    assert kept.get("resp_99"), "what is too big does not drive out the others"
    with pytest.raises(Exception, match="is not kept"):
        kept.get("resp_100")
    clock.now = 9.9 + 60.0
    with pytest.raises(Exception, match="is not kept"):
        kept.get("resp_99")
    assert kept.num_bytes == 0
