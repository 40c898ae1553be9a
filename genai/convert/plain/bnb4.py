"""Products of bitsandbytes' four bits, MatMulBnb4, as products with the weights that these stand for.

A weight [K, N] is stored transposed and flat: an index into a table of sixteen values for each element, the earlier one
in the high nibble, and the largest absolute value of each block. No kernel for it is fast on CPUs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from genai.build.graph import CONTRIB
from genai.convert.nodes import Nodes, store, take_over
from genai.convert.values import constant

_FP4 = (0, 5.208333333e-03, 0.66666667, 1, 0.33333333, 0.5, 0.16666667, 0.25)
_NF4 = (
    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
)  # fmt: skip
_TABLES = {0: (*_FP4, *(-value for value in _FP4)), 1: _NF4}
"""By the operator's `quant_type`. Source: onnxruntime's blockwise_quant_block_bnb4.h, bitsandbytes' own tables."""


def dequantize_bnb4(graph: ir.Graph) -> int:
    """Replace MatMulBnb4 by MatMul, in place; weights are computed when they are used. Returns how many were."""
    nodes, count = Nodes(graph), 0
    for node in [node for node in graph if node.op_type == "MatMulBnb4" and node.domain == CONTRIB]:
        x, packed, scales = node.inputs[:3]
        sizes = [node.attributes.get_int(name, 0) for name in ("K", "N", "block_size")]
        table = _TABLES.get(node.attributes.get_int("quant_type", 1))
        if x is None or packed is None or scales is None or table is None or packed.const_value is None:
            continue
        weight = _weight(graph, f"{packed.name}.values", packed, scales, (sizes, table))
        old = node.outputs[0]
        with nodes.before(node):
            product = nodes.typed("MatMul", x, weight, dtype=old.dtype, shape=old.shape)
        take_over(old, product)
        graph.remove(node, safe=True)
        count += 1
    return count


def _weight(
    graph: ir.Graph, name: str, packed: ir.Value, scales: ir.Value, form: tuple[list[int], tuple[float, ...]]
) -> ir.Value:
    """The stored weight [K, N] float32, read when it is used and not before."""
    (num_inputs, rows, block_size), table = form

    def read() -> ir.TensorProtocol:
        data, largest = constant(packed), constant(scales)
        assert data is not None
        assert largest is not None
        values = unpacked(data, np.asarray(largest, np.float32), block_size, np.array(table, np.float32))
        return ir.tensor(np.ascontiguousarray(values[: rows * num_inputs].reshape(rows, num_inputs).T), name=name)

    shape = ir.Shape([num_inputs, rows])
    return store(graph, name, ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=shape, name=name))


def unpacked(
    data: npt.NDArray[np.generic], largest: npt.NDArray[np.float32], block_size: int, table: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Elements in the order of the bytes, float32; the last block may be longer than what is stored."""
    flat = data.reshape(-1).astype(np.uint8)
    values = table[np.stack([flat >> 4, flat & 15], axis=1).reshape(-1)]
    return values * np.repeat(largest, block_size)[: values.size]
