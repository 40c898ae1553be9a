"""Adapters through the server: two and the base at once, loaded and unloaded while others stream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import openai
import psutil
import pytest

from genai.build.package import build_package
from genai.errors import ConfigError
from genai.llm.async_llm import AsyncLLM
from server.context import request_context
from server.errors import ApiError
from server.models import ModelPool, ServedModel
from server.settings import ModelSettings, Settings, load_settings
from tests.build import tiny
from tests.build.adapters import published
from tests.server.live import LiveServer, live_server

pytest.importorskip("peft")

ADMIN = {"authorization": "Bearer root"}
PROMPT = " ".join(f"t{number}" for number in range(10, 30))


class Made:
    """A tiny base with two adapters, and what each goes on with."""

    def __init__(self, folder: Path) -> None:
        model = tiny.make_model("llama")
        checkpoint = tiny.save(model, folder / "checkpoint")
        self.package = build_package(checkpoint, folder / "package", precision="f32", lora_slots=2, max_rank=4)
        self.paths = {
            name: published.save(published.adapted(model, seed=seed), folder / name)
            for seed, name in enumerate(("one", "two"), start=1)
        }
        with tiny.loaded(self.package) as llm:
            for name, path in self.paths.items():
                llm.load_adapter(name, path)
            self.texts = {
                name or "base": llm.generate(PROMPT, adapter=name, temperature=0, max_new_tokens=20).text
                for name in (None, "one", "two")
            }
            half = llm.generate(PROMPT, adapter=("two", 0.5), temperature=0, max_new_tokens=20).text
        assert len({*self.texts.values(), half}) == 4
        self.half = half


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("served"))


@pytest.fixture
def live(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    monkeypatch.setenv("GENAI_ADMIN_KEYS", "root")
    model = {"source": str(made.package), "adapters": {"one": str(made.paths["one"])}}
    with live_server({"base": model}) as server:
        yield server


def ask(live: LiveServer, name: str) -> str:
    reply = live.openai.completions.create(model=name, prompt=PROMPT, max_tokens=20, temperature=0)
    assert reply.model == name
    return reply.choices[0].text


def load(live: LiveServer, name: str, path: Path, **more: Any) -> Any:
    return live.http.post(
        "/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path), **more}, headers=ADMIN
    )


def unload(live: LiveServer, name: str) -> Any:
    return live.http.post("/v1/unload_lora_adapter", json={"lora_name": name}, headers=ADMIN)


def test_two_adapters_and_the_base_at_once_loaded_while_one_streams(live: LiveServer, made: Made) -> None:
    stream = live.openai.completions.create(
        model="one", prompt=PROMPT, max_tokens=200, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    pieces = [next(iter(stream)).choices[0].text]
    assert load(live, "two", made.paths["two"], base_model_name="base").text.startswith("Success: LoRA adapter 'two'")
    with ThreadPoolExecutor(6) as threads:
        names = ["base", "one", "two"] * 2
        assert list(threads.map(lambda name: ask(live, name), names)) == [made.texts[name] for name in names]
    assert unload(live, "one").status_code == 200
    with pytest.raises(openai.NotFoundError, match="there are: base, two"):
        ask(live, "one")
    pieces += [chunk.choices[0].text for chunk in stream if chunk.choices]
    assert "".join(pieces).startswith(made.texts["one"])
    listed = {model.id: model.to_dict() for model in live.openai.models.list()}
    assert list(listed) == ["base", "two"]
    assert (listed["two"]["parent"], listed["two"]["root"]) == ("base", str(made.paths["two"]))
    assert "parent" not in listed["base"] or listed["base"]["parent"] is None
    assert live.openai.models.retrieve("two").id == "two"
    assert live.http.get("/lora-adapters").json() == [{"id": 1, "path": str(made.paths["two"]), "scale": 0.0}]
    embedding = live.http.post("/v1/embeddings", json={"model": "two", "input": "t5"}).json()
    assert embedding["error"]["param"] == "model"  # it writes


def test_scales_are_llama_cpps(live: LiveServer, made: Made) -> None:
    """By number and scale, for a request or for all that name no adapter; numbers are never another adapter's."""

    def complete(**more: object) -> Any:
        body = {"prompt": PROMPT, "n_predict": 20, "temperature": 0, **more}
        return live.http.post("/completion", json=body)

    def make_usual(*scales: tuple[int, float]) -> Any:
        body = [{"id": number, "scale": scale} for number, scale in scales]
        return live.http.post("/lora-adapters", json=body, headers=ADMIN)

    assert load(live, "two", made.paths["two"]).status_code == 200
    assert complete(lora=[{"id": 1, "scale": 1.0}]).json()["content"] == made.texts["two"]
    half = complete(lora=[{"id": 1, "scale": 0.5}, {"id": 0, "scale": 0}]).json()["content"]
    assert half == made.half
    assert (
        complete(lora=[{"id": 1, "scale": 0}]).json()["content"] == complete().json()["content"] == made.texts["base"]
    )
    assert make_usual((1, 0.5)).json() == {"success": True}
    assert [each["scale"] for each in live.http.get("/lora-adapters").json()] == [0.0, 0.5]
    assert ask(live, "base") == complete().json()["content"] == half
    assert ask(live, "one") == made.texts["one"]
    assert complete(lora=[{"id": 0, "scale": 0}]).json()["content"] == made.texts["base"]
    assert unload(live, "one").status_code == 200
    assert [each["id"] for each in live.http.get("/lora-adapters").json()] == [1]
    assert unload(live, "two").status_code == 200
    assert complete().json()["content"] == made.texts["base"], "what has gone is not usual any more"
    assert load(live, "two", made.paths["two"]).status_code == 200
    assert complete(lora=[{"id": 1, "scale": 1}]).json()["content"] == made.texts["two"]


def test_scales_that_cannot_be_had(live: LiveServer, made: Made) -> None:
    load(live, "two", made.paths["two"])
    both = [{"id": 0, "scale": 1}, {"id": 1, "scale": 1}]
    for lora, said in (
        (both, "lora: only one adapter changes a text: merge them"),
        ([{"id": 7, "scale": 1}], "no adapter has the number 7; there are: 0 (one), 1 (two)"),
        ([{"id": 0, "scale": 1e6}], "lora[0].scale"),
        ([{"id": 0}], "lora[0].scale"),
    ):
        reply = live.http.post("/completion", json={"prompt": "t5", "lora": lora})
        assert reply.status_code == 400
        assert said in reply.json()["error"]["message"]
    named = live.http.post("/completion", json={"model": "one", "prompt": "t5", "lora": both[1:]})
    assert "'one', an adapter already: name 'base'" in named.json()["error"]["message"]
    chat = live.http.post("/v1/completions", json={"prompt": "t5", "lora": both[:1]})
    assert "give an adapter's name as the model, or ask /completion" in chat.json()["error"]["message"]
    assert live.http.post("/lora-adapters", json=both).status_code == 401
    assert live.http.post("/lora-adapters", json=both, headers=ADMIN).status_code == 400
    assert live.http.post("/lora-adapters", json={"id": 0, "scale": 1}, headers=ADMIN).status_code == 400
    assert [each["scale"] for each in live.http.get("/lora-adapters").json()] == [0.0, 0.0]


def test_what_is_wrong_is_said(live: LiveServer, made: Made, tmp_path: Path) -> None:
    assert live.http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "y"}).status_code == 401
    for name in ("one", "base"):
        assert load(live, name, made.paths["two"]).status_code == 409
    wrong = load(live, "new", tmp_path / "nothing")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "lora_path")
    assert "no such adapter" in wrong.json()["error"]["message"]
    assert unload(live, "new").status_code == 404


def test_many_loads_and_unloads_beside_a_stream(live: LiveServer, made: Made) -> None:
    done = threading.Event()
    texts: list[str] = []

    def keep_asking() -> None:
        while not done.is_set():
            texts.append(ask(live, "one"))

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(keep_asking)
        for _ in range(20):
            assert load(live, "two", made.paths["two"]).status_code == 200
            assert unload(live, "two").status_code == 200
        done.set()
        asking.result()
    assert set(texts) == {made.texts["one"]}


def test_many_loads_leave_the_servers_memory_as_it_is(live: LiveServer, made: Made) -> None:
    process, before = psutil.Process(), 0
    for turn in range(200):
        assert load(live, "two", made.paths["two"]).status_code == 200
        if turn % 10 == 0:
            assert ask(live, "two") == made.texts["two"]
        assert unload(live, "two").status_code == 200
        if turn == 49:
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 2_000_000  # 150 adapters of 50 kB each would be 7


class Pool:
    """Two models whose loading, and that of their adapters, goes on when the test says so; who has which adapters."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.held: dict[str, list[str]] = {"a": [], "b": []}
        models = {"a": {"source": "a", "adapters": {"known": "there"}}, "b": {"source": "b"}}
        self.pool = ModelPool(Settings.model_validate({"models": models, "load": "on_demand"}), self.load)

    def load(self, name: str, model: ModelSettings, *_: object) -> AsyncLLM:
        assert self.may_go_on.wait(60)
        held = self.held[name]
        held += model.adapters
        llm = SimpleNamespace(load_adapter=lambda adapter, _: held.append(adapter), unload_adapter=held.remove)
        return cast(AsyncLLM, SimpleNamespace(llm=llm))


@pytest.mark.anyio
async def test_one_name_is_given_once_and_loading_is_waited_for() -> None:
    made = Pool()
    with request_context(""):
        loads = [asyncio.create_task(made.pool.load_adapter("new", "here", base)) for base in "ab"]
        while made.pool.named("a").state != "loading":
            await asyncio.sleep(0)
        unloading = asyncio.create_task(made.pool.unload_adapter("known"))
        await asyncio.sleep(0)
        made.may_go_on.set()
        first, second = await asyncio.gather(*loads, return_exceptions=True)
        await unloading
    assert isinstance(first, ServedModel)
    assert isinstance(second, ApiError)
    assert second.status == 409
    assert made.held == {"a": ["new"], "b": []}
    assert list(made.pool.named("a").adapters) == ["new"]


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[models.a]\nsource = "x"\n[models.a.adapters]\nfrench = "there"\n')
    settings = load_settings(file)
    assert settings.models["a"].adapters == {"french": "there"}
    both = settings.with_adapters({"legal": "here"})
    assert both.models["a"].adapters == {"french": "there", "legal": "here"}
    with pytest.raises(ConfigError, match=r"models\.a\.adapters: 'a' is a name of 'a' already"):
        settings.with_adapters({"a": "here"})
