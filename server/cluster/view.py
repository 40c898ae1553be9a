"""What several replicas tell together: states, sums, and metrics that are labelled with their replica."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from server.overview import Alone
from server.schemas.models import Model, ModelState, ModelStatus, Readiness, ReplicaStatus, ServerStatus
from server.status import summed, summed_cache, summed_prefixes

if TYPE_CHECKING:
    from server.state import ServerState

QUESTIONS = ("readiness", "status", "metrics", "models")
"""What a replica is asked: a method of `Overview`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one replica says. node: the machine that it is on; answer: as `Alone` gives it."""

    replica: str
    node: str
    answer: object


Ask: TypeAlias = Callable[[str], Awaitable[Sequence[Told]]]
"""Puts one of the questions to all replicas; those that give no answer are left out."""

_ALONE = Alone()
_BEST_FIRST = ("ready", "loading", "draining", "unloaded", "failed")


class Together:
    """An `Overview` over all replicas."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def readiness(self, state: ServerState) -> Readiness:
        """Ready as soon as one is: it answers."""
        told = [cast(Readiness, each.answer) for each in await self._ask("readiness")]
        told = told or [await _ALONE.readiness(state)]
        models: dict[str, ModelState] = {}
        for each in told:
            for name, model_state in each.models.items():
                models[name] = min(models.get(name, model_state), model_state, key=_BEST_FIRST.index)
        return Readiness(status=min((each.status for each in told), key=_BEST_FIRST.index), models=models)

    async def status(self, state: ServerState) -> ServerStatus:
        """The sum of all, and each."""
        told = await self._ask("status")
        statuses = [cast(ServerStatus, each.answer) for each in told]
        if not statuses:
            return await _ALONE.status(state)
        by_model: defaultdict[str, list[ModelStatus]] = defaultdict(list)
        for status in statuses:
            for name, model in status.models.items():
                by_model[name].append(model)
        return summed(
            min((status.status for status in statuses), key=_BEST_FIRST.index),
            {name: _added(models) for name, models in by_model.items()},
            num_requests=sum(status.requests for status in statuses),
            replicas=[_replica(each, status) for each, status in zip(told, statuses, strict=True)],
        )

    async def metrics(self, state: ServerState) -> Sequence[Metric]:
        """Those of all, each sample with the label `replica`."""
        told = await self._ask("metrics")
        count = GaugeMetricFamily("genai_replicas", "Replicas that answer", value=len(told))
        merged: dict[str, Metric] = {count.name: count}
        for each in told:
            for metric in cast(Sequence[Metric], each.answer):
                known = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                labelled = ({**sample.labels, "replica": each.replica} for sample in metric.samples)
                known.samples.extend(
                    sample._replace(labels=labels) for sample, labels in zip(metric.samples, labelled, strict=True)
                )
        return list(merged.values())

    async def models(self, state: ServerState) -> Sequence[Model]:
        """Each once, as the replica tells it that is furthest."""
        found: dict[str, Model] = {}
        for each in await self._ask("models"):
            for model in cast(Sequence[Model], each.answer):
                known = found.setdefault(model.id, model)
                found[model.id] = min(known, model, key=lambda model: _BEST_FIRST.index(model.state))
        return list(found.values()) or await _ALONE.models(state)


def _replica(told: Told, status: ServerStatus) -> ReplicaStatus:
    return ReplicaStatus(
        id=told.replica,
        node=told.node,
        models=list(status.models),
        status=status.status,
        running=status.running,
        waiting=status.waiting,
        requests=status.requests,
        tokens_per_second=status.tokens_per_second,
        prefix_cache=status.prefix_cache,
    )


def _added(models: Sequence[ModelStatus]) -> ModelStatus:
    """One model in several replicas. Its longest sequence is what each of them takes."""
    lengths = [model.max_model_len for model in models if model.max_model_len]
    return ModelStatus(
        state=min((model.state for model in models), key=_BEST_FIRST.index),
        running=sum(model.running for model in models),
        waiting=sum(model.waiting for model in models),
        rows=[row for model in models for row in model.rows],
        cache=summed_cache(model.cache for model in models),
        max_batch=sum(model.max_batch for model in models),
        max_model_len=min(lengths, default=0),
        same_bits="; ".join(sorted({model.same_bits for model in models if model.same_bits})),
        prefix_cache=summed_prefixes(model.prefix_cache for model in models),
        generated_tokens=sum(model.generated_tokens for model in models),
        tokens_per_second=sum(model.tokens_per_second for model in models),
    )
