"""An onnxruntime-genai graph as it was, run one row at a time: what its conversion is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genai.convert.probing import Array
from genai.convert.rewritten import FloatArray
from genai.convert.sources.past_present.interface import PastPresent, as_taken
from genai.runtime.session import Session


class SharedBufferModel:
    """A graph of GroupQueryAttention, run as its runtime runs it: buffers of a fixed capacity, a mask of what counts.

    min_capacity: graphs that switch tables by the buffers' length are run with at least this much.
    """

    def __init__(self, interface: PastPresent, session: Session, min_capacity: int) -> None:
        self._interface = interface
        self._session = session
        self._min_capacity = min_capacity

    def logits(self, chunks: Sequence[Sequence[int]]) -> FloatArray:
        """The logits [T, V] after each token, the tokens given in parts that continue each other."""
        capacity = max(self._min_capacity, sum(map(len, chunks)))
        caches: dict[str, Array] = {
            cache.past: np.zeros((1, cache.num_heads, capacity, cache.size), self._interface.dtypes[cache.past])
            for cache in self._interface.caches
        }
        results, past, todo = [], 0, [list(chunk) for chunk in chunks]
        while todo:
            chunk = todo.pop(0)
            feeds = self._feeds(chunk, past, capacity) | caches
            outputs = self._session.call(as_taken(self._session, feeds, past))
            logits = np.asarray(outputs[self._interface.logits][0], np.float32)
            if len(logits) < len(chunk):  # a graph that keeps the last position only
                todo[:0] = [[token] for token in chunk]
                continue
            caches = self._interface.continued(outputs)
            results.append(logits)
            past += len(chunk)
        return np.concatenate(results)

    def _feeds(self, chunk: Sequence[int], past: int, capacity: int) -> dict[str, Array]:
        """Everything but the caches; what lies behind the new tokens is masked."""
        feeds = self._interface.feeds(np.array([chunk], np.int64), past)
        mask = self._interface.attention_mask
        if mask is not None:
            length = past + len(chunk)
            feeds[mask] = np.pad(np.ones((1, length), feeds[mask].dtype), ((0, 0), (0, capacity - length)))
        return feeds


class WholePromptModel:
    """A graph of MultiHeadAttention, run on whole texts.

    The builder's shapes of repeated heads leave the past out, so ONNX Runtime may refuse to run one behind a past.
    """

    def __init__(self, interface: PastPresent, session: Session) -> None:
        self._interface = interface
        self._session = session

    def logits(self, chunks: Sequence[Sequence[int]]) -> FloatArray:
        """The logits [T, V] after each token of the parts taken together."""
        tokens = [token for chunk in chunks for token in chunk]
        feeds = self._interface.feeds(np.array([tokens], np.int64), 0)
        outputs = self._session.call(as_taken(self._session, feeds, 0))
        return np.asarray(outputs[self._interface.logits][0], np.float32)
