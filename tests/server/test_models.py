"""Models that load in a thread, fail, are waited for, and are closed."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import cast

import pytest

from genai.errors import ModelNotFoundError
from genai.llm.async_llm import AsyncLLM
from genai.progress import Progress
from server.app import create_app
from server.errors import ApiError
from server.loading import Room
from server.models import ModelPool
from server.settings import ModelSettings, Settings
from tests.server.fakes import FakeModel, said, serving

pytestmark = pytest.mark.anyio


class Loading:
    """Models that are ready, or fail, when the test says so."""

    def __init__(self) -> None:
        self.may_go_on = {name: threading.Event() for name in "ab"}
        self.errors: dict[str, Exception] = {}
        self.models = {name: FakeModel(name) for name in "ab"}
        self.begun: list[str] = []

    def __call__(self, name: str, model: ModelSettings, settings: Settings, progress: Progress, room: Room) -> AsyncLLM:
        self.begun.append(name)
        progress("reading", 1, 4)
        assert self.may_go_on[name].wait(60)
        progress("reading", 4, 4)
        if name in self.errors:
            raise self.errors[name]
        return cast(AsyncLLM, self.models[name])


def settings_of(**more: object) -> Settings:
    return Settings.model_validate({"models": ["a", "b"], **more})


async def test_one_after_another(caplog: pytest.LogCaptureFixture) -> None:
    loading = Loading()
    pool = ModelPool(settings_of(), loading)
    with caplog.at_level(logging.INFO):
        pool.start()
        waiting = asyncio.create_task(pool.get("b"))
        loading.may_go_on["a"].set()
        assert (await pool.get(None)).name == "a"
        assert [model.name for model in pool.ready] == ["a"]
        assert not waiting.done()
        loading.may_go_on["b"].set()
        assert (await waiting).llm is loading.models["b"]
    assert loading.begun == ["a", "b"]
    assert not pool.has_failed
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:3] == ["loading a (a)", "a: reading, 20 %", "a: reading, 100 %"]
    assert "a is ready after" in lines[3]
    await asyncio.to_thread(pool.close)
    assert all(model.is_closed for model in loading.models.values())


async def test_a_request_to_a_loading_model_is_refused_if_that_is_the_policy() -> None:
    loading = Loading()
    pool = ModelPool(settings_of(while_loading="refuse"), loading)
    pool.start()
    with pytest.raises(ApiError) as caught:
        await pool.get("a")
    assert (caught.value.status, caught.value.code) == (503, "model_loading")
    assert caught.value.headers["retry-after"]
    for event in loading.may_go_on.values():
        event.set()
    await asyncio.to_thread(pool.close)


async def test_waiting_has_a_deadline() -> None:
    loading = Loading()
    pool = ModelPool(settings_of(request_timeout=0.01), loading)
    pool.start()
    with pytest.raises(ApiError) as caught:
        await pool.get("a")
    assert caught.value.code == "model_loading"
    for event in loading.may_go_on.values():
        event.set()
    await asyncio.to_thread(pool.close)


async def test_one_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    loading = Loading()
    loading.errors["a"] = ModelNotFoundError("no such model, at /secret/path")
    app = create_app(settings_of(), ModelPool(settings_of(), loading))
    for event in loading.may_go_on.values():
        event.set()
    async with serving(app) as http:
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "models": {"a": "failed", "b": "ready"}})
        loading.models["b"].will_say(*said("x"))
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        answer = await http.post("/v1/chat/completions", json={"model": "a", **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_failed")
        assert "secret" not in answer.text
        assert (await http.post("/v1/chat/completions", json={"model": "b", **body})).status_code == 200
        states = [model["state"] for model in (await http.get("/v1/models")).json()["data"]]
        assert states == ["failed", "ready"]
    assert "/secret/path" in caplog.text


async def test_if_all_fail_the_pool_has_failed() -> None:
    loading = Loading()
    loading.errors = {"a": ModelNotFoundError("a"), "b": ValueError("b")}
    pool = ModelPool(settings_of(), loading)
    for event in loading.may_go_on.values():
        event.set()
    pool.start()
    for model in pool.models:
        await model.changed.wait()
    assert pool.has_failed
    assert [model.error for model in pool.models] == ["a", "unexpected ValueError"]
    pool.close()


async def test_the_end_breaks_off_what_is_loading() -> None:
    loading = Loading()
    pool = ModelPool(settings_of(), loading)
    pool.start()
    while not loading.begun:
        await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    while not pool._is_closing:
        await asyncio.sleep(0)
    loading.may_go_on["a"].set()
    await closing
    assert loading.begun == ["a"]
    assert [model.state for model in pool.models] == ["failed", "loading"]
    assert not loading.models["a"].is_closed, "it was given up before it was made"
