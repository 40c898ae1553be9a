"""What the server is doing at this moment, read off the engines without stopping them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from server.models import ServedModel
from server.schemas.models import CacheStatus, ModelStatus, PrefixCacheStatus, RowStatus, ServerStatus
from server.state import ServerState

if TYPE_CHECKING:
    from genai.llm.llm import LLM


def readiness(state: ServerState) -> Literal["ready", "loading", "draining", "failed"]:
    """Whether requests are answered now, and why not."""
    if state.lifecycle.is_draining:
        return "draining"
    if state.models.is_starting:
        return "loading"
    return "failed" if all(model.state == "failed" for model in state.models.models) else "ready"


def server_status(state: ServerState) -> ServerStatus:
    """All models, and their sum."""
    models = {model.name: _model_status(model) for model in state.models.models}
    return ServerStatus(
        status=readiness(state),
        running=sum(model.running for model in models.values()),
        waiting=sum(model.waiting for model in models.values()),
        rows=[row for model in models.values() for row in model.rows],
        cache=CacheStatus(
            used_bytes=sum(model.cache.used_bytes for model in models.values()),
            idle_rows=sum(model.cache.idle_rows for model in models.values()),
            idle_bytes=sum(model.cache.idle_bytes for model in models.values()),
            total_bytes=sum(model.cache.total_bytes for model in models.values()),
        ),
        tokens_per_second=sum(model.tokens_per_second for model in models.values()),
        prefix_cache=PrefixCacheStatus(
            prompt_tokens=sum(model.prefix_cache.prompt_tokens for model in models.values()),
            hits=sum(model.prefix_cache.hits for model in models.values()),
            bytes=sum(model.prefix_cache.bytes for model in models.values()),
        ),
        requests=state.lifecycle.num_active,
        models=models,
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
        rows=[RowStatus(valid=row.valid, capacity=row.capacity) for row in cache.rows],
        cache=CacheStatus(
            used_bytes=cache.used_bytes,
            idle_rows=cache.num_idle,
            idle_bytes=cache.idle_bytes,
            total_bytes=cache.total_bytes,
        ),
        max_batch=llm.engine_config.max_batch,
        max_model_len=llm.max_seq_len,
        prefix_cache=PrefixCacheStatus(
            prompt_tokens=_counted(llm, "genai_prompt_tokens_total", model.name),
            hits=_counted(llm, "genai_prefix_cache_hit_tokens_total", model.name),
            bytes=cache.prefix_bytes,
        ),
        generated_tokens=generated,
        tokens_per_second=model.meter.rate(generated),
    )


def _counted(llm: LLM, name: str, model: str) -> int:
    return int(llm.metrics.registry.get_sample_value(name, {"model": model}) or 0)
