"""What the server is doing at this moment, read off the engines without stopping them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from server.models import ServedModel
from server.schemas.models import CacheStatus, ModelStatus, PrefixCacheStatus, ReplicaStatus, RowStatus, ServerStatus

if TYPE_CHECKING:
    from genai.llm.llm import LLM
    from server.state import ServerState

Readiness: TypeAlias = Literal["ready", "loading", "draining", "failed"]


def readiness(state: ServerState) -> Readiness:
    """Whether requests are answered now, and why not."""
    if state.lifecycle.is_draining:
        return "draining"
    if state.models.is_starting:
        return "loading"
    return "failed" if all(model.state == "failed" for model in state.models.models) else "ready"


def server_status(state: ServerState) -> ServerStatus:
    """All models, and their sum."""
    models = {model.name: _model_status(model) for model in state.models.models}
    return summed(readiness(state), models, num_requests=state.lifecycle.num_active)


def summed(
    status: Readiness, models: Mapping[str, ModelStatus], *, num_requests: int, replicas: Sequence[ReplicaStatus] = ()
) -> ServerStatus:
    """Models and their sum. num_requests: those that are being answered; replicas: of which this is the sum."""
    return ServerStatus(
        status=status,
        running=sum(model.running for model in models.values()),
        waiting=sum(model.waiting for model in models.values()),
        rows=[row for model in models.values() for row in model.rows],
        cache=summed_cache(model.cache for model in models.values()),
        tokens_per_second=sum(model.tokens_per_second for model in models.values()),
        prefix_cache=summed_prefixes(model.prefix_cache for model in models.values()),
        requests=num_requests,
        models=dict(models),
        replicas=list(replicas),
    )


def summed_cache(caches: Iterable[CacheStatus]) -> CacheStatus:
    """Several arenas as one."""
    known = list(caches)
    return CacheStatus(
        used_bytes=sum(cache.used_bytes for cache in known),
        idle_rows=sum(cache.idle_rows for cache in known),
        idle_bytes=sum(cache.idle_bytes for cache in known),
        total_bytes=sum(cache.total_bytes for cache in known),
    )


def summed_prefixes(caches: Iterable[PrefixCacheStatus]) -> PrefixCacheStatus:
    """Several prefix caches as one."""
    known = list(caches)
    return PrefixCacheStatus(
        prompt_tokens=sum(cache.prompt_tokens for cache in known),
        hits=sum(cache.hits for cache in known),
        bytes=sum(cache.bytes for cache in known),
        snapshots=sum(cache.snapshots for cache in known),
    )


def _model_status(model: ServedModel) -> ModelStatus:
    if model.state != "ready":
        return ModelStatus(state=model.state)
    llm, engine = model.llm.llm, model.llm.engine
    cache = engine.cache_status
    generated = _counted(llm, "genai_generated_tokens_total", model.name)
    return ModelStatus(
        state=model.state,
        running=len(engine.running),
        waiting=engine.num_waiting,
        rows=[RowStatus(valid=row.valid, capacity=row.capacity, state_bytes=row.state_bytes) for row in cache.rows],
        cache=CacheStatus(
            used_bytes=cache.used_bytes,
            idle_rows=cache.num_idle,
            idle_bytes=cache.idle_bytes,
            total_bytes=cache.total_bytes,
        ),
        max_batch=llm.engine_config.max_batch,
        max_model_len=llm.max_seq_len,
        same_bits=llm.same_bits.summary,
        prefix_cache=PrefixCacheStatus(
            prompt_tokens=_counted(llm, "genai_prompt_tokens_total", model.name),
            hits=_counted(llm, "genai_prefix_cache_hit_tokens_total", model.name),
            bytes=cache.prefix_bytes,
            snapshots=cache.num_snapshots,
        ),
        generated_tokens=generated,
        tokens_per_second=model.meter.rate(generated),
    )


def _counted(llm: LLM, name: str, model: str) -> int:
    return int(llm.metrics.registry.get_sample_value(name, {"model": model}) or 0)
