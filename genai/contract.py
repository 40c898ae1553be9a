"""The graph contract: the names, shapes and types that every decoder graph here has, and the check that one has them.

One ONNX graph (opset 24) serves prefill, decoding, verification of drafts and scoring:

    input                  shape            type     meaning
    input_ids              [B, T]           int64    new tokens, right-padded
    position_ids           [B, T]           int64    rotary positions of those tokens
    write_indices          [B]              int64    where each row's new tokens go in its cache (TensorScatter)
    nonpad_kv_seqlen       [B]              int64    valid entries after this write = write_indices + T (Attention)
    logits_positions       [B, P]           int64    which of the T positions get logits, or embeddings
    key_cache.{i}          [B, S, width]    float    layer i's keys, S = capacity of a row
    value_cache.{i}        [B, S, width]    float    layer i's values

    output                 shape            type
    logits                 [B, P, V]        float32  or, of a model without a head, embeddings [B, P, H]
    updated_key_cache.{i}  as its input              bound to the same memory as its input
    updated_value_cache.{i}                          the same

`[B, S, width]` is deliberate: every row, and every prefix of a row, is one contiguous block of memory. A width is heads
times their size; it may be another in each layer, and for keys and values. A layer has no value cache where its keys
are its values, too, and none at all where it reads another layer's; at least one layer has a cache.

The first slots of a row may be *reserved*: they hold bytes that come with the package, not with tokens (an attention
sink's key, say). Then the tokens lie behind them, and

    write_indices = tokens that the row holds + reserved slots       position_ids count tokens

Graphs whose layers all have both caches, all of one width, and no reserved slots, are contract 1; others contract 2.
Nothing else in the project spells these names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from genai.errors import ContractError

OPSET = 24
"""TensorScatter's first opset, and the newest one ONNX Runtime loads with all its attributes."""
IR_VERSION = 11

INPUT_IDS = "input_ids"
POSITION_IDS = "position_ids"
WRITE_INDICES = "write_indices"
NONPAD_KV_SEQLEN = "nonpad_kv_seqlen"
LOGITS_POSITIONS = "logits_positions"
LOGITS = "logits"
EMBEDDINGS = "embeddings"

BATCH, TOKENS, POSITIONS, CAPACITY = "B", "T", "P", "S"

CACHE_DTYPES = ("float32", "float16", "bfloat16")

_CACHE_NAME = re.compile(r"(key|value)_cache\.(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache of a graph: its input's name, and how many elements a token takes in it."""

    name: str
    width: int

    @property
    def layer(self) -> int:
        """The layer that writes it."""
        return int(self.name.rpartition(".")[2])

    @property
    def is_key(self) -> bool:
        """Whether it holds keys."""
        return self.name == key_cache(self.layer)


@dataclass(frozen=True, slots=True)
class Output:
    """What a graph gives at each of `logits_positions`: its name, logits or embeddings, and how many numbers."""

    name: str
    width: int


def key_cache(layer: int) -> str:
    """Name of a layer's key cache input."""
    return f"key_cache.{layer}"


def value_cache(layer: int) -> str:
    """Name of a layer's value cache input."""
    return f"value_cache.{layer}"


def updated(cache_name: str) -> str:
    """Name of the output that holds a cache input after the write."""
    return f"updated_{cache_name}"


def uniform_caches(num_layers: int, width: int) -> tuple[Cache, ...]:
    """Keys and values of each layer in turn, all of one width."""
    return tuple(Cache(name, width) for layer in range(num_layers) for name in (key_cache(layer), value_cache(layer)))


def in_order(caches: Iterable[Cache]) -> tuple[Cache, ...]:
    """Caches as they are declared, bound and kept: by layer, keys before values."""
    return tuple(sorted(caches, key=lambda cache: (cache.layer, not cache.is_key)))


def is_uniform(caches: Sequence[Cache]) -> bool:
    """Whether each of the layers 0, 1, … has both caches, and all are of one width."""
    return tuple(caches) == uniform_caches(len(caches) // 2, caches[0].width)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """A graph input's or output's name, NumPy type name, and shape: numbers where fixed, None or a name where free."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphShape:
    """What a valid graph's signature tells: the dimensions that the runtime needs to allocate and bind.

    caches: as `in_order`.
    """

    caches: tuple[Cache, ...]
    output: Output
    cache_dtype: str


def inputs(caches: Sequence[Cache], cache_dtype: str) -> list[TensorType]:
    """The contract's inputs, in order."""
    return [
        TensorType(name=INPUT_IDS, dtype="int64", shape=(BATCH, TOKENS)),
        TensorType(name=POSITION_IDS, dtype="int64", shape=(BATCH, TOKENS)),
        TensorType(name=WRITE_INDICES, dtype="int64", shape=(BATCH,)),
        TensorType(name=NONPAD_KV_SEQLEN, dtype="int64", shape=(BATCH,)),
        TensorType(name=LOGITS_POSITIONS, dtype="int64", shape=(BATCH, POSITIONS)),
        *(
            TensorType(name=cache.name, dtype=cache_dtype, shape=(BATCH, CAPACITY, cache.width))
            for cache in in_order(caches)
        ),
    ]


def outputs(caches: Sequence[Cache], cache_dtype: str, output: Output) -> list[TensorType]:
    """The contract's outputs, in order."""
    return [
        TensorType(name=output.name, dtype="float32", shape=(BATCH, POSITIONS, output.width)),
        *(
            TensorType(name=updated(cache.name), dtype=cache_dtype, shape=(BATCH, CAPACITY, cache.width))
            for cache in in_order(caches)
        ),
    ]


def is_cache(name: str) -> bool:
    """Whether an input of this name is a cache."""
    return _CACHE_NAME.fullmatch(name) is not None


def caches_of(graph_inputs: Iterable[TensorType]) -> tuple[Cache, ...]:
    """The caches among a graph's inputs, in order; those whose width is not fixed are left out."""
    return in_order(
        Cache(tensor.name, width)
        for tensor in graph_inputs
        if is_cache(tensor.name) and (width := _width(tensor)) is not None
    )


def check_signature(graph_inputs: Iterable[TensorType], graph_outputs: Iterable[TensorType]) -> GraphShape:
    """Check a graph's inputs and outputs against the contract.

    Raises: ContractError that lists every difference.
    """
    have_in = {tensor.name: tensor for tensor in graph_inputs}
    have_out = {tensor.name: tensor for tensor in graph_outputs}
    caches = caches_of(have_in.values())
    output = _output_of(have_out)
    if not caches or output is None:
        raise ContractError(
            f"the graph does not follow the decoder contract: it needs at least one cache, an input {key_cache(0)!r} "
            f"[B, S, width], and an output {LOGITS!r} [B, P, V] or {EMBEDDINGS!r} [B, P, H], each with a fixed last "
            f"dimension; it has inputs {_listed(have_in)} and outputs {_listed(have_out)}"
        )
    dtype = have_in[caches[0].name].dtype
    free = have_in.keys() - {cache.name for cache in caches}
    free = {name for name in free if is_cache(name)}
    keys = {cache.layer for cache in caches if cache.is_key}
    alone = [cache for cache in caches if cache.layer not in keys and key_cache(cache.layer) not in free]
    differences = [
        *_differences("input", inputs(caches, dtype), {name: have_in[name] for name in have_in if name not in free}),
        *_differences("output", outputs(caches, dtype, output), have_out),
        *(f"input {name!r} has shape {list(have_in[name].shape)}, not [B, S, a fixed width]" for name in sorted(free)),
        *(f"input {cache.name!r} is there without {key_cache(cache.layer)!r}" for cache in alone),
    ]
    if dtype not in CACHE_DTYPES:
        differences.append(f"the caches are {dtype}, allowed: {', '.join(CACHE_DTYPES)}")
    if differences:
        raise ContractError("the graph does not follow the decoder contract: " + "; ".join(differences))
    return GraphShape(caches=caches, output=output, cache_dtype=dtype)


def _output_of(have: dict[str, TensorType]) -> Output | None:
    """What a graph gives beside its caches, None if there is nothing of a fixed width."""
    tensor = have.get(LOGITS) or have.get(EMBEDDINGS)
    width = _width(tensor) if tensor else None
    return Output(tensor.name, width) if tensor and width is not None else None


def _width(tensor: TensorType) -> int | None:
    """The last of three dimensions, None if it is not fixed, or nothing fits into it."""
    width = tensor.shape[2] if len(tensor.shape) == 3 else None
    return width if isinstance(width, int) and width > 0 else None


def _differences(kind: str, wanted: list[TensorType], have: dict[str, TensorType]) -> list[str]:
    found = []
    for tensor in wanted:
        other = have.get(tensor.name)
        if other is None:
            found.append(f"{kind} {tensor.name!r} is missing")
        elif other.dtype != tensor.dtype:
            found.append(f"{kind} {tensor.name!r} is {other.dtype}, not {tensor.dtype}")
        elif not _fits(tensor.shape, other.shape):
            found.append(f"{kind} {tensor.name!r} has shape {list(other.shape)}, not {list(tensor.shape)}")
    extra = have.keys() - {tensor.name for tensor in wanted}
    return found + [f"{kind} {name!r} is unknown" for name in sorted(extra)]


def _fits(wanted: tuple[int | str | None, ...], have: tuple[int | str | None, ...]) -> bool:
    """Fixed dimensions must be equal and free ones free."""
    return len(wanted) == len(have) and all(
        a == b if isinstance(a, int) else not isinstance(b, int) for a, b in zip(wanted, have, strict=True)
    )


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") if shown else "none"
