"""What several replicas tell together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from server.cluster.view import Together, Told
from server.metrics import collected, exposition
from server.overview import Alone
from server.schemas.models import CacheStatus, ModelStatus, PrefixCacheStatus, Readiness, RowStatus
from server.state import ServerState
from server.status import summed
from tests.server.fakes import FakeModel, app_with, serving

pytestmark = pytest.mark.anyio


def together(*answers: object) -> Together:
    async def ask(question: str) -> Sequence[Told]:
        return [Told(replica=f"r{number}", node="n", answer=answer) for number, answer in enumerate(answers)]

    return Together(ask)


@pytest.fixture
async def state() -> ServerState:
    app = app_with(FakeModel())
    async with serving(app):
        found: ServerState = app.state.server
        return found


async def test_one_that_is_ready_is_enough(state: ServerState) -> None:
    loading, ready = (Readiness(status=each, models={"a": each}) for each in ("loading", "ready"))  # type: ignore[arg-type]
    assert (await together(loading, ready).readiness(state)).status == "ready"
    assert (await together(loading, loading).readiness(state)).status == "loading"
    others = Readiness(status="draining", models={"b": "failed"})
    assert (await together(loading, others).readiness(state)).models == {"a": "loading", "b": "failed"}


async def test_who_hears_nothing_tells_of_itself(state: ServerState) -> None:
    silent, alone = together(), Alone()
    assert await silent.readiness(state) == await alone.readiness(state)
    assert await silent.status(state) == await alone.status(state)
    assert list(await silent.models(state)) == list(await alone.models(state))


async def test_a_status_is_a_sum_and_its_parts(state: ServerState) -> None:
    model = ModelStatus(
        state="ready",
        running=2,
        waiting=1,
        rows=[RowStatus(valid=3, capacity=4)],
        cache=CacheStatus(used_bytes=5, idle_rows=1, idle_bytes=6, total_bytes=7),
        max_batch=8,
        max_model_len=100,
        same_bits="kept",
        prefix_cache=PrefixCacheStatus(prompt_tokens=9, hits=4, bytes=10, snapshots=1),
        generated_tokens=11,
        tokens_per_second=1.5,
    )
    one = summed("ready", {"a": model}, num_requests=3)
    two = summed(
        "draining", {"a": model.model_copy(update={"max_model_len": 50, "same_bits": "not kept"})}, num_requests=1
    )
    both = await together(one, two).status(state)
    assert (both.status, both.running, both.waiting, both.requests) == ("ready", 4, 2, 4)
    assert both.cache == CacheStatus(used_bytes=10, idle_rows=2, idle_bytes=12, total_bytes=14)
    assert both.models["a"].prefix_cache == PrefixCacheStatus(prompt_tokens=18, hits=8, bytes=20, snapshots=2)
    assert (both.models["a"].max_batch, both.models["a"].max_model_len, len(both.rows)) == (16, 50, 2)
    assert both.models["a"].same_bits == "kept; not kept"
    assert [(each.id, each.status, each.running) for each in both.replicas] == [
        ("r0", "ready", 2),
        ("r1", "draining", 2),
    ]


async def test_metrics_are_labelled_with_their_replica(state: ServerState) -> None:
    def counted(count: int) -> object:
        registry = CollectorRegistry()
        Counter("genai_tokens", "Tokens", ["model"], registry=registry).labels("a").inc(count)
        return collected([registry])

    page = exposition(await together(counted(2), counted(3)).metrics(state)).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    tokens = {tuple(sorted(each.labels.items())): each.value for each in families["genai_tokens"].samples}
    assert tokens[("model", "a"), ("replica", "r0")] == 2
    assert tokens[("model", "a"), ("replica", "r1")] == 3
    assert families["genai_replicas"].samples[0].value == 2


async def test_a_model_is_told_once_as_it_is_where_it_is_furthest(state: ServerState) -> None:
    (model,) = await Alone().models(state)
    loading = model.model_copy(update={"state": "loading"})
    other = model.model_copy(update={"id": "other"})
    found = await together([loading], [model, other]).models(state)
    assert [(each.id, each.state) for each in found] == [(model.id, "ready"), ("other", "ready")]
