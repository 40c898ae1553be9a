"""Models with several names, loaded when they are asked for, unloaded when they are idle or in the way, and pulled."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import httpx
import pytest
from starlette.types import Message

from genai import models
from genai.errors import ConfigError
from genai.llm.async_llm import AsyncLLM
from genai.progress import Progress
from server.app import create_app
from server.context import request_context
from server.errors import ApiError
from server.loading import Room
from server.models import ModelPool
from server.settings import ModelSettings, Settings, load_settings, to_toml
from tests.server.fakes import FakeModel, said, serving
from tests.tiny_package import tiny_package

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "Hi"}]


class Loads:
    """Loads at once, and remembers; each model asks for so many bytes."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        self.begun: list[str] = []
        self.models: dict[str, FakeModel] = {}
        self.errors: dict[str, Exception] = {}

    def __call__(self, name: str, model: ModelSettings, settings: Settings, progress: Progress, room: Room) -> AsyncLLM:
        self.begun.append(name)
        room(self.sizes.get(name, 0))
        if name in self.errors:
            raise self.errors[name]
        self.models[name] = FakeModel(name)
        return cast(AsyncLLM, self.models[name])


def settings_of(*names: str, **more: object) -> Settings:
    settings = Settings.model_validate({"models": list(names), "load": "on_demand", **more})
    settings.check_names()
    return settings


@asynccontextmanager
async def pool_of(settings: Settings, loads: Loads) -> AsyncIterator[ModelPool]:
    pool = ModelPool(settings, loads)
    pool.start()
    yield pool
    await asyncio.to_thread(pool.close)


def states(pool: ModelPool) -> dict[str, str]:
    return {model.name: model.state for model in pool.models}


async def used(pool: ModelPool, name: str) -> None:
    """A request that needs a model, from its beginning to its end."""
    with request_context(""):
        await pool.get(name)


async def test_the_first_request_loads_and_the_next_ones_find_it_loaded() -> None:
    loads = Loads()
    async with pool_of(settings_of("a", "b"), loads) as pool:
        assert not pool.has_failed
        assert states(pool) == {"a": "unloaded", "b": "unloaded"}
        await asyncio.gather(*(used(pool, "b") for _ in range(5)))
        await used(pool, "b")
        assert states(pool) == {"a": "unloaded", "b": "ready"}
    assert loads.begun == ["b"]
    assert loads.models["b"].is_closed


async def test_a_model_may_differ_from_the_others() -> None:
    loads = Loads()
    table = {"a": {"source": "a"}, "b": {"source": "b", "load": "at_start"}}
    async with pool_of(Settings.model_validate({"models": table, "load": "on_demand"}), loads) as pool:
        await pool.named("b").changed.wait()
        assert states(pool) == {"a": "unloaded", "b": "ready"}


async def test_other_names() -> None:
    table = {
        "small": {"source": "x", "aliases": ["gpt-5-mini", "claude-haiku-*"]},
        "large": {"source": "y", "aliases": ["claude-*"]},
    }
    async with pool_of(Settings.model_validate({"models": table}), Loads()) as pool:
        names = {
            "small": "small",
            "gpt-5-mini": "small",
            "claude-haiku-4-5": "small",
            "claude-opus": "large",
            "large": "large",
        }
        assert {name: pool.named(name).name for name in names} == names
        assert pool.named(None).name == "small"
        with pytest.raises(ApiError, match="no model 'gpt-5' is served here; there are: small, large"):
            pool.named("gpt-5")
    settings = Settings.model_validate({"models": table, "fallback_model": "large"})
    assert ModelPool(settings, Loads()).named("whatever").name == "large"
    one = Settings.model_validate({"models": {"small": table["small"]}})
    with pytest.raises(ApiError, match="there are: small, large"):
        ModelPool(one, Loads(), elsewhere=["large"]).named("gpt-5")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('fallback_model = "c"\n[models.a]\nsource = "x"', "fallback_model='c': must be one of the models: a"),
        ('[models.a]\nsource = "x"\naliases = ["b"]\n[models.b]\nsource = "y"', "'b' is a name of 'b' already"),
        ('max_models_bytes = 9\n[models.a]\nsource = "x"', "set engine.kv_cache_bytes and engine.prefix_cache_bytes"),
    ],
)
async def test_what_makes_no_sense_together(more: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(more)
    with pytest.raises(ConfigError, match=message):
        load_settings(tmp_path / "x.toml")


async def test_settings_of_a_model_are_printed(tmp_path: Path) -> None:
    text = '[models.a]\nsource = "x"\naliases = ["b", "c-*"]\nload = "on_demand"\nunload_after = 5.0\n'
    (tmp_path / "x.toml").write_text(text)
    printed = to_toml(load_settings(tmp_path / "x.toml"))
    (tmp_path / "y.toml").write_text(printed)
    assert load_settings(tmp_path / "y.toml").models == load_settings(tmp_path / "x.toml").models


async def test_an_idle_model_is_unloaded_and_comes_back() -> None:
    loads = Loads()
    async with pool_of(settings_of("a", unload_after=0.05), loads) as pool:
        with request_context(""):
            model = await pool.get("a")
            await asyncio.sleep(0.2)
            assert model.state == "ready", "a request needs it"
        first = loads.models["a"]
        while model.state == "ready":
            await asyncio.sleep(0.01)
        assert first.is_closed
        await used(pool, "a")
        assert loads.models["a"] is not first
        assert loads.begun == ["a", "a"]


async def test_the_one_used_longest_ago_makes_room() -> None:
    loads = Loads(a=4, b=4, c=5)
    async with pool_of(settings_of("a", "b", "c", max_models_bytes=10), loads) as pool:
        for name in ("a", "b", "a", "c"):
            await used(pool, name)
        assert states(pool) == {"a": "ready", "b": "unloaded", "c": "ready"}
        assert loads.models["b"].is_closed


async def test_room_is_waited_for_while_others_are_used() -> None:
    loads = Loads(a=6, b=6)
    async with pool_of(settings_of("a", "b", max_models_bytes=10), loads) as pool:
        with request_context(""):
            await pool.get("a")
            other = asyncio.create_task(used(pool, "b"))
            await asyncio.sleep(0.1)
            assert not other.done()
            assert states(pool) == {"a": "ready", "b": "loading"}
        await other
        assert states(pool) == {"a": "unloaded", "b": "ready"}


async def test_one_that_is_larger_than_the_budget_fails_and_harms_nobody() -> None:
    loads = Loads(a=4, b=40)
    async with pool_of(settings_of("a", "b", max_models_bytes=10), loads) as pool:
        await used(pool, "a")
        with pytest.raises(ApiError) as caught:
            await used(pool, "b")
        assert (caught.value.status, caught.value.code) == (503, "model_failed")
        assert states(pool) == {"a": "ready", "b": "failed"}
        assert pool.named("b").error == "it takes 40 bytes, more than max_models_bytes=10"


async def test_one_that_has_failed_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads()
    loads.errors["a"] = ConfigError("the hub is away")
    async with pool_of(settings_of("a"), loads) as pool:
        for _ in range(3):
            with pytest.raises(ApiError, match="could not be loaded"):
                await used(pool, "a")
        assert loads.begun == ["a"], "not at once"
        monkeypatch.setattr("server.models._RETRY_SECONDS", 0.0)
        loads.errors.clear()
        await used(pool, "a")
        assert not pool.has_failed


async def test_who_asks_again_and_again_does_not_put_off_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.models._RETRY_SECONDS", 0.2)
    loads = Loads()
    loads.errors["a"] = ConfigError("the hub is away")
    async with pool_of(settings_of("a"), loads) as pool:
        for _ in range(10):
            with pytest.raises(ApiError, match="could not be loaded"):
                await used(pool, "a")
            await asyncio.sleep(0.05)
        assert len(loads.begun) >= 2


ADMIN = {"authorization": "Bearer boss"}


@asynccontextmanager
async def administered(tmp_path: Path, loads: Loads, **more: object) -> AsyncIterator[httpx.AsyncClient]:
    (tmp_path / "admins").write_text("boss\n")
    settings = settings_of("a", admin_keys_file=tmp_path / "admins", **more)
    async with serving(create_app(settings, ModelPool(settings, loads))) as http:
        yield http


async def test_administrators_load_and_unload(tmp_path: Path) -> None:
    loads = Loads()
    async with administered(tmp_path, loads) as http:
        body = {"model": "a"}
        answer = await http.post("/v1/models/load", json=body, headers=ADMIN)
        assert (answer.status_code, answer.json()["state"]) == (200, "ready")
        assert (await http.get("/v1/models")).json()["data"][0]["state"] == "ready"
        answer = await http.post("/v1/models/unload", json=body, headers=ADMIN)
        assert (answer.status_code, answer.json()["state"]) == (200, "unloaded")
        assert (await http.get("/ready")).status_code == 200, "it is loaded when it is asked for"
        loads.errors["a"] = ConfigError("no such file: x.gguf")
        answer = await http.post("/v1/models/load", json=body, headers=ADMIN)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_failed")
        assert "no such file" in answer.json()["error"]["message"], "an administrator is told"


async def test_a_model_that_is_answering_is_not_unloaded(tmp_path: Path) -> None:
    loads = Loads()
    async with administered(tmp_path, loads) as http:
        await http.post("/v1/models/load", json={"model": "a"}, headers=ADMIN)
        goes_on = asyncio.Event()
        loads.models["a"].will_say(*said("x")[:1], goes_on, *said("x")[1:])
        chat = asyncio.create_task(http.post("/v1/chat/completions", json={"messages": HI}))
        while not loads.models["a"].submissions:
            await asyncio.sleep(0)
        answer = await http.post("/v1/models/unload", json={"model": "a"}, headers=ADMIN)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_in_use")
        goes_on.set()
        assert (await chat).status_code == 200
        answer = await http.post("/v1/models/unload", json={"model": "a"}, headers=ADMIN)
        assert answer.json()["state"] == "unloaded"


@pytest.mark.parametrize("path", ["/v1/models/load", "/v1/models/unload", "/v1/models/pull"])
async def test_only_administrators(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads()
    monkeypatch.setenv("GENAI_API_KEYS", "guest")
    async with administered(tmp_path, loads) as http:
        for headers, status in (({}, 401), ({"x-api-key": "guest"}, 401), ({"x-api-key": "other"}, 401)):
            assert (await http.post(path, json={"model": "a"}, headers=headers)).status_code == status
        assert (await http.get("/v1/models", headers=ADMIN)).status_code == 200, "their key is as good as a guest's"
    settings = settings_of("a")
    async with serving(create_app(settings, ModelPool(settings, loads))) as http:
        answer = await http.post(path, json={"model": "a"}, headers={"x-api-key": "guest"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "administration_off")
    assert loads.begun == []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`org/tiny` is a model on a hub, which comes in two steps; nothing else is."""
    package, real = tiny_package(tmp_path / "package"), models.package

    def fetched(name: str, *, progress: Progress, **options: object) -> Path:
        if name != "org/tiny":
            return real(name, progress=progress)
        progress("downloading", 1, 2)
        progress("downloading", 2, 2)
        return package

    monkeypatch.setattr(models, "package", fetched)


async def test_a_pulled_model_is_served(tmp_path: Path, hub: None) -> None:
    (tmp_path / "admins").write_text("boss\n")
    engine = {"max_batch": 1, "kv_cache_bytes": 1_000_000, "prefix_cache_bytes": 0, "device": "cpu"}
    settings = settings_of("none", admin_keys_file=tmp_path / "admins", engine=engine)
    async with serving(create_app(settings, ModelPool(settings))) as http:
        body = {"model": "org/tiny", "name": "new"}
        answer = await http.post("/v1/models/pull", json=body, headers=ADMIN)
        steps = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        assert steps[-1] == {"status": "success"}
        assert steps[-2]["status"] == "downloading"
        assert (await http.get("/v1/models/new")).json()["state"] == "unloaded"
        chat = {"model": "new", "messages": HI, "max_tokens": 2}
        answer = await http.post("/v1/chat/completions", json=chat)
        assert answer.json()["usage"]["completion_tokens"] == 2
        again = await http.post("/v1/models/pull", json=body | {"stream": False}, headers=ADMIN)
        assert (again.status_code, again.json()["status"]) == (200, "success")
        other = await http.post("/v1/models/pull", json={"model": "org/tiny", "name": "none"}, headers=ADMIN)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "model_exists")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_pull_is_broken_off_with_its_client(
    stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(name: str, *, progress: Progress, **options: object) -> Path:
        begun.set()
        try:
            while True:
                progress("downloading", 1, 0)
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr(models, "package", endless)
    (tmp_path / "admins").write_text("boss\n")
    app = create_app(settings_of("a", admin_keys_file=tmp_path / "admins"))
    body = json.dumps({"model": "org/tiny", "stream": stream}).encode()
    given = [{"type": "http.request", "body": body, "more_body": False}]
    headers = [(b"host", b"localhost"), (b"authorization", b"Bearer boss"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/models/pull", "query_string": b"", "headers": headers}

    async def receive() -> Message:
        if given:
            return given.pop()
        await asyncio.to_thread(begun.wait, 10)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    await asyncio.wait_for(app(scope, receive, send), 20)
    assert await asyncio.to_thread(ended.wait, 10)
    await asyncio.sleep(0)
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("model", ["/etc/passwd", "../x", "smollm3-of-nobody", "a b/c"])
async def test_nothing_but_names_is_pulled(model: str, tmp_path: Path) -> None:
    async with administered(tmp_path, Loads()) as http:
        answer = await http.post("/v1/models/pull", json={"model": model}, headers=ADMIN)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
