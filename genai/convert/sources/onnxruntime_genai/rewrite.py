"""onnxruntime-genai folders: `genai_config.json` beside a graph of that project's model builder, or one like it.

    input_ids ─► … ─► MatMulNBits ─► GroupQueryAttention(past.i ─► present.i) ─► MatMulNBits ─► … ─► logits
    attention_mask ─► ReduceSum ─► seqlens_k ──┘

Weights, quantized products and fused norms stay as they are; attention, rotary embedding and the lengths that came from
the mask are put onto the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from genai import contract
from genai.convert.emit import ContractGraph, Heads
from genai.convert.recurrent import Recurrence, find_recurrences, numbered, write_recurrence
from genai.convert.rewritten import Original, Rewritten
from genai.convert.sources.onnxruntime_genai.attention import (
    OPERATORS,
    AttentionRewriter,
    Layer,
    rewrite_rotary_operators,
)
from genai.convert.sources.onnxruntime_genai.config import CONFIG_FILE, GenaiConfig, check_inputs
from genai.convert.sources.onnxruntime_genai.original import SharedBufferModel, WholePromptModel
from genai.convert.sources.onnxruntime_genai.rotary import CONTRIB, RotaryTables
from genai.convert.sources.past_present.interface import PastPresent, interface_of
from genai.convert.sources.past_present.scores import ALL, Reach, Sampler
from genai.convert.values import scalar
from genai.errors import UnsupportedModelError
from genai.runtime.session import Session

_MAX_STEPS = 12
"""Nodes between a cache and its attention: a Concat, and what repeats heads."""
_MASK_SHAPES = ((1, 1, 7), (1, 6, 0))
"""What the builder's masks are for: one new token behind a past, or a whole prompt without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenaiFolder:
    """A folder that was recognised: its configuration, its graph's interface, its attentions and recurrences."""

    config: GenaiConfig
    interface: PastPresent
    layers: tuple[Layer, ...]
    recurrences: tuple[Recurrence, ...]


def is_genai_folder(folder: Path) -> bool:
    """Whether a folder is onnxruntime-genai's."""
    return (folder / CONFIG_FILE).is_file()


def understand(model: ir.Model, config: GenaiConfig) -> GenaiFolder:
    """Read a normalized graph by its folder's configuration; its cache inputs' head size becomes known in the model.

    Raises: UnsupportedModelError that names what is missing, or has no equivalent.
    """
    check_inputs(config)
    _check_interface(model, config)
    recurrences = find_recurrences(model.graph)
    layers = tuple(_layers(model, config, has_states=bool(recurrences)))
    for layer in layers:
        for past in (layer.past_key, layer.past_value):
            batch, heads, length = list(past.shape or [None] * 4)[:3]
            past.shape = ir.Shape([batch, heads, length, config.facts.head_dim])
    interface = interface_of(model, _presents(config, layers), [each.as_input for each in recurrences])
    sampler = Sampler(model, interface, config.facts.max_position - 1, _MASK_SHAPES)
    layers = tuple(replace(layer, reach=_reach(layer, sampler)) for layer in layers)
    return GenaiFolder(config=config, interface=interface, layers=layers, recurrences=recurrences)


def convert_genai(
    model: ir.Model, config: GenaiConfig, load: Callable[[], Session], max_seq_len: int | None = None
) -> Rewritten:
    """Put a normalized graph onto the contract, in place, by its folder's configuration.

    load: the graph as it was; max_seq_len: the longest sequence, None for the configuration's own. Raises:
    UnsupportedModelError for what has no equivalent.
    """
    facts = config.facts
    facts = replace(facts, max_position=min(facts.max_position, max_seq_len or facts.max_position))
    config = replace(config, facts=facts)
    graph, names = model.graph, config.names
    found = understand(model, config)
    has_norms = any(layer.has_norms for layer in found.layers)  # asked now: a node that is replaced loses its inputs
    ring = max((layer.ring for layer in found.layers), default=0)
    inputs, outputs = list(graph.inputs), [value.name or "" for value in graph.outputs]
    by_name = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    numbers = numbered(graph, [layer.node for layer in found.layers], found.recurrences)
    target = ContractGraph(
        model,
        input_ids=by_name[names.input_ids],
        position_ids=by_name.get(names.position_ids),
        caches=_caches(found, numbers),
        cache_dtype=found.layers[0].past_key.dtype or ir.DataType.FLOAT,
        states=[each.state(numbers[each.node]) for each in found.recurrences],
        reserved_slots=0 if found.layers[0].sinks is None else 1,
    )
    tables = RotaryTables(target.nodes, target.position_ids, facts.max_position)
    rewrite_rotary_operators(target, tables, facts.head_dim)
    rewriter = AttentionRewriter(target, tables, config)
    for layer in found.layers:
        with target.nodes.layer(numbers[layer.node]):
            rewriter.rewrite(replace(layer, index=numbers[layer.node]))
    for each in found.recurrences:
        write_recurrence(target, numbers[each.node], each)
    _standard_norms(graph)
    _all_positions(graph, by_name[names.logits])
    target.finish(by_name[names.logits])
    _refuse_leftovers(graph, inputs)
    return Rewritten(
        kind="onnxruntime-genai folder",
        facts=replace(
            facts,
            max_position=min(facts.max_position, tables.num_rows),
            sliding_window=min(rewriter.windows, default=None),
        ),
        original=lambda: _original(found, load(), max(tables.min_capacity, ring), has_norms),
        notes=(*tables.notes, *_left_behind(found, outputs)),
        row_start=target.row_start,
    )


def _original(found: GenaiFolder, session: Session, min_capacity: int, has_norms: bool) -> Original:
    if has_norms and not session.provider.has_query_norms:
        raise UnsupportedModelError(
            "the model norms queries and keys inside GroupQueryAttention, which runs on CUDA only: nothing could be "
            "compared; convert it there, or build it with fuse_qk_norm_gqa=false"
        )
    if any(layer.is_multi_head for layer in found.layers):
        return WholePromptModel(found.interface, session)
    return SharedBufferModel(found.interface, session, min_capacity)


def _caches(found: GenaiFolder, numbers: Mapping[ir.Node, int]) -> list[contract.Cache]:
    """What the layers keep. Raises: UnsupportedModelError where some have sinks and some have not."""
    facts, has_sinks = found.config.facts, [layer.sinks is not None for layer in found.layers]
    if len(set(has_sinks)) > 1:
        raise UnsupportedModelError(f"layer {has_sinks.index(not has_sinks[0])} is not as the first one: sinks in some")
    heads = Heads(
        num_heads=facts.num_heads,
        num_kv_heads=facts.num_kv_heads,
        head_dim=facts.head_dim,
        sinks=found.layers[0].sinks,
    )
    return [cache for layer in found.layers for cache in heads.caches(numbers[layer.node])]


def _check_interface(model: ir.Model, config: GenaiConfig) -> None:
    """What the configuration names must be there."""
    inputs = [value.name or "" for value in model.graph.inputs]
    for name in (config.names.input_ids, config.names.position_ids):
        if name is not None and name not in inputs:
            raise UnsupportedModelError(f"{CONFIG_FILE} names an input {name!r}; the graph has {', '.join(inputs)}")
    outputs = [value.name or "" for value in model.graph.outputs]
    if config.names.logits not in outputs:
        raise UnsupportedModelError(
            f"{CONFIG_FILE} names an output {config.names.logits!r}; the graph has {', '.join(outputs)}: a graph "
            "without a head (exclude_lm_head) cannot generate"
        )


def _layers(model: ir.Model, config: GenaiConfig, *, has_states: bool) -> Iterator[Layer]:
    """Each layer's attention, found from its cache inputs. has_states: layers without caches may be recurrent ones."""
    names = config.names
    inputs = {value.name: value for value in model.graph.inputs}
    outputs = {value.name for value in model.graph.outputs}
    for index in range(config.num_layers):
        keys, values = (inputs.get(name % index) for name in (names.past_key, names.past_value))
        if has_states and keys is None and values is None:
            continue
        if keys is None or values is None:
            raise UnsupportedModelError(
                f"layer {index} of {config.num_layers} has no cache inputs {names.past_key % index!r} and "
                f"{names.past_value % index!r}: layers that keep something else are not supported"
            )
        for present in (names.present_key % index, names.present_value % index):
            if present not in outputs:
                raise UnsupportedModelError(f"{CONFIG_FILE} names an output {present!r}, which the graph does not have")
        yield Layer(index=index, node=_attention(index, keys), past_key=keys, past_value=values)


def _attention(index: int, past: ir.Value) -> ir.Node:
    """The operator that attends over a cache: its reader, or, behind a Concat and repeated heads, what comes next."""
    readers = _readers(past)
    for _ in range(_MAX_STEPS):
        found = next((node for node in readers if node.domain == CONTRIB and "Attention" in node.op_type), None)
        if found is not None and found.op_type in OPERATORS:
            return found
        if found is not None or not readers:
            break
        readers = [after for node in readers for output in node.outputs for after in _readers(output)]
    names = ", ".join(sorted({f"{node.domain or 'ai.onnx'}.{node.op_type}" for node in readers})) or "nothing"
    raise UnsupportedModelError(
        f"layer {index}: the cache {past.name!r} is read by {names}; supported: {', '.join(OPERATORS)}"
    )


def _readers(value: ir.Value) -> list[ir.Node]:
    """What reads a value for more than its shape."""
    return [node for node in value.consumers() if node.op_type != "Shape"]


def _presents(config: GenaiConfig, layers: Sequence[Layer]) -> dict[str, str]:
    """The output that continues each cache input."""
    names = config.names
    pairs = ((names.past_key, names.present_key), (names.past_value, names.present_value))
    return {past % index: present % index for index in (layer.index for layer in layers) for past, present in pairs}


def _reach(layer: Layer, sampler: Sampler) -> Reach:
    """What the mask of a MultiHeadAttention leaves of the past, told by its values."""
    if not layer.is_multi_head:
        return ALL
    mask = layer.node.inputs[5] if len(layer.node.inputs) > 5 else None
    if mask is None and not layer.node.attributes.get_int("unidirectional", 0):
        raise UnsupportedModelError(f"{layer.node.name} sees tokens of the future: it has no mask")
    return ALL if mask is None else sampler.mask(mask, is_causal=False)


def _standard_norms(graph: ir.Graph) -> None:
    """SimplifiedLayerNormalization, which no standard knows, is RMSNormalization."""
    for node in graph:
        if node.op_type == "SimplifiedLayerNormalization" and len(node.outputs) == 1:
            node.op_type = "RMSNormalization"


def _all_positions(graph: ir.Graph, logits: ir.Value) -> None:
    """Undo `prune_lm_head`, the choice of the last position before the head: the contract's choice takes its place."""
    if logits.shape is not None:
        logits.shape = ir.Shape([None, None, logits.shape[-1]])
    for node in list(graph):
        gather = node.inputs[0].producer() if node.op_type == "Unsqueeze" and node.inputs[0] is not None else None
        if gather is None or gather.op_type != "Gather" or gather.attributes.get_int("axis", 0) != 1:
            continue
        hidden = gather.inputs[0]
        if scalar(gather.inputs[1]) == -1 and hidden is not None:
            node.outputs[0].replace_all_uses_with(hidden)


def _left_behind(found: GenaiFolder, outputs: Sequence[str]) -> list[str]:
    """What conversion does not take over, as notes."""
    known = {found.config.names.logits, *found.interface.memory.values()}
    return [
        *(f"the output {name} is left behind" for name in outputs if name not in known),
        *(f"{CONFIG_FILE}: {entry} is not used" for entry in found.config.unused),
    ]


def _refuse_leftovers(graph: ir.Graph, inputs: Sequence[ir.Value]) -> None:
    """Whatever still reads an input that the contract does not have."""
    for value in inputs:
        if users := [node.name for node in value.consumers() if node.graph is graph]:
            raise UnsupportedModelError(
                f"{users[0]} needs the input {value.name!r}, not for attention or positions: not supported"
            )
