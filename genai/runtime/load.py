"""From a package folder to a runner: budget, probe, contract check, session, cache."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from genai import contract
from genai.config import (
    CONTRACT_VERSION,
    KV_CACHE_SHARE,
    MODEL_FILE,
    PREFIX_CACHE_SHARE,
    EngineConfig,
    ModelConfig,
)
from genai.contract import Output
from genai.errors import CapacityError, ContractError
from genai.runtime.adapters import AdapterMemory
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import CacheShape
from genai.runtime.capacity import CapacityPolicy, least_slots
from genai.runtime.host import free_host_memory
from genai.runtime.kept_answers import Answers, KeptAnswer
from genai.runtime.providers import provider_for
from genai.runtime.providers.base import Provider
from genai.runtime.row_start import read_row_start
from genai.runtime.row_windows import num_window_slots
from genai.runtime.runner import Runner
from genai.runtime.same_bits import MOST_PADDING, SameBits, keep_bits, sizes_that_matter
from genai.runtime.session import Session
from genai.runtime.states import num_state_slots
from genai.runtime.step_cost import long_slots, step_cost
from genai.runtime.windows import WindowRoom

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRunner:
    """A runner, the longest sequence that its cache and its model allow, and host memory for earlier prompts.

    same_bits: whether a text is the same whatever runs beside it.
    """

    runner: Runner
    max_seq_len: int
    prefix_cache_bytes: int
    same_bits: SameBits


def load_runner(folder: Path, model: ModelConfig, config: EngineConfig, *, is_asked_anew: bool = False) -> LoadedRunner:
    """Load a package's graph and allocate its cache.

    is_asked_anew: what was asked of the processor before and kept does not count. Raises: CapacityError if the budget
    does not hold what was asked for, ContractError for a graph that does not follow the contract,
    RuntimeUnavailableError for missing or wrong kernels.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ContractError(f"{folder} is not a model package: it has no {MODEL_FILE}")
    answers = Answers.about(path, config, provider_for(config), is_asked_anew=is_asked_anew)
    session, graph = _checked_session(folder, model, config, answers.to("kernels", []))
    prefix_bytes = config.prefix_cache_bytes
    if prefix_bytes is None:
        prefix_bytes = int(free_host_memory() * PREFIX_CACHE_SHARE)
    adapters = _adapter_memory(folder, model, graph, session)
    cache, max_seq_len = _new_cache(folder, model, config, graph, provider=session.provider, adapters=adapters)
    runner = Runner(
        session,
        cache,
        output=graph.output,
        vocab_size=model.vocab_size,
        num_heads=model.num_heads,
        prefill_chunk=config.prefill_chunk,
        adapters=adapters,
        can_repeat=graph.repeats,
    )
    same_bits = SameBits(padding=None, is_asked_for=False)
    if config.same_bits:
        sizes = sizes_that_matter(cache.num_slots, max_seq_len, cache.window)
        same_bits = keep_bits(runner, max_seq_len, answers.to("same bits", sizes))
    if config.max_batch > 1:
        sizes = [long_slots(runner), runner.padding.most]
        cache.policy = replace(cache.policy, cost=step_cost(runner, answers.to("step cost", sizes)))
    return LoadedRunner(
        runner=runner,
        max_seq_len=min(max_seq_len, cache.num_slots - model.reserved_slots - cache.policy.spare),
        prefix_cache_bytes=prefix_bytes,
        same_bits=same_bits,
    )


def _checked_session(
    folder: Path, model: ModelConfig, config: EngineConfig, kept: KeptAnswer
) -> tuple[Session, contract.GraphShape]:
    """A package's graph, which follows the contract, on kernels that compute what they should.

    kept: true where they were found to. Raises: as `load_runner`, but for the budget.
    """
    if kept.value is True:
        return _session(folder, model, config)
    from genai.runtime.probe import check_kernels, check_layers  # builds graphs with onnx, which nobody else needs
    from genai.runtime.probe_states import check_states

    check_kernels(config, model.cache_dtype)  # first: of a type without kernels the graph would not even load
    session, graph = _session(folder, model, config)
    check_layers(config, graph.cache_dtype, graph.caches)
    check_states(config, () if model.provenance.precision == "f32" else graph.states)
    kept.keep(True)
    return session, graph


def _session(folder: Path, model: ModelConfig, config: EngineConfig) -> tuple[Session, contract.GraphShape]:
    session = Session(folder / MODEL_FILE, config)
    graph = contract.check_signature([*session.inputs, *session.optional_inputs], session.outputs)
    _check_agreement(folder, model, graph)
    return session, graph


def _new_cache(
    folder: Path,
    model: ModelConfig,
    config: EngineConfig,
    graph: contract.GraphShape,
    *,
    provider: Provider,
    adapters: AdapterMemory | None,
) -> tuple[KVCache, int]:
    """The arena that the budget allows, and the longest sequence in it. Raises: CapacityError."""
    shape = CacheShape(caches=graph.caches, dtype=graph.cache_dtype, states=graph.states)
    row_start = read_row_start(folder, model, shape)
    free_bytes = provider.free_memory()
    if adapters is not None and free_bytes is not None:
        free_bytes -= AdapterMemory.num_bytes(adapters.room, adapters.num_places)
    spare = MOST_PADDING if config.same_bits else 0
    least, reserved, window = least_slots(model.head_dim), model.reserved_slots, None
    if model.kept_window is not None:
        window = WindowRoom.of(model.kept_window, config.prefill_chunk, spare=spare, reserved_slots=reserved)
    num_slots, max_seq_len = plan_budget(
        model.max_position,
        shape.bytes_per_token,
        config,
        free_bytes,
        least=least,
        bytes_per_row=shape.bytes_per_row,
        reserved_slots=reserved,
        spare=spare,
        window_bytes_per_token=shape.window_bytes_per_token,
        window=window,
    )
    cache = KVCache(shape, num_slots, provider, row_start, max_batch=config.max_batch, window=window)
    cache.policy = CapacityPolicy(least=min(least, num_slots))
    _log.info("KV cache: %d tokens, %d bytes; longest sequence %d", num_slots, cache.num_bytes, max_seq_len)
    if window is not None:
        _log.info("layers with windows keep at most %d tokens of a row", window.slots)
    if graph.states:
        num_states = num_state_slots(config.max_batch)
        _log.info("states: %d, %d bytes", num_states, num_states * shape.bytes_per_row)
    return cache, max_seq_len


def _adapter_memory(
    folder: Path, model: ModelConfig, graph: contract.GraphShape, session: Session
) -> AdapterMemory | None:
    """Memory for adapters, if the graph has room for some. Raises: ContractError if it is not told of, or is not."""
    if (graph.adapters is None) != (model.adapters is None):
        said, has = ("none", "some") if model.adapters is None else ("some", "none")
        raise ContractError(f"{folder}: genai.json has room for {said} adapters, its graph for {has}; build it again")
    if graph.adapters is None or model.adapters is None:
        return None
    return AdapterMemory(graph.adapters, model.adapters.slots, session.provider)


def _check_agreement(folder: Path, model: ModelConfig, graph: contract.GraphShape) -> None:
    """Raises: ContractError if `genai.json` and the graph's signature say different things."""
    if graph.cache_dtype != model.cache_dtype:
        raise ContractError(f"{folder}: its caches are {graph.cache_dtype}, genai.json says {model.cache_dtype}")
    told = Output(contract.LOGITS, graph.output.width)
    if model.embedding is not None:
        told = Output(contract.EMBEDDINGS, model.hidden_size)
    if graph.output != told:
        raise ContractError(
            f"{folder}: its graph gives {graph.output.name} of {graph.output.width} numbers, genai.json says "
            f"{told.name} of {told.width}; build it again"
        )
    if any(cache.is_windowed for cache in graph.caches) != (model.kept_window is not None):
        said, has = ("none", "some") if model.kept_window is None else ("some", "none")
        raise ContractError(
            f"{folder}: genai.json says that {said} of its layers keep their windows alone, its graph has {has}; build "
            "it again"
        )
    has_more = graph.states or graph.adapters or not contract.is_uniform(graph.caches)
    if model.contract_version == CONTRACT_VERSION and has_more:
        raise ContractError(
            f"{folder}: its layers' caches differ, or it has states or room for adapters; genai.json says contract "
            f"version {CONTRACT_VERSION}, in which they are all alike and there is neither; build it again"
        )


def plan_budget(
    max_position: int,
    bytes_per_token: int,
    config: EngineConfig,
    free_bytes: int | None,
    *,
    least: int = 1,
    bytes_per_row: int = 0,
    reserved_slots: int = 0,
    spare: int = 0,
    window_bytes_per_token: int = 0,
    window: WindowRoom | None = None,
) -> tuple[int, int]:
    """(slots in the arena, longest sequence), of what states leave of the budget.

    free_bytes: None where the device does not tell; least: of each row; bytes_per_row: its states; reserved_slots: of
    each row, beside its tokens; spare: those behind the last row's tokens that padded runs need, where there is memory
    for them; window_bytes_per_token: the part of `bytes_per_token` that is kept for windows alone, of which rows have
    so much. Raises: CapacityError with the arithmetic.
    """
    wanted = config.max_seq_len
    if wanted is not None and wanted > max_position:
        raise CapacityError(f"max_seq_len={wanted}: the model was built for at most {max_position} tokens")
    useful = CapacityPolicy(least=least).capacity((wanted or max_position) + reserved_slots) * config.max_batch + spare
    if config.kv_cache_bytes is not None:
        budget, origin = config.kv_cache_bytes, f"kv_cache_bytes={config.kv_cache_bytes:,}"
    elif free_bytes is None:
        raise CapacityError("the device does not tell how much of its memory is free; set kv_cache_bytes")
    else:
        budget = int(free_bytes * KV_CACHE_SHARE)
        origin = f"{KV_CACHE_SHARE:.0%} of {free_bytes:,} free bytes"
    num_states = num_state_slots(config.max_batch)
    left = max(budget - num_states * bytes_per_row, 0)
    near = num_window_slots(useful, window, config.max_batch)  # at most: shorter rows have no more there than elsewhere
    num_slots = left // bytes_per_token
    if num_slots >= near > 0:
        whole = bytes_per_token - window_bytes_per_token
        num_slots = (left - near * window_bytes_per_token) // whole if whole else useful
    num_slots = min(num_slots, useful)
    needed = (wanted or 1) + reserved_slots
    if free_bytes is not None and budget > free_bytes:
        raise CapacityError(f"kv_cache_bytes={budget:,}: only {free_bytes:,} bytes are free")
    if num_slots < needed:
        what, more, remedy = f"{needed:,} × {bytes_per_token:,}", "", "lower max_seq_len"
        num_bytes = needed * bytes_per_token
        if needed > near > 0:
            whole = bytes_per_token - window_bytes_per_token
            num_bytes = needed * whole + near * window_bytes_per_token
            what = f"{needed:,} × {whole:,} + {near:,} × {window_bytes_per_token:,} (max_batch + 2 rows' windows)"
        if bytes_per_row:
            more = (
                f", its states {num_states} × {bytes_per_row:,} = {num_states * bytes_per_row:,} (max_batch + 2 rows')"
            )
        if bytes_per_row or needed > near > 0:
            remedy += " or max_batch,"
        raise CapacityError(
            f"a KV cache for {needed:,} tokens{' (one of them reserved)' if reserved_slots else ''} takes {what} = "
            f"{num_bytes:,} bytes{more}, more than {origin}; {remedy} or raise kv_cache_bytes"
        )
    return num_slots, min(wanted or max_position, num_slots - reserved_slots)
