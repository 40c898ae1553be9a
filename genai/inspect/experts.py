"""How much of a model one token uses: of a mixture of experts it uses few, of all else everything."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx

from genai.inspect.tensors import num_bytes, place_of

_WEIGHTS = {"MoE": (2, 4, 6), "QMoE": (2, 5, 8)}
"""Which inputs hold experts' matrices."""
_SCALES = {"QMoE": (3, 6, 9, 11, 12, 13), "MatMulNBits": (2, 3), "GatherBlockQuantized": (2, 3)}
"""Which inputs say only what the integers beside them stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A graph's mixtures of experts.

    num_layers: operators; counts, chosen: experts of each, and how many of them one token goes through, as ranges;
    num_bytes, active_bytes: their weights', and of the chosen ones; num_parameters, active_parameters: of the whole
    model, and those that one token uses.
    """

    num_layers: int
    counts: tuple[int, int]
    chosen: tuple[int, int]
    num_bytes: int
    active_bytes: int
    num_parameters: int
    active_parameters: int

    @property
    def summary(self) -> str:
        """For people, in a line."""
        return (
            f"{_range(self.chosen)} of {_range(self.counts)} in {self.num_layers} layers for each token; of "
            f"{short_count(self.num_parameters)} parameters {short_count(self.active_parameters)} are active"
        )


def experts_of(graph: onnx.GraphProto) -> Experts | None:
    """What the graph's mixtures are, None if it has none."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    found = [(node, _experts(node, weights)) for node in graph.node if node.op_type in _WEIGHTS]
    mixtures = [(node, held) for node, held in found if held]
    if not mixtures:
        return None
    counts = [held[0].dims[0] for _, held in mixtures]
    chosen = [min(_number(node, "k", 1), count) for (node, _), count in zip(mixtures, counts, strict=True)]
    sizes = [
        (sum(map(num_bytes, _inputs(node, weights, stacked=count))), sum(_parameters(node, tensor) for tensor in held))
        for (node, held), count in zip(mixtures, counts, strict=True)
    ]
    total = num_parameters(graph)
    idle = [1 - few / count for few, count in zip(chosen, counts, strict=True)]
    return Experts(
        num_layers=len(mixtures),
        counts=(min(counts), max(counts)),
        chosen=(min(chosen), max(chosen)),
        num_bytes=sum(size for size, _ in sizes),
        active_bytes=round(sum(size * (1 - share) for (size, _), share in zip(sizes, idle, strict=True))),
        num_parameters=total,
        active_parameters=round(total - sum(held * share for (_, held), share in zip(sizes, idle, strict=True))),
    )


def num_parameters(graph: onnx.GraphProto) -> int:
    """Weights, each stored tensor once: integers in blocks as what they stand for, without their scales."""
    bits, scales, further = dict[str, int](), set[str](), dict[str, int]()
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "MatMulNBits" and _is_followed_by_sums(makers.get(node.input[0])):
            further[node.input[1]] = _number(node, "N", 1) * _offset_columns(node)
        scales.update(node.input[index] for index in _SCALES.get(node.op_type, ()) if index < len(node.input))
        for name in node.input:
            bits[name] = _bits(node) or bits.get(name, 0)
    total, seen = 0, {place_of(tensor) for tensor in graph.initializer if tensor.name in scales}
    for tensor in graph.initializer:
        place = place_of(tensor)
        if tensor.name in scales or (place and place[2] and place in seen):
            continue
        seen.add(place)
        total += _elements(tensor, bits.get(tensor.name, 0)) - further.get(tensor.name, 0)
    return total


def _is_followed_by_sums(node: onnx.NodeProto | None) -> bool:
    """Whether a value has its sums over blocks behind it, twice, for a weight whose last columns hold offsets."""
    return node is not None and node.op_type == "Concat" and len(node.input) == 3 and node.input[1] == node.input[2]


def _offset_columns(node: onnx.NodeProto) -> int:
    """How many of a product's columns hold offsets: two for each block of the others, in whole blocks."""
    columns, size = _number(node, "K", 1), _number(node, "block_size", 32)
    blocks = range(size, columns, size)
    return next((columns - inner for inner in blocks if inner + 2 * -(-inner // size**2) * size == columns), 0)


def short_count(count: int) -> str:
    """A number for people, in powers of ten."""
    for unit, scale in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return str(count)


def _experts(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> list[onnx.TensorProto]:
    """The node's stacks of matrices."""
    places = [index for index in _WEIGHTS[node.op_type] if index < len(node.input)]
    held = [weights[node.input[index]] for index in places if node.input[index] in weights]
    return [tensor for tensor in held if len(tensor.dims) == 3 and tensor.dims[0] > 0]


def _inputs(
    node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto], *, stacked: int
) -> Iterator[onnx.TensorProto]:
    """All that the node reads of its experts."""
    return (weights[name] for name in node.input if name in weights and weights[name].dims[:1] == [stacked])


def _parameters(node: onnx.NodeProto, tensor: onnx.TensorProto) -> int:
    return _elements(tensor, _bits(node))


def _elements(tensor: onnx.TensorProto, bits: int) -> int:
    """A tensor's elements; of bytes that hold integers of so many bits, those."""
    count: int = math.prod(tensor.dims)
    return count * 8 // bits if bits and tensor.data_type == onnx.TensorProto.UINT8 else count


def _bits(node: onnx.NodeProto) -> int:
    default = {"QMoE": 4, "MatMulNBits": 4, "GatherBlockQuantized": 4}.get(node.op_type, 0)
    return _number(node, "expert_weight_bits" if node.op_type == "QMoE" else "bits", default) if default else 0


def _number(node: onnx.NodeProto, name: str, default: int) -> int:
    found = [int(attribute.i) for attribute in node.attribute if attribute.name == name]
    return max(1, found[0] if found else default)


def _range(ends: Collection[int]) -> str:
    return "–".join(str(end) for end in dict.fromkeys(ends))
