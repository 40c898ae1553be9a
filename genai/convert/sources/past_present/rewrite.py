"""Models with past and present caches: keys and values joined by Concat, or by Attention's own past inputs.

    past ─┐                                         key_cache ─┐
    new  ─┴► Concat ─► repeat heads ─► attention     new ───────┴► TensorScatter ─► attention with valid lengths

The heads' repetition, masks and positions go away: the first is grouped heads to Attention, the others are what the
contract's inputs say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from genai.convert.emit import ContractGraph, Heads, as_heads, as_split
from genai.convert.flat import as_flat
from genai.convert.fusions.attention import AttentionSite, attention_sites, token_dependent
from genai.convert.fusions.layout import clean
from genai.convert.nodes import Nodes
from genai.convert.normalize import infer_shapes, normalize
from genai.convert.plain.newer import WINDOWS
from genai.convert.probing import Array, ancestors
from genai.convert.recurrent import Recurrence, find_recurrences, numbered, write_recurrence
from genai.convert.sources.past_present.interface import PastPresent, interface_of
from genai.convert.sources.past_present.leftovers import SAMPLE_SHAPES, replace_leftovers
from genai.convert.sources.past_present.scores import Sampler
from genai.convert.values import constant_values, size_of
from genai.errors import UnsupportedModelError

LONGEST = 8192
"""The past at which a window is looked for where nothing tells how long it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Where new keys or values [B, heads, T, size] join the past ones."""

    past: ir.Value
    new: ir.Value
    present: ir.Value
    own: ir.Node | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer's attention, understood."""

    site: AttentionSite
    key: Joint
    value: Joint
    heads: Heads
    value_factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A past/present model, understood. longest: the past up to which its masks were looked at."""

    interface: PastPresent
    layers: tuple[Layer, ...]
    recurrences: tuple[Recurrence, ...]
    longest: int


def prepare(model: ir.Model) -> None:
    """Normalize a model in place; sizes that follow from the inputs' shapes become known.

    Raises: UnsupportedModelError if it has no caches, or inputs that nobody knows how to fill.
    """
    normalize(model)
    interface = _interface(model)
    if _settle_sizes(model, interface):
        infer_shapes(model)


def understand(model: ir.Model, longest: int = LONGEST) -> Decoder:
    """Read a prepared past/present model.

    longest: a past that is longer than any window. Raises: UnsupportedModelError for what has no equivalent.
    """
    joints = find_joints(model.graph)
    interface = _interface(model)
    sites, missed = attention_sites(model.graph)
    if not sites:
        reasons = [str(site.mismatch) for site in missed[:3]] or ["there is no Softmax and no Attention"]
        raise UnsupportedModelError(f"{len(joints)} caches but no attention: {'; '.join(reasons)}")
    sampler = Sampler(model, interface, longest)
    layers = tuple(_layer(site, joints, interface, sampler) for site in sites)
    unused = {joint.past.name for joint in joints} - {
        joint.past.name for layer in layers for joint in (layer.key, layer.value)
    }
    if unused:
        raise UnsupportedModelError(f"the cache {min(map(str, unused))!r} is read by no attention")
    recurrences = find_recurrences(model.graph)
    return Decoder(interface=interface, layers=layers, recurrences=recurrences, longest=sampler.longest)


def rewrite(model: ir.Model, decoder: Decoder, pristine: ir.Model) -> None:
    """Put an understood model onto the contract, in place; pristine: a copy to run parts of."""
    interface, graph = decoder.interface, model.graph
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    first = decoder.layers[0]
    numbers = numbered(graph, [layer.site.node for layer in decoder.layers], decoder.recurrences)
    target = ContractGraph(
        model,
        input_ids=inputs[interface.input_ids],
        position_ids=inputs.get(interface.position_ids),
        caches=[cache for layer in decoder.layers for cache in layer.heads.caches(numbers[layer.site.node])],
        cache_dtype=first.key.past.dtype or ir.DataType.FLOAT,
        states=[each.state(numbers[each.node]) for each in decoder.recurrences],
    )
    for layer in decoder.layers:
        index = numbers[layer.site.node]
        with target.nodes.layer(index):
            _write_layer(target, index, layer)
    for each in decoder.recurrences:
        write_recurrence(target, numbers[each.node], each)
    logits = outputs[interface.logits]
    graph.outputs[:] = [logits]
    graph.sort()
    clean(graph)
    replace_leftovers(target, logits, interface, pristine)
    target.finish(logits)


def find_joints(graph: ir.Graph) -> list[Joint]:
    """Where past inputs are continued: in the order of the graph's inputs."""
    found = []
    for past in graph.inputs:
        for node, index in past.uses():
            if (joint := _joint(past, node, index)) is not None and joint.present.is_graph_output():
                found.append(joint)
    return found


def _joint(past: ir.Value, node: ir.Node, index: int) -> Joint | None:
    inputs = list(node.inputs)
    if node.op_type == "Concat" and len(inputs) == 2 and index == 0 and inputs[1] is not None:
        if node.attributes.get_int("axis", 0) in (2, -2):
            return Joint(past=past, new=inputs[1], present=node.outputs[0])
    elif node.op_type == "Attention" and index in (4, 5) and len(node.outputs) > index - 3:
        new = inputs[index - 3]
        if new is not None:
            return Joint(past=past, new=new, present=node.outputs[index - 3], own=node)
    return None


def _layer(site: AttentionSite, joints: Sequence[Joint], interface: PastPresent, sampler: Sampler) -> Layer:
    key, value = _origin(site, site.k, 1, joints), _origin(site, site.v, 2, joints)
    info, other = (next(cache for cache in interface.caches if cache.past == joint.past.name) for joint in (key, value))
    if info.num_heads != other.num_heads:
        raise UnsupportedModelError(
            f"{site.name} keeps {info.num_heads} heads of keys and {other.num_heads} of values: not supported"
        )
    if site.raw is None or site.scores is None:
        return _operator_layer(site, key, value, sampler)
    num_heads, key_factor = sampler.heads(key.present, site.k, is_transposed=True)
    _, value_factor = sampler.heads(value.present, site.v, is_transposed=False)
    scores = sampler.scores(site.raw, site.scores, num_heads)
    if site.weights is not None:
        value_factor *= sampler.weights(*site.weights, num_heads)
    q, q_factor = _unscaled(site.q, sampler)
    site = replace(site, q=q)
    heads = Heads(
        num_heads=num_heads,
        num_kv_heads=info.num_heads,
        head_dim=info.size,
        value_dim=other.size,
        scale=scores.scale * key_factor * q_factor,
        softcap=scores.softcap,
        window=scores.reach.window,
        chunk=scores.reach.chunk,
        slopes=scores.slopes,
    )
    return Layer(site=site, key=key, value=value, heads=heads, value_factor=value_factor)


def _unscaled(q: ir.Value, sampler: Sampler) -> tuple[ir.Value, float]:
    """Queries before a factor on them, and the factor: it belongs to Attention's scale."""
    node = q.producer()
    if node is None or node.op_type not in ("Mul", "Div"):
        return q, 1.0
    left, right = node.inputs
    for source, other in ((left, right), (right, left)):
        if source is None or other is None or (node.op_type == "Div" and source is not left):
            continue
        if (number := sampler.number(other)) is not None:
            inner, factor = _unscaled(source, sampler)
            return inner, factor * number if node.op_type == "Mul" else factor / number
    return q, 1.0


def _operator_layer(site: AttentionSite, key: Joint, value: Joint, sampler: Sampler) -> Layer:
    attributes = site.node.attributes
    kv_heads, size = _static(key.past, 1), _static(key.past, 3)
    if key.own is None:
        num_heads, key_factor = sampler.heads(key.present, site.k, is_transposed=False)
        _, value_factor = sampler.heads(value.present, site.v, is_transposed=False)
    else:
        num_heads, key_factor, value_factor = attributes.get_int("q_num_heads", 0) or _static(site.q, 1), 1.0, 1.0
    if num_heads == kv_heads:  # no repetition before the operator: it may group heads itself
        num_heads = attributes.get_int("q_num_heads", 0) or _static(site.q, 1)
    scale = attributes.get_float("scale", 0.0) or size**-0.5
    left, right = (attributes.get_int(name, -1) for name in WINDOWS)
    reach = sampler.mask(site.mask, is_causal=attributes.get_int("is_causal", 0) == 1 or right == 0)
    heads = Heads(
        num_heads=num_heads,
        num_kv_heads=kv_heads,
        head_dim=size,
        value_dim=_static(value.past, 3),
        scale=scale * key_factor,
        softcap=attributes.get_float("softcap", 0.0) or None,
        window=min((size for size in (reach.window, left + 1) if size), default=None),
        chunk=reach.chunk,
    )
    return Layer(site=site, key=key, value=value, heads=heads, value_factor=value_factor)


def _origin(site: AttentionSite, operand: ir.Value, index: int, joints: Sequence[Joint]) -> Joint:
    """The joint that an attention's keys (index 1) or values (2) come from."""
    for joint in joints:
        if (
            joint.own is site.node
            and joint.new is site.node.inputs[index]
            and joint.present is site.node.outputs[index]
        ):
            return joint
    presents = {joint.present: joint for joint in joints if joint.own is None}
    behind = ancestors([operand], set(presents), by_shape=False) & presents.keys()
    if len(behind) != 1:
        raise UnsupportedModelError(
            f"{site.name}: its {'keys' if index == 1 else 'values'} come from {len(behind)} caches, not from one"
        )
    return presents[behind.pop()]


def _write_layer(target: ContractGraph, index: int, layer: Layer) -> None:
    nodes, heads, site = target.nodes, layer.heads, layer.site
    q_size = heads.num_heads * heads.head_dim
    q = site.q if site.is_flat else as_flat(nodes, site.q, q_size)
    is_flat_past = site.is_flat and layer.key.own is not None
    k = layer.key.new if is_flat_past else as_flat(nodes, layer.key.new, heads.kv_size)
    v = layer.value.new if is_flat_past else as_flat(nodes, layer.value.new, heads.num_kv_heads * heads.value_size)
    result = target.cached_attention(index, q, k, v, heads)
    if layer.value_factor != 1.0:
        factor = nodes.constant(layer.value_factor, target.cache_dtype.numpy())
        result = nodes.op("Mul", result, factor)
    _replace_result(nodes, site, result, heads)


def _replace_result(nodes: Nodes, site: AttentionSite, result: ir.Value, heads: Heads) -> None:
    """Whatever read the attention reads the new one: without going through [B, H, T, D] where it can."""
    old = site.result
    if site.is_flat:
        old.replace_all_uses_with(result)
        return
    for user in list(old.consumers()):
        if user.op_type == "Transpose" and list(user.attributes.get_ints("perm", ())) == [0, 2, 1, 3]:
            user.outputs[0].replace_all_uses_with(as_split(nodes, result, heads.num_heads, heads.value_size))
    if old.uses():
        old.replace_all_uses_with(as_heads(nodes, result, heads.num_heads, heads.value_size))


def _static(value: ir.Value, axis: int) -> int:
    size = size_of(value, axis)
    if size is None:
        raise UnsupportedModelError(
            f"{value.name!r} has shape {value.shape}: its dimension {axis} must be a fixed number"
        )
    return size


def _interface(model: ir.Model) -> PastPresent:
    joints = find_joints(model.graph)
    if not joints:
        listed = ", ".join(f"{value.name} {value.shape}" for value in list(model.graph.inputs)[:8])
        raise UnsupportedModelError(
            f"no past input [B, heads, P, size] is continued by Concat or Attention into an output; inputs: {listed}"
        )
    states = [each.as_input for each in find_recurrences(model.graph)]
    return interface_of(model, {joint.past.name or "": joint.present.name or "" for joint in joints}, states)


def _settle_sizes(model: ir.Model, interface: PastPresent) -> bool:
    """Turn sizes that hidden states are cut or shaped by into constants, where they are the same for all inputs."""
    graph = model.graph
    flowing, fixed = token_dependent(graph), constant_values(graph)
    sizes = {
        value
        for node in graph
        if any(source in flowing for source in node.inputs)
        for value in node.inputs
        if value is not None and value.dtype == ir.DataType.INT64 and value not in flowing | fixed
    }
    sizes = {value for value in sizes if not ancestors([value], set()) & flowing}
    found = [(value, array) for value in sizes if (array := _same_always(model, interface, value)) is not None]
    nodes = Nodes(graph)
    for value, array in found:
        value.replace_all_uses_with(nodes.constant(array, np.int64))
    return bool(found)


def _same_always(model: ir.Model, interface: PastPresent, value: ir.Value) -> Array | None:
    results = interface.on_samples(model, value, SAMPLE_SHAPES)
    if results is None or results[0].size > 8:
        return None
    return results[0] if all(np.array_equal(result, results[0]) for result in results) else None
