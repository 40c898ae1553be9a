"""Parts of a graph, told by what they compute: they are cut out and run on sample values.

Exporters write the same mask or the same repetition of heads in dozens of ways. Instead of knowing them all, we run the
part and look at what comes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from genai.config import EngineConfig
from genai.errors import GenAIError, UnsupportedModelError
from genai.runtime.session import Session

Array = npt.NDArray[np.generic]

_MAX_WEIGHT_BYTES = 1 << 30
"""A part that needs more weights than that is no bookkeeping of positions or heads."""


class Part:
    """A part of a graph as a function, from the values it is given and the graph's inputs to other values.

    Raises: UnsupportedModelError if it cannot be cut out or run.
    """

    def __init__(self, model: ir.Model, given: Sequence[ir.Value], wanted: Sequence[ir.Value]) -> None:
        self._wanted = [value.name or "" for value in wanted]
        start = set(given)
        leaves = [value for value in ancestors(wanted, start) if value in start or value.is_graph_input()]
        self.inputs = [value.name or "" for value in leaves]
        graph = ir.convenience.extract(model.graph, leaves, list(wanted))
        self._types = {value.name: value for value in graph.inputs}
        _embed_weights(graph)
        self._model = ir.Model(graph, ir_version=model.ir_version)
        self._session: Session | None = None

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run on arrays by name; those the part does not need may be there too."""
        missing = [name for name in self.inputs if name not in feeds]
        if missing:
            raise UnsupportedModelError(f"{self._wanted[0]!r} depends on {', '.join(map(repr, missing[:4]))}")
        if self._session is None:
            self._session = self._loaded(feeds)
        outputs = self._session.call({name: feeds[name] for name in self.inputs})
        return [outputs[name] for name in self._wanted]

    def _loaded(self, feeds: Mapping[str, Array]) -> Session:
        for name, value in self._types.items():
            value.dtype = ir.DataType.from_numpy(feeds[name or ""].dtype)
            value.shape = None
        return Session(ir.to_proto(self._model).SerializeToString(), EngineConfig(device="cpu", num_threads=1))


def ancestors(wanted: Iterable[ir.Value], stop: set[ir.Value], *, by_shape: bool = True) -> set[ir.Value]:
    """Every value that the wanted ones are computed from, themselves included, up to the `stop` values.

    by_shape: also those of which only the shape matters.
    """
    found: set[ir.Value] = set()
    todo = list(wanted)
    while todo:
        value = todo.pop()
        if value in found:
            continue
        found.add(value)
        node = value.producer()
        if node is not None and value not in stop and (by_shape or node.op_type not in ("Shape", "Size")):
            todo += [source for source in node.inputs if source is not None]
    return found


def try_call(part: Part, feeds: Mapping[str, Array]) -> list[Array] | None:
    """What a part gives, or None where it cannot be run on these values."""
    try:
        return part(feeds)
    except GenAIError:
        return None


def _embed_weights(graph: ir.Graph) -> None:
    """Weights from other files into the graph: it is run from memory."""
    size = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    if size > _MAX_WEIGHT_BYTES:
        raise UnsupportedModelError(f"{graph.outputs[0].name!r} depends on {size:,} bytes of weights")
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
