"""From a package folder to a runner: budget, probe, contract check, session, cache."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from genai import contract
from genai.config import KV_CACHE_SHARE, EngineConfig, ModelConfig
from genai.errors import CapacityError, ContractError
from genai.runtime.cache import CacheShape, KVCache
from genai.runtime.layout import bucketed
from genai.runtime.memory import memory_for
from genai.runtime.probe import check_kernels
from genai.runtime.runner import Runner
from genai.runtime.session import Session

_log = logging.getLogger(__name__)

MODEL_FILE = "model.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRunner:
    """A runner, and the longest sequence that its cache and its model allow."""

    runner: Runner
    max_seq_len: int


def load_runner(folder: Path, model: ModelConfig, config: EngineConfig) -> LoadedRunner:
    """Load a package's graph and allocate its cache.

    Raises: CapacityError if the budget does not hold what was asked for, ContractError for a graph that does not follow
    the contract, RuntimeUnavailableError for missing or wrong kernels.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ContractError(f"{folder} is not a model package: it has no {MODEL_FILE}")
    session = Session(path, config)
    graph = contract.check_signature(session.inputs, session.outputs)
    shape = CacheShape(num_buffers=2 * graph.num_layers, kv_size=graph.kv_size, dtype=graph.cache_dtype)
    check_kernels(config, graph.cache_dtype)
    num_slots, max_seq_len = plan_budget(model.max_position, shape.bytes_per_token, config, session.free_memory())
    cache = KVCache(shape, num_slots, memory_for(session, config))
    _log.info(
        "KV cache: %d tokens, %d bytes; longest sequence %d", num_slots, num_slots * shape.bytes_per_token, max_seq_len
    )
    runner = Runner(session, cache, graph.vocab_size, config.prefill_chunk)
    return LoadedRunner(runner=runner, max_seq_len=max_seq_len)


def plan_budget(max_position: int, bytes_per_token: int, config: EngineConfig, free_bytes: int) -> tuple[int, int]:
    """(tokens in the arena, longest sequence). Raises: CapacityError with the arithmetic."""
    wanted = config.max_seq_len
    if wanted is not None and wanted > max_position:
        raise CapacityError(f"max_seq_len={wanted}: the model was built for at most {max_position} tokens")
    useful = bucketed(wanted or max_position) * config.max_batch
    if config.kv_cache_bytes is not None:
        budget, origin = config.kv_cache_bytes, f"kv_cache_bytes={config.kv_cache_bytes:,}"
    else:
        budget = int(free_bytes * KV_CACHE_SHARE)
        origin = f"{KV_CACHE_SHARE:.0%} of {free_bytes:,} free bytes"
    num_slots = min(budget // bytes_per_token, useful)
    needed = wanted or 1
    if config.kv_cache_bytes is not None and budget > free_bytes:
        raise CapacityError(f"kv_cache_bytes={budget:,}: only {free_bytes:,} bytes are free")
    if num_slots < needed:
        raise CapacityError(
            f"a KV cache for {needed:,} tokens takes {needed:,} × {bytes_per_token:,} = {needed * bytes_per_token:,} "
            f"bytes, more than {origin}; lower max_seq_len or raise kv_cache_bytes"
        )
    return num_slots, min(wanted or max_position, num_slots)
