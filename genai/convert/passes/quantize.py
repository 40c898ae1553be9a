"""Float products to MatMulNBits: weights in blocks of 4 or 8 bits, as `genai build` rounds them.

MatMul(x, W)                      W [K, N]             ─►  MatMulNBits(x, blocks [N, K / 64, …], scales)
                                  in 4 bits            ─►  MatMulNBits(x ‖ its sums, blocks with offsets, scales)
Gemm(x, W, bias)                  alpha = beta = 1     ─►  the same, then Add
MatMul(x, DequantizeLinear(W …))  weights that someone has rounded before: dequantized first, then rounded anew
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from genai.build.graph import CONTRIB
from genai.build.quantize import (
    Bits,
    num_offset_columns,
    pack,
    quantize,
    quantize_with_offsets,
    with_offset_columns,
)
from genai.build.sums import followed_by_sums
from genai.convert.nodes import Nodes, store, take_over
from genai.convert.probing import Part
from genai.convert.values import constant_values, is_plain_gemm
from genai.errors import GenAIError

FloatArray = npt.NDArray[np.float32]

_WITH_OFFSETS = 32
"""The length of blocks with offsets."""
_ACCURACY_LEVEL = 4
"""Activations in 8 bits: the kernels that are fast for single rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedWeight:
    """One weight that was rounded; error: root mean square of the difference, relative to the weight's.

    has_offsets: each block has one (`genai.build.quantize.with_offset_columns`).
    """

    name: str
    bits: int
    block_size: int
    has_offsets: bool
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """A product with a fixed weight. is_transposed: the weight is [N, K]; bias: added to the result, or None."""

    node: ir.Node
    weight: ir.Value
    is_transposed: bool = False
    bias: ir.Value | None = None

    @property
    def x(self) -> ir.Value:
        """What is multiplied: read anew, since another product may have taken its place."""
        value = self.node.inputs[0]
        assert value is not None
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    """A rounded weight's initializers, and what is told of it."""

    data: ir.Value
    scales: ir.Value
    info: QuantizedWeight


def quantize_products(model: ir.Model, bits: Bits) -> list[QuantizedWeight]:
    """Round the weights of all products, one after another, in place.

    A head that shares its weight with the embedding gets one of its own.
    """
    graph, nodes, report = model.graph, Nodes(model.graph), []
    packed: dict[ir.Value, _Packed] = {}
    with_sums: dict[ir.Value, ir.Value] = {}
    for product in list(_products(graph)):
        if product.weight not in packed:
            weight = _read(model, product.weight)
            if weight is None:
                continue
            packed[product.weight] = _packed(graph, product, weight.T if not product.is_transposed else weight, bits)
            report.append(packed[product.weight].info)
        x, weights = product.x, packed[product.weight]
        if weights.info.has_offsets:
            if x not in with_sums:
                with_sums[x] = followed_by_sums(nodes, x, len(x.shape or ()), _num_inputs(product), _WITH_OFFSETS)
            x = with_sums[x]
        _replace(nodes, product, x, weights)
    graph.sort()
    passes.RemoveUnusedNodesPass()(model)
    model.opset_imports[CONTRIB] = graph.opset_imports[CONTRIB] = 1
    return report


def _products(graph: ir.Graph) -> Iterator[_Product]:
    fixed = constant_values(graph)
    for node in graph:
        if node.domain != "" or node.op_type not in ("MatMul", "Gemm"):
            continue
        x, weight, bias = (*node.inputs, None)[:3]
        if x is None or x in fixed or weight not in fixed or weight is None or len(_dims(weight)) != 2:
            continue
        if node.op_type == "MatMul":
            yield _Product(node=node, weight=weight)
        elif is_plain_gemm(node):
            is_transposed = node.attributes.get_int("transB", 0) == 1
            yield _Product(node=node, weight=weight, is_transposed=is_transposed, bias=bias)


def _dims(value: ir.Value) -> list[int]:
    return [] if value.shape is None else [size for size in value.shape if isinstance(size, int)]


def _read(model: ir.Model, weight: ir.Value) -> FloatArray | None:
    """A weight's values: stored, or computed from what is stored, as by DequantizeLinear."""
    if weight.const_value is not None:
        return np.asarray(weight.const_value.numpy(), np.float32)
    try:
        return np.asarray(Part(model, [], [weight])({})[0], np.float32)
    except GenAIError:
        return None


def _packed(graph: ir.Graph, product: _Product, weight: FloatArray, bits: Bits) -> _Packed:
    """The weight [N, K] in blocks, as initializers, and how far it is from what it was."""
    weight = np.ascontiguousarray(weight)
    if bits == 4 and _may_have_offsets(product):
        block = quantize_with_offsets(weight, block_size=_WITH_OFFSETS)
        data, scales = pack(with_offset_columns(block))
    else:
        block = quantize(weight, bits=bits, block_size=64 if weight.shape[1] % 64 == 0 else 32)
        data, scales = pack(block)
    difference = block.dequantize() - weight
    error = float(np.sqrt(np.square(difference).mean() / max(np.square(weight).mean(), 1e-30)))
    name = product.weight.name or product.node.name or "weight"
    x_type = product.x.dtype or ir.DataType.FLOAT
    values = [
        store(graph, f"{name}.{part}", ir.tensor(array, name=f"{name}.{part}"))
        for part, array in (("blocks", data), ("scales", scales.astype(x_type.numpy())))
    ]
    has_offsets = block.offsets is not None
    info = QuantizedWeight(name=name, bits=bits, block_size=block.block_size, has_offsets=has_offsets, error=error)
    return _Packed(data=values[0], scales=values[1], info=info)


def _num_inputs(product: _Product) -> int:
    return _dims(product.weight)[1 if product.is_transposed else 0]


def _may_have_offsets(product: _Product) -> bool:
    """Whether sums over blocks of the input can be written: of whole blocks, of a value of known rank and type."""
    is_known = product.x.shape is not None and product.x.dtype == ir.DataType.FLOAT
    return is_known and _num_inputs(product) % _WITH_OFFSETS == 0


def _replace(nodes: Nodes, product: _Product, x: ir.Value, packed: _Packed) -> None:
    info = packed.info
    dims, num_inputs = _dims(product.weight), _num_inputs(product)
    rows = dims[0 if product.is_transposed else 1]
    columns = num_inputs + (2 * num_offset_columns(num_inputs, info.block_size) if info.has_offsets else 0)
    result = nodes.op(
        "MatMulNBits", x, packed.data, packed.scales, domain=CONTRIB, N=rows, K=columns, bits=info.bits,
        block_size=info.block_size, accuracy_level=_ACCURACY_LEVEL,
    )  # fmt: skip
    if product.bias is not None:
        result = nodes.op("Add", result, product.bias)
    old = product.node.outputs[0]
    result.type, result.shape = old.type, old.shape
    take_over(old, result)
