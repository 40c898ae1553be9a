"""From checkpoint tensors to products in the graph: reading, checking, fusing and storing weights.

Everything here works on names and shapes; what a layer is made of stands in `layers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
from onnx import helper

from genai.build.graph import CONTRIB, Array, GraphBuilder
from genai.build.precision import Plan, WeightForm, read_quantized
from genai.build.quantize import pack
from genai.build.source import BlockWeight, FloatArray, WeightSource
from genai.errors import UnsupportedModelError, WeightsError

ACCURACY_LEVEL = 4
"""MatMulNBits multiplies 8-bit integers; below 4 a decode step on CPU is ten times slower."""

_DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Weights:
    """Moves a checkpoint's tensors into a graph, one at a time, and remembers which were used."""

    def __init__(self, graph: GraphBuilder, source: WeightSource, plan: Plan) -> None:
        self.graph = graph
        self.plan = plan
        self.dtype = _DTYPES[plan.dtype]
        self._source = source
        self._present = frozenset(source.names())
        self._used: set[str] = set()
        self._ends: dict[str, BlockWeight | None] = {}  # the embedding, which a tied head shares

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this tensor."""
        return name in self._present

    def vector(self, name: str, size: int, *, offset: float = 0.0, dtype: np.dtype[np.generic] | None = None) -> str:
        """A one-dimensional weight as a graph value."""
        values = self._read(name, (size,)) + np.float32(offset)
        return self.graph.weight(name, values.astype(dtype or self.dtype))

    def linear(self, x: str, names: Sequence[str], num_outputs: Sequence[int], num_inputs: int) -> str:
        """`x @ concat(weights).T + concat(biases)`: several checkpoint matrices as one product.

        x: [..., num_inputs]; the result: [..., sum(num_outputs)]. A bias is used where the checkpoint has one.
        """
        shapes = [(size, num_inputs) for size in num_outputs]
        label = "+".join(names)
        bias = self._fused_bias(names, num_outputs, label)
        if self.plan.matrices == "float":
            weight = np.concatenate([self._read(f"{n}.weight", s) for n, s in zip(names, shapes, strict=True)])
            return self._float_product(x, label, weight, bias)
        parts = [self._read_blocks(f"{n}.weight", s, self.plan.matrices) for n, s in zip(names, shapes, strict=True)]
        return self._integer_product(x, label, _concatenated(parts), bias)

    def embedding(self, ids: str, name: str, vocab_size: int, hidden_size: int) -> str:
        """Rows of the embedding for token ids: [B, T] -> [B, T, H]."""
        if self.plan.ends == "float":
            return self.graph.op("Gather", self._float_end(name, (vocab_size, hidden_size)), ids, axis=0)
        block = self._read_blocks(f"{name}.weight", (vocab_size, hidden_size), self.plan.ends)
        data, scales = self._store(name, block)
        # Three dimensions, so that the head can share the tensor: MatMulNBits wants [N, blocks, bytes of a block].
        scales = self.graph.alias(f"{name}.gather_scales", scales, [vocab_size, hidden_size // block.block_size, 1])
        rows = self.graph.op(
            "GatherBlockQuantized", data, ids, scales, domain=CONTRIB,
            bits=block.bits, block_size=block.block_size, gather_axis=0, quantize_axis=2,
        )  # fmt: skip
        self._ends[name] = block
        return self.graph.op("Reshape", rows, self.graph.constant([0, 0, hidden_size], np.int64))

    def head(self, x: str, name: str, vocab_size: int, hidden_size: int) -> str:
        """Logits [B, P, V] in the activations' type; `name` may be the embedding's: then they share its tensor."""
        graph = self.graph
        if self.plan.ends == "float":
            table = self._float_end(name, (vocab_size, hidden_size))
            # Gemm reads the weight as stored ([V, H]): a tied head needs no transposed copy.
            flat = graph.op("Reshape", x, graph.constant([-1, hidden_size], np.int64))
            logits = graph.op("Gemm", flat, table, transB=1)
            leading = graph.op("Shape", x, start=0, end=2)
            shape = graph.op("Concat", leading, graph.constant([vocab_size], np.int64), axis=0)
            return graph.op("Reshape", logits, shape)
        shared = self._ends.get(name)
        block = shared or self._read_blocks(f"{name}.weight", (vocab_size, hidden_size), self.plan.ends)
        stored = _stored_names(name) if shared else self._store(name, block)
        return self._block_product(x, stored, block.bits, block.block_size, (vocab_size, hidden_size), None)

    def refuse_unused(self, ignored: Sequence[str] = ()) -> None:
        """Every tensor must have been used, or the graph would not be the model. Raises: UnsupportedModelError."""
        unused = sorted(name for name in self._present - self._used if not name.endswith(tuple(ignored)))
        if unused:
            raise UnsupportedModelError(
                f"the checkpoint has {len(unused)} tensors that its architecture does not use: {', '.join(unused[:5])}"
                f"{', …' if len(unused) > 5 else ''}; it is not the plain form of this model"
            )

    def cast_down(self, x: str) -> str:
        """A float32 value in the activations' type."""
        if self.plan.dtype == "float32":
            return x
        return self.graph.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(self.dtype))

    def _float_end(self, name: str, shape: tuple[int, int]) -> str:
        """Embedding or head [V, H], stored once when they are the same."""
        if name not in self._ends:
            self.graph.weight(name, self._read(f"{name}.weight", shape).astype(self.dtype))
            self._ends[name] = None
        return name

    def _float_product(self, x: str, label: str, weight: FloatArray, bias: str | None) -> str:
        stored = self.graph.weight(label, np.ascontiguousarray(weight.T.astype(self.dtype)))
        product = self.graph.op("MatMul", x, stored)
        return product if bias is None else self.graph.op("Add", product, bias)

    def _integer_product(self, x: str, label: str, block: BlockWeight, bias: str | None) -> str:
        stored = self._store(label, block)
        rows, columns = block.values.shape
        return self._block_product(x, stored, block.bits, block.block_size, (rows, columns), bias)

    def _block_product(
        self, x: str, stored: tuple[str, str], bits: int, block_size: int, shape: tuple[int, int], bias: str | None
    ) -> str:
        return self.graph.op(
            "MatMulNBits", x, *stored, None, None, bias, domain=CONTRIB,
            N=shape[0], K=shape[1], bits=bits, block_size=block_size, accuracy_level=ACCURACY_LEVEL,
        )  # fmt: skip

    def _store(self, name: str, block: BlockWeight) -> tuple[str, str]:
        data, scales = pack(block)
        data_name, scales_name = _stored_names(name)
        self.graph.weight(data_name, data)
        self.graph.weight(scales_name, scales.astype(self.dtype))
        return data_name, scales_name

    def _fused_bias(self, names: Sequence[str], sizes: Sequence[int], label: str) -> str | None:
        present = [self.has(f"{name}.bias") for name in names]
        if not any(present):
            return None
        parts: list[Array] = [
            self._read(f"{name}.bias", (size,)) if here else np.zeros(size, np.float32)
            for name, size, here in zip(names, sizes, present, strict=True)
        ]
        return self.graph.weight(f"{label}.bias", np.concatenate(parts).astype(self.dtype))

    def _read(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        self._check(name, shape)
        return self._source.read(name)

    def _read_blocks(self, name: str, shape: tuple[int, ...], form: WeightForm) -> BlockWeight:
        self._check(name, shape)
        return read_quantized(self._source, name, form)

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self._present:
            raise WeightsError(f"the checkpoint has no tensor {name!r}, which its configuration calls for")
        actual = self._source.shape(name)
        if actual != shape:
            raise WeightsError(f"tensor {name!r} has shape {list(actual)}, its configuration says {list(shape)}")
        self._used.add(name)


def _stored_names(name: str) -> tuple[str, str]:
    return f"{name}.blocks", f"{name}.scales"


def _concatenated(parts: Sequence[BlockWeight]) -> BlockWeight:
    """Stack weights by rows, exactly: the widest bits and the finest blocks of any part serve all."""
    bits = max(part.bits for part in parts)
    block_size = min(part.block_size for part in parts)
    parts = [_refined(part, bits, block_size) for part in parts]
    return BlockWeight(
        values=np.concatenate([part.values for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        bits=bits,
        block_size=block_size,
    )


def _refined(part: BlockWeight, bits: int, block_size: int) -> BlockWeight:
    """The same numbers in more bits and smaller blocks."""
    shift = np.uint8(2 ** (bits - 1) - 2 ** (part.bits - 1))
    return BlockWeight(
        values=part.values + shift,
        scales=np.repeat(part.scales, part.block_size // block_size, axis=1),
        bits=bits,
        block_size=block_size,
    )
