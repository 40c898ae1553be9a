"""The graph contract: the names, shapes and types that every decoder graph here has, and the check that one has them.

One ONNX graph (opset 24) serves prefill, decoding, verification of drafts and scoring:

    input                  shape            type     meaning
    input_ids              [B, T]           int64    new tokens, right-padded
    position_ids           [B, T]           int64    rotary positions of those tokens
    write_indices          [B]              int64    where each row's new tokens go in its cache (TensorScatter)
    nonpad_kv_seqlen       [B]              int64    valid entries after this write = write_indices + T (Attention)
    logits_positions       [B, P]           int64    which of the T positions get logits
    key_cache.{i}          [B, S, Hkv*D]    float    layer i's keys, S = capacity of a row
    value_cache.{i}        [B, S, Hkv*D]    float    layer i's values

    output                 shape            type
    logits                 [B, P, V]        float32
    updated_key_cache.{i}  as its input              bound to the same memory as its input
    updated_value_cache.{i}                          the same

`[B, S, Hkv*D]` is deliberate: every row, and every prefix of a row, is one contiguous block of memory.
Nothing else in the project spells these names.
"""

from __future__ import annotations

from collections.abc import Iterable
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

BATCH, TOKENS, POSITIONS, CAPACITY = "B", "T", "P", "S"

CACHE_DTYPES = ("float32", "float16", "bfloat16")


def key_cache(layer: int) -> str:
    """Name of a layer's key cache input."""
    return f"key_cache.{layer}"


def value_cache(layer: int) -> str:
    """Name of a layer's value cache input."""
    return f"value_cache.{layer}"


def updated(cache_name: str) -> str:
    """Name of the output that holds a cache input after the write."""
    return f"updated_{cache_name}"


def cache_names(num_layers: int) -> tuple[str, ...]:
    """All cache inputs, keys and values of each layer in turn."""
    return tuple(name for layer in range(num_layers) for name in (key_cache(layer), value_cache(layer)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """A graph input's or output's name, NumPy type name, and shape: numbers where fixed, None or a name where free."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphShape:
    """What a valid graph's signature tells: the dimensions that the runtime needs to allocate and bind."""

    num_layers: int
    kv_size: int
    vocab_size: int
    cache_dtype: str


def inputs(num_layers: int, kv_size: int, cache_dtype: str) -> list[TensorType]:
    """The contract's inputs, in order."""
    return [
        TensorType(name=INPUT_IDS, dtype="int64", shape=(BATCH, TOKENS)),
        TensorType(name=POSITION_IDS, dtype="int64", shape=(BATCH, TOKENS)),
        TensorType(name=WRITE_INDICES, dtype="int64", shape=(BATCH,)),
        TensorType(name=NONPAD_KV_SEQLEN, dtype="int64", shape=(BATCH,)),
        TensorType(name=LOGITS_POSITIONS, dtype="int64", shape=(BATCH, POSITIONS)),
        *(
            TensorType(name=name, dtype=cache_dtype, shape=(BATCH, CAPACITY, kv_size))
            for name in cache_names(num_layers)
        ),
    ]


def outputs(num_layers: int, kv_size: int, cache_dtype: str, vocab_size: int) -> list[TensorType]:
    """The contract's outputs, in order."""
    return [
        TensorType(name=LOGITS, dtype="float32", shape=(BATCH, POSITIONS, vocab_size)),
        *(
            TensorType(name=updated(name), dtype=cache_dtype, shape=(BATCH, CAPACITY, kv_size))
            for name in cache_names(num_layers)
        ),
    ]


def check_signature(graph_inputs: Iterable[TensorType], graph_outputs: Iterable[TensorType]) -> GraphShape:
    """Check a graph's inputs and outputs against the contract.

    Raises: ContractError that lists every difference.
    """
    have_in = {tensor.name: tensor for tensor in graph_inputs}
    have_out = {tensor.name: tensor for tensor in graph_outputs}
    num_layers = sum(name.startswith("key_cache.") for name in have_in)
    first = have_in.get(key_cache(0))
    logits = have_out.get(LOGITS)
    kv_size = first.shape[2] if first and len(first.shape) == 3 else None
    vocab_size = logits.shape[2] if logits and len(logits.shape) == 3 else None
    if first is None or logits is None or not isinstance(kv_size, int) or not isinstance(vocab_size, int):
        raise ContractError(
            f"the graph does not follow the decoder contract: it needs an input {key_cache(0)!r} [B, S, Hkv*D] and an "
            f"output {LOGITS!r} [B, P, V] with a fixed last dimension; it has inputs {_listed(have_in)} and outputs "
            f"{_listed(have_out)}"
        )
    differences = [
        *_differences("input", inputs(num_layers, kv_size, first.dtype), have_in),
        *_differences("output", outputs(num_layers, kv_size, first.dtype, vocab_size), have_out),
    ]
    if first.dtype not in CACHE_DTYPES:
        differences.append(f"the caches are {first.dtype}, allowed: {', '.join(CACHE_DTYPES)}")
    if differences:
        raise ContractError("the graph does not follow the decoder contract: " + "; ".join(differences))
    return GraphShape(num_layers=num_layers, kv_size=kv_size, vocab_size=vocab_size, cache_dtype=first.dtype)


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
