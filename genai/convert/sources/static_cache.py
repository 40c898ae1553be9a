"""Graphs that write fixed caches themselves, as mobius-onnx's static-cache packages do: nearly the contract already.

    key_cache.i [B, N, Hkv*D] ─► TensorScatter(axis=1) ─► Attention(nonpad_kv_seqlen) ─► … ─► logits [B, T, V]

The capacity N is fixed there and becomes free; logits are computed for the chosen positions only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from genai import contract
from genai.build.checkpoint_config import CONFIG_FILE as HF_CONFIG
from genai.convert.emit import ContractGraph, Heads
from genai.convert.normalize import normalize
from genai.convert.package import read_facts
from genai.convert.plain.newer import WINDOWS
from genai.convert.probing import Array
from genai.convert.rewritten import FloatArray, ModelFacts, Rewritten
from genai.convert.sources.onnxruntime_genai.config import CONFIG_FILE as GENAI_CONFIG
from genai.convert.sources.onnxruntime_genai.config import read_genai_config
from genai.convert.sources.onnxruntime_genai.rotary import CONTRIB
from genai.convert.values import size_of
from genai.errors import UnsupportedModelError
from genai.runtime.session import Session

_KERNELS = {"SkipSimplifiedLayerNormalization", "SkipLayerNormalization"}
"""Operators that the package also defines as functions, for runtimes without them."""
_MASK, _LENGTHS = 3, 6


def is_static_cache(model: ir.Model) -> bool:
    """Whether a graph has the contract's caches and indices."""
    names = {value.name for value in model.graph.inputs}
    return {contract.key_cache(0), contract.WRITE_INDICES, contract.NONPAD_KV_SEQLEN} <= names


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticCacheGraph:
    """A graph that was understood. caches: its cache inputs by name; heads: of its attention; capacity: tokens that
    its caches hold, None if that is free; num_positions: rows of its rotary tables, None if it has none.
    """

    caches: dict[str, ir.Value]
    heads: Heads
    capacity: int | None
    num_positions: int | None


def convert_static_cache(
    model: ir.Model, load: Callable[[], Session], folder: Path, max_seq_len: int | None
) -> Rewritten:
    """Put a graph onto the contract, in place: free capacity, and logits of chosen positions.

    load: the graph as it was; folder: where its configuration lies; max_seq_len: the longest sequence, where the caller
    knows it. Raises: UnsupportedModelError for what does not follow the contract in another way.
    """
    _drop_kernels_functions(model)
    normalize(model)
    found = understand(model)
    facts = _facts(found, folder, max_seq_len)
    graph, updated = model.graph, _updated(model, found)
    inputs = {value.name: value for value in graph.inputs}
    logits = next(value for value in graph.outputs if value.name == contract.LOGITS)
    target = ContractGraph(
        model,
        input_ids=inputs[contract.INPUT_IDS],
        position_ids=inputs.get(contract.POSITION_IDS),
        caches=[contract.Cache(name, found.heads.kv_size) for name in found.caches],
        cache_dtype=found.caches[contract.key_cache(0)].dtype or ir.DataType.FLOAT,
    )
    inputs[contract.WRITE_INDICES].replace_all_uses_with(target.write_indices)
    inputs[contract.NONPAD_KV_SEQLEN].replace_all_uses_with(target.nonpad_kv_seqlen)
    for name, value in found.caches.items():
        value.replace_all_uses_with(target.cache(name))
        target.set_updated(name, updated[name])
    target.finish(logits)
    return Rewritten(
        kind="static-cache graph",
        facts=facts,
        original=lambda: StaticCacheModel(load(), found.capacity),
        notes=()
        if found.capacity is None
        else (f"the caches' fixed {found.capacity:,} tokens became a free dimension",),
    )


def understand(model: ir.Model) -> StaticCacheGraph:
    """Read a normalized graph. Raises: UnsupportedModelError for what does not follow the contract in another way."""
    inputs = {value.name or "": value for value in model.graph.inputs}
    num_layers = sum(name.startswith(contract.key_cache(0)[:-1]) for name in inputs)
    caches = [name(layer) for layer in range(num_layers) for name in (contract.key_cache, contract.value_cache)]
    wanted = {contract.INPUT_IDS, contract.WRITE_INDICES, contract.NONPAD_KV_SEQLEN, *caches}
    if missing := sorted(wanted - inputs.keys()):
        raise UnsupportedModelError(f"the graph has caches but lacks the inputs {', '.join(missing[:8])}")
    if unknown := sorted(inputs.keys() - wanted - {contract.POSITION_IDS}):
        raise UnsupportedModelError(f"the graph has the inputs {', '.join(unknown[:8])}: not supported")
    attentions = [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]
    heads = {_heads(node, inputs) for node in attentions}
    if len(heads) != 1 or len(attentions) != num_layers:
        raise UnsupportedModelError(
            f"{num_layers} layers have caches, and there are {len(attentions)} Attention nodes of {len(heads)} kinds: "
            "one for each layer, all alike, are supported"
        )
    first = inputs[contract.key_cache(0)]
    for name in caches:
        shape = inputs[name].shape
        if shape is None or len(shape) != 3 or size_of(inputs[name], 2) != size_of(first, 2):
            raise UnsupportedModelError(f"the cache {name} has shape {shape}; all must be [B, S, Hkv*D] of one size")
    return StaticCacheGraph(
        caches={name: inputs[name] for name in caches},
        heads=heads.pop(),
        capacity=size_of(first, 1),
        num_positions=_table_rows(inputs.get(contract.POSITION_IDS)),
    )


class StaticCacheModel:
    """A static-cache graph as it was, one row at a time: what its conversion is compared with."""

    def __init__(self, session: Session, capacity: int | None) -> None:
        self._session = session
        self._capacity = capacity

    def logits(self, chunks: Sequence[Sequence[int]]) -> FloatArray:
        """The logits [T, V] after each token, the tokens given in parts that continue each other.

        Raises: UnsupportedModelError for more tokens than its caches hold.
        """
        count = sum(map(len, chunks))
        if self._capacity is not None and count > self._capacity:
            raise UnsupportedModelError(
                f"the original's caches hold {self._capacity} tokens, too few to compare it on {count}: build it for "
                "longer sequences"
            )
        inputs = {tensor.name: tensor for tensor in self._session.inputs}
        caches = {
            name: np.zeros((1, self._capacity or count, tensor.shape[2]), tensor.dtype)
            for name, tensor in inputs.items()
            if contract.is_cache(name) and isinstance(tensor.shape[2], int)
        }
        results, past = [], 0
        for chunk in chunks:
            outputs = self._session.call(_fed(chunk, past, inputs.keys()) | caches)
            caches = {name: outputs[contract.updated(name)] for name in caches}
            results.append(np.asarray(outputs[contract.LOGITS][0], np.float32))
            past += len(chunk)
        return np.concatenate(results)


def _fed(chunk: Sequence[int], past: int, names: Collection[str]) -> dict[str, Array]:
    """Everything but the caches, as far as the graph has it."""
    values: dict[str, Array] = {
        contract.INPUT_IDS: np.array([chunk], np.int64),
        contract.POSITION_IDS: np.arange(past, past + len(chunk))[None],
        contract.WRITE_INDICES: np.array([past], np.int64),
        contract.NONPAD_KV_SEQLEN: np.array([past + len(chunk)], np.int64),
    }
    return {name: value for name, value in values.items() if name in names}


def _heads(node: ir.Node, inputs: dict[str, ir.Value]) -> Heads:
    """What an Attention computes, which must be what the contract's does."""
    given = (*node.inputs, *[None] * _LENGTHS)
    if given[_LENGTHS] is not inputs[contract.NONPAD_KV_SEQLEN] or node.attributes.get_int("is_causal", 0) != 1:
        raise UnsupportedModelError(f"{node.name} is not causal over as many keys as are valid: not supported")
    if any(node.attributes.get_int(name, -1) >= 0 for name in WINDOWS):
        raise UnsupportedModelError(f"{node.name} has a window: not supported in a graph that writes its own caches")
    if given[_MASK] is not None:
        raise UnsupportedModelError(f"{node.name} has a mask: not supported in a graph that writes its own caches")
    for cache, index in ((contract.key_cache, 1), (contract.value_cache, 2)):
        _check_write(node, given[index], {cache(layer) for layer in range(len(inputs))}, inputs)
    num_heads, num_kv_heads = (node.attributes.get_int(name, 0) for name in ("q_num_heads", "kv_num_heads"))
    size = size_of(inputs[contract.key_cache(0)], 2)
    if size is None or num_heads < 1 or num_kv_heads < 1 or size % num_kv_heads:
        raise UnsupportedModelError(f"{node.name} has {num_heads} and {num_kv_heads} heads for keys of {size} elements")
    return Heads(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=size // num_kv_heads)


def _check_write(node: ir.Node, written: ir.Value | None, caches: set[str], inputs: dict[str, ir.Value]) -> None:
    """Keys or values must be a cache input after a write at the given places."""
    write = None if written is None else written.producer()
    if (
        write is None
        or write.op_type != "TensorScatter"
        or write.inputs[0] is None
        or write.inputs[0].name not in caches
        or write.inputs[2:] != (inputs[contract.WRITE_INDICES],)
        or write.attributes.get_int("axis", -2) not in (1, -2)
        or write.attributes.get_string("mode", "linear") != "linear"
    ):
        raise UnsupportedModelError(
            f"{node.name} does not attend over a cache [B, S, Hkv*D] that TensorScatter has just written"
        )


def _updated(model: ir.Model, found: StaticCacheGraph) -> dict[str, ir.Value]:
    """The caches after the write, by the inputs' names."""
    outputs = {value.name: value for value in model.graph.outputs}
    if missing := [name for name in found.caches if contract.updated(name) not in outputs]:
        raise UnsupportedModelError(f"the graph lacks the output {contract.updated(missing[0])!r}")
    if contract.LOGITS not in outputs:
        raise UnsupportedModelError(f"the graph lacks the output {contract.LOGITS!r}")
    return {name: outputs[contract.updated(name)] for name in found.caches}


def _table_rows(position_ids: ir.Value | None) -> int | None:
    """Positions that every table which is read at positions has."""
    if position_ids is None:
        return None
    tables = [node.inputs[0] for node in position_ids.consumers() if node.op_type == "Gather"]
    return min((rows for table in tables if table is not None and (rows := size_of(table, 0))), default=None)


def _facts(found: StaticCacheGraph, folder: Path, max_seq_len: int | None) -> ModelFacts:
    """What the folder's configuration says; no more positions than the graph's tables have."""
    if (folder / GENAI_CONFIG).is_file():
        facts = read_genai_config(folder).facts
    else:
        longest = None if (folder / HF_CONFIG).is_file() else found.num_positions
        facts = read_facts(folder, found.heads, max_seq_len or longest)
    heads, limits = found.heads, (facts.max_position, found.num_positions, max_seq_len)
    return replace(
        facts,
        num_heads=heads.num_heads,
        num_kv_heads=heads.num_kv_heads,
        head_dim=heads.head_dim,
        max_position=min(limit for limit in limits if limit),
    )


def _drop_kernels_functions(model: ir.Model) -> None:
    """Operators that ONNX Runtime has stay operators, and outputs that nothing reads are left out."""
    for key in [key for key in model.functions if key[0] == CONTRIB and key[1] in _KERNELS]:
        del model.functions[key]
    for node in model.graph:
        if node.domain == CONTRIB and node.op_type in _KERNELS:
            for output in node.outputs:
                if not output.uses() and not output.is_graph_output():
                    output.name = ""
