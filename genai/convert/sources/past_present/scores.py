"""What stands around an attention's two products, told by running it on sample values.

Between a cache and an operand: heads repeated, perhaps scaled and transposed. Between the products of queries and keys
and the softmax: a scale, perhaps a cap, a slope by distance for each head (ALiBi), and a mask that hides the future,
perhaps also what is older than a window or lies in other chunks. Between the softmax and the values: perhaps a factor.
Anything else has no equivalent here and is refused with what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from genai.convert.probing import Part
from genai.convert.sources.past_present.interface import PastPresent
from genai.errors import GraphRunError, UnsupportedModelError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_HIDDEN = -1e4
"""Scores below that are hidden: exporters write -inf, the type's minimum, or -1e4 and less."""
_TOLERANCE = 1e-3
"""Relative: parts of 16-bit models round."""
_SHAPES = ((2, 3, 5), (1, 6, 0), (3, 1, 7))
"""(rows, new tokens, past) that every mask is looked at."""
_SHORTEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which keys of the past a query sees: all, those of a window, or those in its own chunk of so many positions."""

    window: int | None = None
    chunk: int | None = None


ALL = Reach()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How products of queries and keys become what the softmax reads."""

    scale: float
    softcap: float | None
    reach: Reach
    slopes: tuple[float, ...] | None = None


class Sampler:
    """Runs parts of one model on sample shapes.

    longest: the past at which windows are looked for; less where the model's tables of positions are shorter; shapes:
    (rows, new tokens, past) that every mask is looked at, and the first one's new tokens at the longest past, too.
    """

    def __init__(
        self,
        model: ir.Model,
        interface: PastPresent,
        longest: int,
        shapes: Sequence[tuple[int, int, int]] = _SHAPES,
    ) -> None:
        self._model = model
        self._interface = interface
        self.longest = longest
        self._shapes = shapes
        self._rng = np.random.default_rng(0)
        self._masks: dict[tuple[str | None, bool], Reach] = {}

    def heads(self, cache: ir.Value, operand: ir.Value, *, is_transposed: bool) -> tuple[int, float]:
        """How an attention's operand comes of a present cache [B, Hkv, S, D]: (its heads, the factor on it).

        Raises: UnsupportedModelError if it is no repetition of heads.
        """
        info = next(info for info in self._interface.caches if info.present == cache.name)
        if cache is operand:
            return info.num_heads, 1.0
        batch, num_tokens, past = _SHAPES[0]
        dtype = self._interface.dtypes[info.past]
        sample = self._rng.standard_normal((batch, info.num_heads, past + num_tokens, info.size)).astype(dtype)
        feeds = self._interface.samples(_SHAPES[0]) | {cache.name or "": sample}
        given = np.asarray(self._part([], operand)(feeds)[0], np.float64)
        result = np.swapaxes(given, -1, -2) if is_transposed else given
        if result.ndim == 4 and result.shape[1] % info.num_heads == 0:
            wanted = np.repeat(sample.astype(np.float64), result.shape[1] // info.num_heads, axis=1)
            if wanted.shape == result.shape and (factor := _factor(wanted, result)) is not None:
                return result.shape[1], factor
        raise UnsupportedModelError(
            f"{operand.name!r} is not the cache {cache.name!r} with its heads repeated: {sample.shape} became "
            f"{given.shape}"
        )

    def number(self, value: ir.Value) -> float | None:
        """The number that a value is whatever the shapes are, or None if it is something else."""
        results = self._interface.on_samples(self._model, value, _SHAPES)
        if results is None or any(result.size != 1 for result in results):
            return None
        numbers = {float(result.reshape(-1)[0]) for result in results}
        return numbers.pop() if len(numbers) == 1 else None

    def scores(self, raw: ir.Value, scores: ir.Value, num_heads: int) -> Scores:
        """What happens between the products [B, H, T, S] and the softmax. Raises: UnsupportedModelError."""
        part = self._part([raw], scores)
        dtype = np.dtype(np.float32) if raw.dtype is None else raw.dtype.numpy()

        def apply(values: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
            feeds = self._interface.samples(shape) | {raw.name or "": values.astype(dtype)}
            result = np.asarray(part(feeds)[0], np.float64)
            if result.shape != values.shape:
                raise UnsupportedModelError(
                    f"the scores {values.shape} become {result.shape} before the softmax {scores.name!r}: attention "
                    "sinks or positions of its own are not supported"
                )
            return result

        def added(shape: tuple[int, int, int]) -> FloatArray:
            batch, num_tokens, past = shape
            return apply(np.zeros((batch, num_heads, num_tokens, past + num_tokens)), shape)

        def centred(values: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
            zero = added(shape)
            return apply(values, shape) - np.where(zero < _HIDDEN, 0, zero)

        reach = self._reach(lambda shape: added(shape) < _HIDDEN, scores)
        slopes = self._slopes(added, scores)
        scale, softcap = self._curve(apply if slopes is None else centred, num_heads, scores)
        return Scores(scale=scale, softcap=softcap, reach=reach, slopes=slopes)

    def weights(self, softmax: ir.Value, used: ir.Value, num_heads: int) -> float:
        """The factor between a softmax and what the values are multiplied by. Raises: UnsupportedModelError."""
        part = self._part([softmax], used)
        dtype = np.dtype(np.float32) if softmax.dtype is None else softmax.dtype.numpy()
        factors: list[float] = []
        for shape in self._shapes:
            batch, num_tokens, past = shape
            size = (batch, num_heads, num_tokens, past + num_tokens)
            sample = self._rng.integers(1, 65, size) / 64  # exact in 16 bits
            result = np.asarray(part(self._interface.samples(shape) | {softmax.name or "": sample.astype(dtype)})[0])
            is_alike = result.size == sample.size
            factor = _factor(sample, result.astype(np.float64).reshape(size)) if is_alike else None
            if factor is None or abs(factor - (factors or [factor])[0]) > _TOLERANCE * abs(factor):
                raise UnsupportedModelError(
                    f"between the softmax {softmax.name!r} and the values stands more than a factor: Attention has no "
                    "place for that"
                )
            factors.append(factor)
        return factors[0]

    def mask(self, mask: ir.Value | None, *, is_causal: bool) -> Reach:
        """What an operator's mask [B|1, H|1, T, S] leaves of the past. Raises: UnsupportedModelError."""
        key = (None if mask is None else mask.name, is_causal)
        if key not in self._masks:
            part = None if mask is None else self._part([], mask)
            self._masks[key] = self._reach(lambda shape: self._hidden(part, shape, is_causal), mask)
        return self._masks[key]

    def _hidden(self, part: Part | None, shape: tuple[int, int, int], is_causal: bool) -> BoolArray:
        _, num_tokens, past = shape
        hidden: BoolArray = np.zeros((1, 1, num_tokens, past + num_tokens), np.bool_)
        if is_causal:
            hidden = hidden | ~causal(num_tokens, past)
        if part is None:
            return hidden
        values = part(self._interface.samples(shape))[0]
        if values.dtype == np.bool_:
            return np.logical_or(hidden, np.logical_not(values))
        added: FloatArray = values.astype(np.float64)
        if np.abs(added[added >= _HIDDEN]).max(initial=0) > 0:
            raise UnsupportedModelError("the attention mask adds a bias to scores (ALiBi or relative positions)")
        return np.logical_or(hidden, added < _HIDDEN)

    def _curve(
        self, apply: Callable[[FloatArray, tuple[int, int, int]], FloatArray], num_heads: int, scores: ir.Value
    ) -> tuple[float, float | None]:
        """(scale, softcap) of what is not hidden."""
        shape = _SHAPES[0]
        batch, num_tokens, past = shape
        size = (batch, num_heads, num_tokens, past + num_tokens)
        values = self._rng.standard_normal(size) * 4
        result = apply(values, shape)
        seen = result >= _HIDDEN
        if (factor := _factor(values[seen], result[seen])) is not None:
            return factor, None
        softcap = float(np.abs(apply(np.full(size, 3e4), shape)[seen]).max())
        small = np.full(size, 0.01 * softcap)  # there tanh is a straight line
        scale = _factor(small[seen], apply(small, shape)[seen])
        if (
            scale is None
            or np.abs(softcap * np.tanh(values[seen] * scale / softcap) - result[seen]).max() > _TOLERANCE * softcap
        ):
            raise UnsupportedModelError(
                f"between queries and keys and the softmax {scores.name!r} stands more than a scale, a cap and a mask: "
                "a bias on scores (ALiBi, relative positions) is not supported"
            )
        return scale, softcap

    def _slopes(
        self, added: Callable[[tuple[int, int, int]], FloatArray], scores: ir.Value
    ) -> tuple[float, ...] | None:
        """What is added to scores, as slopes by the distance; None if it is nothing. A query's own constant is free."""
        slopes: FloatArray | None = None
        for shape in (*self._shapes, (1, self._shapes[0][1], self.longest)):
            _, num_tokens, past = shape
            bias = added(shape)
            seen = bias >= _HIDDEN
            distance = np.minimum(np.arange(past + num_tokens) - np.arange(past, past + num_tokens)[:, None], 0)
            own = np.take_along_axis(bias, np.arange(past, past + num_tokens).reshape(1, 1, -1, 1), axis=3)
            fall = np.where(seen, bias - own, 0)
            if slopes is None:
                slopes = -fall[0, :, -1, -2]
            wanted = np.where(seen, slopes[:, None, None] * distance, 0)
            allowed = _TOLERANCE * np.maximum(np.abs(wanted).max(axis=(0, 2, 3)), 1e-3)  # of each head, steep or not
            if (np.abs(fall - wanted).max(axis=(0, 2, 3)) > allowed).any():
                shown = ", ".join(f"{each:.4g}" for each in fall[0, 0, -1, -1:-5:-1])
                raise UnsupportedModelError(
                    f"a bias on scores before the softmax {scores.name!r} that is no slope by the distance (ALiBi): "
                    f"the first head's newest keys get {shown}; relative positions are not supported"
                )
        return None if slopes is None or not slopes.any() else tuple(map(float, slopes))

    def _reach(self, hidden: Callable[[tuple[int, int, int]], BoolArray], mask: ir.Value | None) -> Reach:
        """What a mask leaves of the past: looked for at the longest one, then held against every sample shape."""
        num_tokens, past, longest = self._longest(hidden)
        last = past + num_tokens - 1
        seen = int((~longest[0, 0, -1]).sum())
        shapes = [*self._shapes, (1, num_tokens, past), (1, num_tokens, past - 1)]
        reach = ALL if seen > last else Reach(window=seen)
        shape = _first_other(hidden, reach, shapes)
        first = last + 1 - seen
        if shape is not None and 0 < first <= last:  # a chunk may begin there: how long is the one before?
            before = hidden((1, 1, first - 1))[0, 0, -1]
            reach = Reach(chunk=max(int((~before).sum()), 1))
            shape = _first_other(hidden, reach, [*shapes, (1, num_tokens, max(first - 2, 0))])
        if shape is not None:
            _, num_tokens, past = shape
            name = "no mask" if mask is None else f"the mask {mask.name!r}"
            raise UnsupportedModelError(
                f"{name} hides other keys than those in the future or outside of a window or chunk, for {num_tokens} "
                f"tokens after {past}: not supported. Bidirectional and prefix masks show tokens their future, so that "
                "what they compute depends on how a prompt is cut into runs"
            )
        return reach

    def _longest(self, hidden: Callable[[tuple[int, int, int]], BoolArray]) -> tuple[int, int, BoolArray]:
        """(new tokens, past, the mask there): shorter where the model has no positions for that many."""
        num_tokens = self._shapes[0][1]
        while True:
            try:
                return num_tokens, self.longest, hidden((1, num_tokens, self.longest))
            except GraphRunError:
                if self.longest <= _SHORTEST:
                    raise
                self.longest = max(self.longest // 2, _SHORTEST)

    def _part(self, given: list[ir.Value], wanted: ir.Value) -> Part:
        """The way to a value; caches after the new tokens may be given, so that no layer has to be run for a shape."""
        return Part(self._model, [*given, *self._interface.presents(self._model.graph)], [wanted])


def causal(num_tokens: int, past: int, reach: Reach | None = None) -> BoolArray:
    """[T, S]: which keys a query sees."""
    queries = np.arange(past, past + num_tokens)[:, None]
    keys = np.arange(past + num_tokens)
    seen: BoolArray = keys <= queries
    if reach is not None and reach.window is not None:
        seen &= keys > queries - reach.window
    if reach is not None and reach.chunk is not None:
        seen &= keys >= queries // reach.chunk * reach.chunk
    return seen


def _first_other(
    hidden: Callable[[tuple[int, int, int]], BoolArray], reach: Reach, shapes: Sequence[tuple[int, int, int]]
) -> tuple[int, int, int] | None:
    """The first shape for which a mask leaves other keys than these."""
    for shape in shapes:
        actual = hidden(shape)
        wanted = ~causal(*shape[1:], reach)
        if not np.array_equal(np.broadcast_to(wanted, actual.shape), actual):
            return shape
    return None


def _factor(wanted: FloatArray, result: FloatArray) -> float | None:
    """The factor between two arrays, or None if they differ by more than one."""
    factor = float((wanted * result).sum() / (wanted * wanted).sum())
    error = np.abs(result - factor * wanted).max()
    return factor if error <= _TOLERANCE * max(abs(factor), 1e-6) * np.abs(wanted).max() else None
