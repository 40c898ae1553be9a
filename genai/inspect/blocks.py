"""The layers of a graph as pictures in the making: boxes, arrows, and how often each is there.

key_cache.3 ──► TensorScatter ──► updated_key_cache.3
     ▲                                   ┊
     └┄┄┄┄┄┄┄┄ the same memory ┄┄┄┄┄┄┄┄┄┄┘          a loop: what one step writes, the next one reads
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx

from genai.inspect.layers import layer_of, layers_of
from genai.inspect.tensors import num_bytes

Role: TypeAlias = Literal["cache", "attention", "product", "norm", "other", "outside"]
Loop: TypeAlias = Literal["in place", "copied"]
_Operators: TypeAlias = "Counter[tuple[str, str]]"

_ROLES: tuple[tuple[Role, tuple[str, ...]], ...] = (
    ("cache", ("TensorScatter", "ScatterND")),
    ("attention", ("Attention", "Softmax")),
    ("product", ("MatMul", "Gemm", "Conv", "Einsum")),
    ("norm", ("Norm",)),
)
_WEIGHT = re.compile(r"([^./+]+)(?:\.(?:weight|blocks|scales|bias|zero_points|qweight))?(?=\+|$)")
_CACHE_WORDS = re.compile(r"updated_|present|past|_?key_values")
_MADE_OF_SHAPES = frozenset({"Range", "ConstantOfShape", "Expand", "Tile", "Trilu", "EyeLike", "RandomNormal"})
_MAX_BOXES, _MAX_DRAWN = 160, 400
"""Operators of a picture, and all of its boxes."""
_MAX_BLOCKS = 4
_MAX_NOTES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """An operator, or a value that comes from the rest of the graph or goes there.

    title: what is read; detail: the second line, if any; hint: names in full.
    """

    role: Role
    title: str
    detail: str = ""
    hint: str = ""
    is_operator: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """From one box to another, by number. loop: from a cache's output back to its input, and how it gets there."""

    source: int
    target: int
    loop: Loop | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A part of the graph that is there `count` times, drawn once.

    title: which layers; notes: layers that are like it but for a few operators; num_shapes: operators that compute
    shapes, which are not drawn; num_hidden: others left out.
    """

    title: str
    count: int
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    notes: tuple[str, ...] = ()
    num_shapes: int = 0
    num_hidden: int = 0


def blocks_of(graph: onnx.GraphProto) -> tuple[Block, ...]:
    """The kinds of layers that the graph repeats, the most frequent first; the whole graph if it has no layers."""
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    layers: dict[int, list[onnx.NodeProto]] = {}
    for node, layer in zip(nodes, layers_of(graph, nodes), strict=True):
        if layer is not None:
            layers.setdefault(layer, []).append(node)
    values = _Values(graph)
    if len(layers) < 2:
        return (_block("the whole graph", 1, nodes, values),)
    operators = {
        layer: Counter((node.domain, node.op_type) for node in values.computing(layers[layer])) for layer in layers
    }
    kinds: dict[frozenset[tuple[tuple[str, str], int]], list[int]] = {}
    for layer in sorted(layers):
        kinds.setdefault(frozenset(operators[layer].items()), []).append(layer)
    ordered = sorted(kinds.values(), key=lambda alike: (-len(alike), alike[0]))
    drawn = [alike for alike in ordered if len(alike) > 1][:_MAX_BLOCKS] or ordered[:1]
    others = sorted(layer for alike in ordered if alike not in drawn for layer in alike)
    notes = [_difference(layer, operators[layer], operators[drawn[0][0]]) for layer in others[:_MAX_NOTES]]
    if len(others) > _MAX_NOTES:
        notes.append(f"and {len(others) - _MAX_NOTES} more layers that differ")
    return tuple(
        _block(_title(alike, len(layers)), len(alike), layers[alike[0]], values, notes if not index else ())
        for index, alike in enumerate(drawn)
    )


def role_of(operator: str) -> Role:
    """What an operator does, roughly."""
    return next((role for role, hints in _ROLES if any(hint in operator for hint in hints)), "other")


def _title(alike: Sequence[int], num_layers: int) -> str:
    runs: list[list[int]] = []
    for layer in alike:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    shown = ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs[:8])
    return f"layer{'s' if len(alike) > 1 else ''} {shown}{', …' if len(runs) > 8 else ''} of {num_layers}"


def _difference(layer: int, ours: _Operators, usual: _Operators) -> str:
    """How a layer's operators differ from the usual ones."""
    changes = {kind: ours[kind] - usual[kind] for kind in sorted({*ours, *usual}) if ours[kind] != usual[kind]}
    told = [f"{'+' if change > 0 else '−'}{abs(change)} {kind}" for (_, kind), change in changes.items()]
    return f"layer {layer}: {', '.join(told[:5])}{f' and {len(told) - 5} more' if len(told) > 5 else ''}"


class _Values:
    """Where a graph's values come from and who reads them.

    shapes: nodes that compute nothing but shapes, which are not drawn; loops: a cache's output, and the input that it
    goes to.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.weights: Mapping[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.constants = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
        self.constants |= self.weights.keys()
        self.shapes = _shape_nodes(graph.node, self.constants)
        self.constants |= {name for node in graph.node if id(node) in self.shapes for name in node.output}
        self.inputs = {value.name for value in graph.input}
        self.outputs = {value.name for value in graph.output}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.users: dict[str, set[int]] = {}
        for node in graph.node:
            for name in _read(node):
                self.users.setdefault(name, set()).add(id(node))
        stems = {_CACHE_WORDS.sub("", name): name for name in self.inputs if layer_of(name) is not None}
        self.loops = {
            name: stems[stem]
            for name in self.outputs
            if name not in self.inputs and (stem := _CACHE_WORDS.sub("", name)) in stems
        }

    def computing(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Those that compute more than shapes."""
        return [node for node in nodes if id(node) not in self.shapes]


def _shape_nodes(nodes: Iterable[onnx.NodeProto], constants: Collection[str]) -> set[int]:
    """Nodes that follow from shapes alone. What is made of a shape, such as a mask, is more than one."""
    found: set[int] = set()
    known: set[str] = set()
    for node in nodes:
        given = {name for name in _read(node) if name and name not in constants}
        if node.op_type in ("Shape", "Size") or (given and given <= known and node.op_type not in _MADE_OF_SHAPES):
            found.add(id(node))
            known |= set(node.output)
    return found


def _block(
    title: str, count: int, nodes: Sequence[onnx.NodeProto], values: _Values, notes: Sequence[str] = ()
) -> Block:
    """The part of the graph that these nodes are."""
    computing = values.computing(nodes)
    shown = computing[:_MAX_BOXES]
    boxes = [_operator(node, values) for node in shown]
    made = {name: number for number, node in enumerate(shown) for name in node.output if name}
    sources: dict[str, int] = {}
    arrows: dict[tuple[int, int], Loop | None] = {}
    for number, node in enumerate(shown):
        for name in _read(node):
            is_new = name and name not in made and name not in sources and name not in values.constants
            if is_new and len(boxes) < _MAX_DRAWN:
                sources[name] = len(boxes)
                boxes.append(_source(name, values))
            source = made.get(name, sources.get(name, number))
            if source != number:
                arrows[source, number] = None
    inside = {id(node) for node in shown} | values.shapes
    for name, number in made.items():
        if len(boxes) < _MAX_DRAWN and (name in values.outputs or values.users.get(name, set()) - inside):
            arrows[number, len(boxes)] = None
            if values.loops.get(name) in sources:
                is_written = shown[number].op_type == "TensorScatter"
                arrows[len(boxes), sources[values.loops[name]]] = "in place" if is_written else "copied"
            boxes.append(_target(name, values))
    return Block(
        title=title,
        count=count,
        boxes=tuple(boxes),
        arrows=tuple(Arrow(source=a, target=b, loop=loop) for (a, b), loop in arrows.items()),
        notes=tuple(notes),
        num_shapes=len(nodes) - len(computing),
        num_hidden=len(computing) - len(shown),
    )


def _branches(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that a node holds, one of which runs (`If`), or many times (`Loop`)."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _read(node: onnx.NodeProto) -> list[str]:
    """The values that a node reads, those among them that only its branches do."""
    found = [*node.input]
    for branch in _branches(node):
        made = {name for inner in branch.node for name in inner.output} | {value.name for value in branch.input}
        made |= {tensor.name for tensor in branch.initializer}
        found += [name for inner in branch.node for name in _read(inner) if name not in made]
    return list(dict.fromkeys(found))


def _operator(node: onnx.NodeProto, values: _Values) -> Box:
    held = [values.weights[name] for name in node.input if name in values.weights]
    size, detail = sum(map(num_bytes, held)), ""
    if size >= 1000:
        names = dict.fromkeys(part for tensor in held[:1] for part in _WEIGHT.findall(tensor.name))
        detail = f"{' + '.join(names)}, {short_size(size)}"
    hint = f"{node.domain or 'ai.onnx'}.{node.op_type}: {', '.join(node.input)} → {', '.join(node.output)}"
    inside = [inner for branch in _branches(node) for inner in branch.node]
    telling = next((each for each in (node, *inside) if role_of(each.op_type) != "other"), node)
    if telling is not node:  # what an `If` is about is said by what it chooses from
        detail = f"one of {len(_branches(node))} forms"
    return Box(role=role_of(telling.op_type), title=telling.op_type, detail=detail, hint=hint)


def _source(name: str, values: _Values) -> Box:
    """A value that comes from the rest of the graph."""
    if name in values.loops.values():
        return Box(role="cache", title=name, hint=f"input {name}", is_operator=False)
    maker = values.makers.get(name)
    if maker is None or name in values.inputs:
        return Box(role="outside", title=name, hint=f"input {name}", is_operator=False)
    layer = layer_of(maker.name)
    place = "from before" if layer is None else f"from layer {layer}"
    return Box(role="outside", title=maker.op_type, detail=place, hint=f"{name} of {maker.name}", is_operator=False)


def _target(name: str, values: _Values) -> Box:
    """A value that goes to the rest of the graph."""
    if name in values.outputs:
        role: Role = "cache" if name in values.loops else "outside"
        return Box(role=role, title=name, hint=f"output {name}", is_operator=False)
    return Box(role="outside", title="goes on", hint=name, is_operator=False)


def short_size(size: int) -> str:
    """Bytes for people, in powers of ten."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 100 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size} B"
