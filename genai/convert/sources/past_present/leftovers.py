"""What still asks for the past's length or the attention mask after attention no longer does.

Positions computed in the graph become `position_ids`, batch sizes read off a cache become those of the tokens, and what
is the same whatever the past is becomes a constant. Each is recognised by its values on samples of different sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from genai.convert.emit import ContractGraph
from genai.convert.fusions.attention import token_dependent
from genai.convert.probing import Array, ancestors
from genai.convert.sources.past_present.interface import PastPresent
from genai.errors import UnsupportedModelError

SAMPLE_SHAPES = ((2, 3, 5), (3, 4, 7), (5, 2, 11))
"""(rows, new tokens, past): no two sizes that could be confused."""
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.FLOAT)


def replace_leftovers(target: ContractGraph, logits: ir.Value, interface: PastPresent, pristine: ir.Model) -> None:
    """Rewrite what the logits still need of inputs that the contract does not have.

    Raises: UnsupportedModelError for a value that has no equivalent.
    """
    graph = target.graph
    old = {value for value in graph.inputs if value.name not in (None, "")}
    graph.sort()
    originals = {output.name: output for node in pristine.graph for output in node.outputs}
    needed = ancestors([logits], set())
    for value in _tainted(graph, old):
        if value not in needed or not ancestors([value], set()) & old:
            continue
        original = originals.get(value.name)
        samples = None if original is None else interface.on_samples(pristine, original, SAMPLE_SHAPES)
        if samples is not None and (new := _equivalent(target, samples)) is not None:
            dtype = value.dtype or new.dtype
            value.replace_all_uses_with(new if dtype is None else target.nodes.cast(new, dtype))
            needed = ancestors([logits], set())
    remaining = ancestors([logits], set()) & old
    if remaining:
        names = ", ".join(sorted(repr(value.name) for value in remaining))
        raise UnsupportedModelError(
            f"the logits depend on {names} other than through attention and positions: {_path(logits, remaining)}"
        )


def _tainted(graph: ir.Graph, old: set[ir.Value]) -> list[ir.Value]:
    """Values that come from old inputs and not from what the tokens are, in order."""
    flowing = token_dependent(graph)
    found: set[ir.Value] = set(old)
    ordered = []
    for node in graph:
        if any(value in found for value in node.inputs if value is not None):
            found.update(node.outputs)
            ordered += [output for output in node.outputs if output not in flowing and output.dtype in _INTEGERS]
    return ordered


def _equivalent(target: ContractGraph, samples: Sequence[Array]) -> ir.Value | None:
    if any(sample.ndim != samples[0].ndim or sample.dtype != samples[0].dtype for sample in samples):
        return None
    if all(np.array_equal(sample, samples[0]) for sample in samples):
        return target.nodes.constant(samples[0], samples[0].dtype) if samples[0].size <= 64 else None
    return _positions(target, samples) or _sizes(target, samples)


def _positions(target: ContractGraph, samples: Sequence[Array]) -> ir.Value | None:
    """Positions of the new tokens [1|B, T] with dimensions of 1 around or between, perhaps counted from elsewhere."""
    nodes = target.nodes
    shift = float(samples[0].reshape(-1)[0] - SAMPLE_SHAPES[0][2]) if samples[0].size else 0.0
    for sample, (batch, num_tokens, past) in zip(samples, SAMPLE_SHAPES, strict=True):
        positions = np.arange(past, past + num_tokens) + shift
        rows = sample.size // num_tokens
        if sample.ndim < 2 or sample.shape[0] not in (1, batch) or sample.size != rows * num_tokens:
            return None
        if rows not in (1, batch) or not np.array_equal(
            sample.reshape(rows, num_tokens), np.tile(positions, (rows, 1))
        ):
            return None
    axes = [axis for axis in range(1, samples[0].ndim) if samples[0].shape[axis] == 1]
    result = target.position_ids
    if axes:
        result = nodes.typed("Unsqueeze", result, nodes.integers(axes), dtype=ir.DataType.INT64)
    if shift:
        result = nodes.typed("Add", result, nodes.constant(int(shift), np.int64), dtype=ir.DataType.INT64)
    return result


def _sizes(target: ContractGraph, samples: Sequence[Array]) -> ir.Value | None:
    """Numbers of rows and new tokens, and constants: scalars and lists of them."""
    nodes, shapes = target.nodes, np.array([shape[:2] for shape in SAMPLE_SHAPES])
    if samples[0].ndim > 1 or any(sample.shape != samples[0].shape for sample in samples):
        return None
    table = np.stack([sample.reshape(-1) for sample in samples])
    whole = nodes.op("Shape", target.input_ids)
    parts = []
    for column in table.T:
        axis = next((axis for axis in (0, 1) if np.array_equal(column, shapes[:, axis])), None)
        if axis is not None:
            parts.append(nodes.op("Gather", whole, nodes.integers([axis])))
        elif (column == column[0]).all():
            parts.append(nodes.constant([int(column[0])], np.int64))
        else:
            return None
    result = nodes.op("Concat", *parts, axis=0)
    if samples[0].ndim == 0:
        result = nodes.op("Squeeze", result)
    result.dtype = ir.DataType.INT64
    return result


def _path(logits: ir.Value, inputs: set[ir.Value]) -> str:
    """The first nodes behind an input on the way to the logits."""
    needed = ancestors([logits], set())
    value, names = next(iter(inputs)), list[str]()
    while len(names) < 5:
        node = next((user for user in value.consumers() if any(out in needed for out in user.outputs)), None)
        if node is None:
            break
        names.append(node.name or node.op_type)
        value = node.outputs[0]
    return " → ".join(names)
