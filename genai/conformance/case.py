"""One row of the operator matrix: an operator with given inputs and attributes, at one opset, in one type.

Rows are data (`rows/`). This file makes of a row its values, the same every time, and a model of one node.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeAlias, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array: TypeAlias = npt.NDArray[np.generic]
Attributes: TypeAlias = Mapping[str, int | float | str | onnx.GraphProto]
Domain: TypeAlias = Literal["ai.onnx", "com.microsoft", "ai.onnx.preview"]
Kind: TypeAlias = Literal["normal", "small", "minus", "scale", "table", "values", "bits", "bool"]

HALF = ("float32", "float16", "bfloat16")
"""The types that decoders are run in."""
_IR_VERSIONS = ((23, 11), (25, 12), (99, 13))
"""The format's version by the highest opset that it is written with here."""
_OPEN = (1, 3, 5, 7, 11)
"""Tokens and slots, as the rows have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An input of the node.

    name: as the operator's schema has it; shape: () for a number; dtype: None for the row's own type; kind: how it is
    filled: "normal", "small" and "minus" (gates, and their logarithms) and "scale" at random, "table" with cosines or
    sines, "bits" with random bytes, "bool" with three of four true, "values" with `values`; is_weight: part of the
    model, not fed; is_fixed: declared with all of its sizes; same_as: another input's value, given a second time.
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: str | None = None
    kind: Kind = "normal"
    values: tuple[float, ...] = ()
    is_weight: bool = False
    is_fixed: bool = False
    same_as: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How a row is made longer, to see what its time grows with.

    capacity: the size that stands for a cache's slots in shapes of inputs; valid: inputs that hold valid lengths, and
    what is added to the length in them.
    """

    capacity: int
    valid: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of the matrix.

    what: how it differs from the operator's other rows; inputs: in the schema's order, None for one that is left out;
    outputs: names, "" for one that is left out; loops: outputs that may be written over an input, a cache; types_of:
    outputs of another type than that or the row's; oracle: "onnx.reference" (of the standard's operator of that name),
    or the name of a function in `oracles/`; tolerance: None for the type's own; growth: None for what is not measured.
    """

    operator: str
    domain: Domain = "ai.onnx"
    what: str
    opset: int
    dtype: str
    inputs: tuple[Given | None, ...]
    attributes: Attributes = field(default_factory=dict)
    outputs: tuple[str, ...] = ("output",)
    loops: Mapping[str, str] = field(default_factory=dict)
    types_of: Mapping[str, str] = field(default_factory=dict)
    oracle: str = "onnx.reference"
    tolerance: float | None = None
    growth: Growth | None = None

    @cached_property
    def name(self) -> str:
        """Which row it is, the same from release to release."""
        return f"{self.domain}.{self.operator}-{self.opset} {self.what} {self.dtype}"

    def given(self) -> Iterator[Given]:
        """The inputs that are there."""
        return (each for each in self.inputs if each is not None)

    def output_dtype(self, output: str) -> str:
        """An output's type: its own, its cache's, or the row's."""
        if output in self.types_of:
            return self.types_of[output]
        cache = self.loops.get(output)
        return next((each.dtype for each in self.given() if each.name == cache and each.dtype), self.dtype)

    def values(self) -> dict[str, Array]:
        """The inputs by name, in their types; the same numbers whenever it is called."""
        rng = np.random.default_rng(zlib.crc32(f"{self.operator} {self.what}".encode()))
        values: dict[str, Array] = {}
        for each in self.given():
            if each.same_as is None:
                values[each.name] = _filled(each, rng).astype(np_dtype(each.dtype or self.dtype))
        return values

    def model(self, dtype: str | None = None) -> onnx.ModelProto:
        """A model of this one node. dtype: another type than the row's, for an oracle."""
        used, values = dtype or self.dtype, self.values()
        names = ["" if each is None else each.same_as or each.name for each in self.inputs]
        node = helper.make_node(self.operator, names, list(self.outputs), name="node", domain=self._domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in self.attributes.items())
        inputs, weights = [], []
        for each in self.given():
            kind = onnx_dtype(each.dtype or used)
            if each.same_as is not None:
                continue
            if each.is_weight:
                weights.append(
                    numpy_helper.from_array(values[each.name].astype(np_dtype(each.dtype or used)), each.name)
                )
            else:
                inputs.append(
                    helper.make_tensor_value_info(
                        each.name, kind, each.shape if each.is_fixed else _declared(each.shape)
                    )
                )
        outputs = [
            helper.make_tensor_value_info(name, onnx_dtype(dtype or self.output_dtype(name)), None)
            for name in self.outputs
            if name
        ]
        graph = helper.make_graph([node], "row", inputs, outputs, weights)
        opsets = [helper.make_opsetid("", self.opset)]
        if self._domain:
            opsets.append(helper.make_opsetid(self._domain, 1))
        version = next(version for opset, version in _IR_VERSIONS if self.opset <= opset)
        return helper.make_model(graph, opset_imports=opsets, ir_version=version)

    def grown(self, capacity: int, valid: int) -> Case:
        """The same with caches of this many slots, of which so many are valid. Only for rows with a `growth`."""
        growth = self.growth
        assert growth is not None
        return replace(self, inputs=tuple(each and _grown(each, growth, capacity, valid) for each in self.inputs))

    @property
    def _domain(self) -> str:
        return "" if self.domain == "ai.onnx" else self.domain


def tensor(name: str, *shape: int) -> Given:
    """An input of the row's type, at random."""
    return Given(name=name, shape=shape)


def weight(name: str, *shape: int, kind: Kind = "small") -> Given:
    """A part of the model, of the row's type."""
    return Given(name=name, shape=shape, kind=kind, is_weight=True)


def numbers(name: str, *values: float, dtype: str = "int64", shape: tuple[int, ...] | None = None) -> Given:
    """An input with these numbers: [n], or of another shape."""
    shape = (len(values),) if shape is None else shape
    return Given(name=name, shape=shape, dtype=dtype, kind="values", values=values)


class More(TypedDict, total=False):
    """What a row may have beyond its inputs: fields of `Case`."""

    domain: Domain
    attributes: Attributes
    outputs: tuple[str, ...]
    loops: Mapping[str, str]
    types_of: Mapping[str, str]
    oracle: str
    tolerance: float | None
    growth: Growth | None


def rows(
    operator: str,
    what: str,
    inputs: Sequence[Given | None],
    *,
    opsets: Sequence[int],
    types: Sequence[str] = ("float32",),
    **more: Unpack[More],
) -> list[Case]:
    """The same at several opsets and in several types."""
    return [
        Case(operator=operator, what=what, inputs=tuple(inputs), opset=opset, dtype=dtype, **more)
        for opset in opsets
        for dtype in types
    ]


def np_dtype(name: str) -> np.dtype[np.generic]:
    """NumPy's type, ml_dtypes' among them."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(onnx_dtype(name)))


def onnx_dtype(name: str) -> int:
    """ONNX's number of a type."""
    return int(onnx.TensorProto.DataType.Value(name.upper() if name != "float32" else "FLOAT"))


def _declared(shape: Sequence[int]) -> list[int | None]:
    """As models declare it: how many rows, tokens and slots there are is left open, sizes of heads are not."""
    return [None if not axis or size in _OPEN else size for axis, size in enumerate(shape)]


def _filled(given: Given, rng: np.random.Generator) -> Array:
    if given.kind == "values":
        return np.array(given.values, np.float64).reshape(given.shape)
    if given.kind == "bits":
        return rng.integers(0, 256, given.shape, np.uint8)
    if given.kind == "bool":
        return rng.random(given.shape) < 0.75
    if given.kind == "small":
        return rng.uniform(0.05, 0.5, given.shape)
    if given.kind == "minus":
        return -rng.uniform(0.05, 2.0, given.shape)
    if given.kind == "scale":
        return rng.uniform(0.001, 0.01, given.shape)
    if given.kind == "table":
        slots, size = given.shape
        angles = np.arange(slots)[:, None] / 100.0 ** (np.arange(size) / size)
        return np.cos(angles) if given.name.startswith("cos") else np.sin(angles)
    if given.dtype in ("int8", "uint8"):
        return rng.integers(0, 100, given.shape)
    if given.dtype == "uint4":
        return rng.integers(0, 16, given.shape)
    return rng.standard_normal(given.shape)


def _grown(given: Given, growth: Growth, capacity: int, valid: int) -> Given:
    shape = tuple(capacity if size == growth.capacity else size for size in given.shape)
    if given.name in growth.valid:
        number = float(valid + growth.valid[given.name])
        return replace(given, shape=shape, kind="values", values=(number,) * math.prod(shape))
    return replace(given, shape=shape)
