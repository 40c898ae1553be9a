"""GroupQueryAttention and MultiHeadAttention in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genai.conformance.case import np_dtype
from genai.conformance.oracles.node import Floats, Node, rms_normed, rotated, unpacked


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attended:
    """output: [T, Dv]; scores: before the softmax, [T, S]; shares: after it."""

    output: Floats
    scores: Floats
    shares: Floats


def _attend(q: Floats, k: Floats, v: Floats, added: Floats, *, cap: float = 0, sink: float | None = None) -> _Attended:
    """One head: q [T, D], scaled already, k [S, D], v [S, Dv], added [T, S]; sink: a score without a value."""
    scores = q @ k.T
    scores = (cap * np.tanh(scores / cap) if cap else scores) + added
    weights = np.exp(scores)
    total = weights.sum(-1, keepdims=True) + (0 if sink is None else np.exp(sink))
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return _Attended(output=shares @ v, scores=scores, shares=shares)


def _heads(x: Floats, number: int) -> Floats:
    """[B, T, H * D] -> [B, H, T, D]."""
    return x.reshape(*x.shape[:2], number, -1).swapaxes(1, 2)


def _flat(x: Floats) -> Floats:
    """[B, H, T, D] -> [B, T, H * D]."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


def group_query_attention(node: Node) -> Mapping[str, Floats]:
    """New keys and values are written behind what is valid of each row; NaN behind the end."""
    heads, kv_heads = node.integer("num_heads"), node.integer("kv_num_heads")
    query, key, value = _projected(node, heads, kv_heads)
    rows, _, num_tokens, size = query.shape
    output = np.full((rows, heads, num_tokens, size), np.nan)
    scores = np.full((rows, heads, num_tokens, int(node.integers("total_sequence_length"))), np.nan)
    keys, values = (_Cache(node, name, key.shape) for name in ("key", "value"))
    for row, last in enumerate(node.integers("seqlens_k")):
        end = int(last) + 1
        count = int(node.integers("query_seqlens")[row]) if node.has("query_seqlens") else min(num_tokens, end)
        places = np.arange(end - count, end)
        q, k = (_positioned(each[row, :, :count], node, places, row) for each in (query, key))
        all_keys, all_values = keys.joined(row, k, end), values.joined(row, value[row, :, :count], end)
        added = _hidden(node, places, end) + _bias(node, row, count, end)
        for head in range(heads):
            its = head * kv_heads // heads
            seen = ~np.isnan(all_keys[its, :, 0])
            found = _attend(
                q[head] * node.number("scale", size**-0.5), all_keys[its, seen], all_values[its, seen],
                added[head][:, seen], cap=node.number("softcap", 0), sink=_sink(node, head),
            )  # fmt: skip
            output[row, head, :count] = found.output
            told = found.scores if node.integer("qk_output") == 1 else found.shares
            scores[row, head, :count, :end][:, seen] = np.where(np.isfinite(told), told, np.nan)
    present = {"present_key": keys.present, "present_value": values.present}
    return {"output": _flat(output), **present, "output_qk": scores}


def _projected(node: Node, heads: int, kv_heads: int) -> tuple[Floats, Floats, Floats]:
    """Queries, keys and values [B, H, T, D], given apart or as one."""
    query = node.floats("query")
    if node.has("key"):
        return (
            _heads(query, heads), _heads(node.floats("key"), kv_heads), _heads(node.floats("value"), kv_heads)
        )  # fmt: skip
    parts = _heads(query, heads + 2 * kv_heads)
    q, k, v = np.split(parts, [heads, heads + kv_heads], axis=1)
    return q, k, v


def _positioned(x: Floats, node: Node, places: npt.NDArray[np.int64], row: int) -> Floats:
    """x [H, T, D] after its norm, turned to its positions. Queries are told from keys by their number of heads."""
    name = "q" if x.shape[0] == node.integer("num_heads") else "k"
    if node.has(f"{name}_norm_weight"):
        epsilon = node.number(f"{name}_norm_epsilon", node.number("qk_norm_epsilon", 1e-6))
        x = rms_normed(x, epsilon) * node.floats(f"{name}_norm_weight")
    if not node.integer("do_rotary"):
        return x
    told = node.integers("position_ids")[row] if node.has("position_ids") else places
    cos, sin = (node.floats(f"{which}_cache")[told] for which in ("cos", "sin"))
    return rotated(x, cos, sin, is_interleaved=bool(node.integer("rotary_interleaved")))


def _hidden(node: Node, places: npt.NDArray[np.int64], end: int) -> Floats:
    """[1, T, S]: 0 where a query may look, else minus infinity."""
    distance = places[:, None] - np.arange(end)
    window = node.integer("local_window_size", -1)
    is_hidden = (distance < 0) if node.integer("causal", 1) else np.zeros(distance.shape, bool)
    if window > 0:
        is_hidden |= distance >= window
    return np.where(is_hidden, -np.inf, 0.0)[None]


def _bias(node: Node, row: int, count: int, end: int) -> Floats:
    heads, num_tokens = node.integer("num_heads"), node.given["query"].shape[1]
    if not node.has("attention_bias"):
        return np.zeros((heads, count, end))
    bias = node.floats("attention_bias")
    whole = np.broadcast_to(bias, (len(node.given["query"]), heads, num_tokens, bias.shape[-1]))
    return np.asarray(whole[row, :, :count, :end], np.float64)


def _sink(node: Node, head: int) -> float | None:
    if node.has("head_sink"):
        return float(node.floats("head_sink")[head])
    return 0.0 if node.integer("smooth_softmax") else None


class _Cache:
    """A cache [B, H, C, D] that is read and written, in floats or in few bits with scales."""

    def __init__(self, node: Node, name: str, shape: tuple[int, ...]) -> None:
        self._bits = node.integer("kv_cache_bit_width", 8)
        self._capacity = node.integer("local_window_size") if node.integer("sliding_window_cache") else None
        self._type = node.types.get(f"past_{name}", "float32")
        scale = node.floats(f"{name[0]}_scale") if node.has(f"{name[0]}_scale") else np.ones(1)
        self._scale = scale.reshape(-1, 1, scale.shape[-1])  # [H or 1, 1, D or 1]
        self._past = node.given.get(f"past_{name}")
        self.present = np.full(shape if self._past is None else self._past.shape, np.nan)

    def joined(self, row: int, new: Floats, end: int) -> Floats:
        """All of a row's entries [H, S, D], the new ones as they are after rounding; NaN for those that are gone."""
        stored = self._rounded(new)
        first = end - stored.shape[1]
        whole = np.full((new.shape[0], end, stored.shape[2]), np.nan)
        if self._past is not None:
            kept = self._kept(first)
            whole[:, first - kept : first] = self._past[row][:, :kept]
        whole[:, first:] = stored
        kept = self._kept(end)
        self.present[row, :, :kept] = whole[:, end - kept :]
        return self._read(whole)

    def _kept(self, tokens: int) -> int:
        """How many of so many tokens a cache holds: those of a window lose as many as it has beyond, at once."""
        capacity = self.present.shape[2]
        if self._capacity is None or tokens <= capacity:
            return tokens
        beyond = capacity - self._capacity + 1
        return int(tokens - beyond * np.ceil((tokens - capacity) / beyond))

    def _rounded(self, x: Floats) -> Floats:
        if self._type not in ("int8", "uint8", "float8e4m3fn"):
            return x
        x = x / self._scale
        if self._type == "float8e4m3fn":
            return np.asarray(np.clip(x, -448, 448).astype(np_dtype(self._type)), np.float64)
        if self._type == "int8":
            return np.clip(np.round(x), -128, 127)
        whole = (np.clip(np.round(x), -8, 7) + 8).astype(np.uint8)
        return np.asarray(whole[..., 0::2] | whole[..., 1::2] << 4, np.float64)

    def _read(self, stored: Floats) -> Floats:
        if self._type != "uint8":
            return stored * self._scale
        numbers = unpacked(np.nan_to_num(stored).astype(np.uint8), 4) - 8.0
        return np.where(np.isnan(stored[..., :1]), np.nan, numbers) * self._scale


def multi_head_attention(node: Node) -> Mapping[str, Floats]:
    """Masks are added as `mask_filter_value`; a past is joined, or its slots written where its length is told."""
    heads = node.integer("num_heads")
    query, key, value = _multi_projected(node, heads)
    rows, _, num_tokens, size = query.shape
    valid = slice(None)
    if node.has("past_sequence_length"):
        start = int(node.integers("past_sequence_length")[0])
        key, value = (_written(node, name, new, start) for name, new in (("past_key", key), ("past_value", value)))
        valid = slice(start + num_tokens)
    elif node.has("past_key"):
        key = np.concatenate([node.floats("past_key"), key], axis=2)
        value = np.concatenate([node.floats("past_value"), value], axis=2)
    length = key[:, :, valid].shape[2]
    added = np.zeros((rows, heads, num_tokens, length)) + _masked(node, num_tokens, length)
    if node.has("attention_bias"):
        added = added + node.floats("attention_bias")
    output, scores = np.zeros((rows, heads, num_tokens, value.shape[3])), np.zeros_like(added)
    for row in range(rows):
        seen_key, seen_value = _of_beams(node, row, key[:, :, valid]), _of_beams(node, row, value[:, :, valid])
        for head in range(heads):
            q = query[row, head] * node.number("scale", size**-0.5)
            found = _attend(q, seen_key[head], seen_value[head], added[row, head])
            output[row, head], scores[row, head] = found.output, found.scores
    written = {"present_key": key, "present_value": value}
    for each in written.values():
        each[:, :, length:] = np.nan
    return {"output": _flat(output), **written, "qk": scores}


def _multi_projected(node: Node, heads: int) -> tuple[Floats, Floats, Floats]:
    query = node.floats("query")
    if query.ndim == 5:  # [B, T, H, 3, D]
        q, k, v = (query[:, :, :, which].swapaxes(1, 2) for which in range(3))
        return q, k, v
    key = node.floats("key")
    if key.ndim == 5:
        k, v = (key[:, :, :, which].swapaxes(1, 2) for which in range(2))
    elif key.ndim == 4:
        k, v = key, node.floats("value")
    else:
        k, v = _heads(key, heads), _heads(node.floats("value"), heads)
    q = _heads(query, heads)
    if node.has("bias"):
        biases = np.split(node.floats("bias"), 3)
        q, k, v = (x + part.reshape(heads, 1, -1) for x, part in zip((q, k, v), biases, strict=True))
    return q, k, v


def _written(node: Node, name: str, new: Floats, start: int) -> Floats:
    cache = node.floats(name).copy()
    cache[:, :, start : start + new.shape[2]] = new
    return cache


def _of_beams(node: Node, row: int, cache: Floats) -> Floats:
    """A row's entries [H, S, D], past ones of the beams that they were written by."""
    if not node.has("cache_indirection"):
        return np.asarray(cache[row], np.float64)
    beams = node.integers("cache_indirection")[0, row, : cache.shape[2]].copy()
    beams[-1] = row
    entries = [cache[beam, :, place] for place, beam in enumerate(beams)]
    return np.asarray(np.stack(entries, axis=1), np.float64)


def _masked(node: Node, num_tokens: int, length: int) -> Floats:
    """What is added to scores, broadcast to [B, H, T, S]."""
    added = np.zeros((1, 1, num_tokens, length))
    if node.integer("unidirectional"):
        distance = np.arange(length - num_tokens, length)[:, None] - np.arange(length)
        added = added + np.where(distance < 0, -np.inf, 0)
    if not node.has("key_padding_mask"):
        return added
    mask = node.integers("key_padding_mask")
    is_seen = np.arange(length) < mask[: len(node.given["query"]), None] if mask.ndim == 1 else mask != 0
    hidden = np.where(is_seen, 0.0, node.number("mask_filter_value", -10000.0))
    return added + (hidden[:, None] if hidden.ndim == 3 else hidden[:, None, None])
