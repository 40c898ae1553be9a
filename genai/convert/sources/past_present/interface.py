"""The interface of a decoder that takes past keys and values and returns longer ones, as most exporters write it.

    input_ids [B, T], attention_mask [B, P+T], position_ids [B, T] or [3, B, T], cache_position [T],
    past_key_values.i.key, .value [B, Hkv, P, D]  ─►  logits [B, T, V], present.i.key, .value [B, Hkv, P+T, D]
    states of recurrent layers [B, …]                 the same [B, …]

Inputs that a model does not have are left out of what it is fed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from genai.convert.plain.merged import USE_CACHE
from genai.convert.probing import Array, Part, try_call
from genai.convert.values import rank, size_of
from genai.errors import UnsupportedModelError
from genai.runtime.session import Session

FloatArray = npt.NDArray[np.float32]

_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_FLOAT_NAMES = ("float32", "float16")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInput:
    """A past input and the present output that continues it: [B, heads, P, size] and [B, heads, P+T, size]."""

    past: str
    present: str
    num_heads: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateInput:
    """A state's past input and the present output that takes its place: [B, *shape]."""

    past: str
    present: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastPresent:
    """Names of a model's inputs and outputs by what they mean; caches in the graph's order; states of some layers.

    num_streams: how often it asks for positions, each time for all rows; 0 if they have no dimension for that.
    """

    input_ids: str
    attention_mask: str | None
    position_ids: str | None
    cache_position: str | None
    caches: tuple[CacheInput, ...]
    logits: str
    dtypes: dict[str, np.dtype[np.generic]]
    states: tuple[StateInput, ...] = ()
    num_streams: int = 0

    @property
    def memory(self) -> dict[str, str]:
        """The output that continues each past input, be it a cache or a state."""
        caches = {cache.past: cache.present for cache in self.caches}
        return caches | {state.past: state.present for state in self.states}

    def samples(self, shape: tuple[int, int, int]) -> dict[str, Array]:
        """Inputs for (rows, new tokens, past), and presents: parts of a graph may start from them.

        Tokens, states, keys and values are zero; the latter take no memory until they are used.
        """
        batch, num_tokens, past = shape
        positions = np.arange(past, past + num_tokens)
        arrays: dict[str | None, Array] = {
            self.input_ids: np.zeros((batch, num_tokens), np.int64),
            self.attention_mask: np.ones((batch, past + num_tokens), np.int64),
            self.position_ids: np.tile(positions, (*([self.num_streams] if self.num_streams else []), batch, 1)),
            self.cache_position: positions,
        }
        found = {name: array.astype(self.dtypes[name]) for name, array in arrays.items() if name is not None}
        for cache in self.caches:
            zero = np.zeros((), self.dtypes[cache.past])
            for name, length in ((cache.past, past), (cache.present, past + num_tokens)):
                found[name] = np.broadcast_to(zero, (batch, cache.num_heads, length, cache.size))
        for state in self.states:
            found[state.past] = np.zeros((batch, *state.shape), self.dtypes[state.past])
        return found

    def continued(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What a run gave of caches and states, as the next one's inputs."""
        return {past: outputs[present] for past, present in self.memory.items()}

    def on_samples(
        self, model: ir.Model, value: ir.Value, shapes: Sequence[tuple[int, int, int]]
    ) -> list[Array] | None:
        """A value in samples of these shapes, or None if it cannot be had without running the model."""
        part, results = Part(model, self.presents(model.graph), [value]), []
        for shape in shapes:
            got = try_call(part, self.samples(shape))
            if got is None:
                return None
            results.append(got[0])
        return results

    def feeds(self, tokens: npt.NDArray[np.int64], past: int) -> dict[str, Array]:
        """All inputs: new tokens [B, T] after `past` tokens whose keys and values are zero."""
        samples = self.samples((*tokens.shape, past)) | {self.input_ids: tokens.astype(self.dtypes[self.input_ids])}
        return {name: samples[name] for name in self.dtypes}

    def presents(self, graph: ir.Graph) -> list[ir.Value]:
        """The values in a graph that continue the caches: parts of it may start from them."""
        names = {cache.present for cache in self.caches}
        return [value for value in graph.outputs if value.name in names]


class PastPresentModel:
    """A past/present model run as it is, one row at a time: what a conversion is compared with."""

    def __init__(self, interface: PastPresent, session: Session) -> None:
        self._interface = interface
        self._session = session

    def logits(self, chunks: Sequence[Sequence[int]]) -> FloatArray:
        """The logits [T, V] after each token, the tokens given in parts that continue each other."""
        interface, past, results = self._interface, 0, []
        caches: dict[str, Array] = {}
        for chunk in chunks:
            feeds = interface.feeds(np.array([chunk], np.int64), past) | caches
            outputs = self._session.call(as_taken(self._session, feeds, past))
            caches = interface.continued(outputs)
            results.append(np.asarray(outputs[interface.logits][0], np.float32))
            past += len(chunk)
        return np.concatenate(results)


def as_taken(session: Session, feeds: dict[str, Array], past: int) -> dict[str, Array]:
    """Inputs as a graph takes them: in its own types, and with the choice that a merged decoder makes."""
    types = {tensor.name: tensor.dtype for tensor in session.inputs}
    found = {name: array.astype(types[name]) if types[name] in _FLOAT_NAMES else array for name, array in feeds.items()}
    return found | ({USE_CACHE: np.array([past > 0])} if USE_CACHE in types else {})


def interface_of(model: ir.Model, presents: dict[str, str], states: Sequence[StateInput] = ()) -> PastPresent:
    """Read a model's interface; presents: the output that continues each past input that is a cache.

    Raises: UnsupportedModelError that names an input nobody knows how to fill.
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    caches = tuple(_cache_input(inputs[past], present) for past, present in presents.items())
    continued = presents | {state.past: state.present for state in states}
    roles = {name: _role(value) for name, value in inputs.items() if name not in continued}
    unknown = [name for name, role in roles.items() if role is None]
    if unknown:
        raise UnsupportedModelError(f"the model has an input {unknown[0]!r}{_why_not(inputs[unknown[0]])}")
    by_role = {role: name for name, role in roles.items()}
    if "input_ids" not in by_role:
        raise UnsupportedModelError(f"the model has no input for token ids, only {', '.join(inputs)}")
    outputs = [value for value in model.graph.outputs if value.name not in continued.values()]
    logits = next((value for value in outputs if value.name == "logits"), outputs[0] if len(outputs) == 1 else None)
    if logits is None:
        names = ", ".join(value.name or "" for value in model.graph.outputs)
        raise UnsupportedModelError(f"which output is the logits? None of {names} is called so")
    return PastPresent(
        input_ids=by_role["input_ids"],
        attention_mask=by_role.get("attention_mask"),
        position_ids=by_role.get("position_ids"),
        cache_position=by_role.get("cache_position"),
        caches=caches,
        logits=logits.name or "",
        states=tuple(states),
        num_streams=_num_streams(inputs.get(by_role.get("position_ids", ""))),
        dtypes={name: value.dtype.numpy() for name, value in inputs.items() if value.dtype is not None},
    )


_ADVICE = (
    "a text decoder takes input_ids, attention_mask, position_ids, cache_position and past keys and values: export the "
    "model without merging, and without images or audio"
)


def _why_not(value: ir.Value) -> str:
    """What an input is that nobody knows how to fill, as a sentence goes on."""
    readers = sorted({node.op_type for node in value.consumers()})
    if "past" in (value.name or "").lower() and readers:
        return (
            f", read by {' and '.join(readers)}: neither keys nor values of an attention, nor a state of "
            "LinearAttention or CausalConvWithState"
        )
    return f"; {_ADVICE}"


def _role(value: ir.Value) -> str | None:
    """What an input that is no cache means, by its name as exporters write it."""
    name = (value.name or "").lower()
    if value.dtype not in _INTEGERS:
        return None
    for role in ("attention_mask", "position_ids", "cache_position", "input_ids"):
        if name == role or name.endswith((f".{role}", f"/{role}")):
            return role
    return None


def _num_streams(position_ids: ir.Value | None) -> int:
    """The first of three dimensions of positions, where it is fixed."""
    size = None if position_ids is None or rank(position_ids) != 3 else size_of(position_ids, 0)
    return size or 0


def _cache_input(value: ir.Value, present: str) -> CacheInput:
    num_heads, size = size_of(value, 1), size_of(value, 3)
    if value.dtype not in _FLOATS or not num_heads or not size or num_heads < 0 or size < 0:
        raise UnsupportedModelError(
            f"the cache input {value.name!r} has shape {value.shape} and type {value.dtype}; it must be a float tensor "
            "[batch, heads, length, size] whose heads and size are fixed"
        )
    return CacheInput(past=value.name or "", present=present, num_heads=num_heads, size=size)
