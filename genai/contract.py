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
    window_write_indices   [B]              int64    as write_indices, and nonpad_kv_seqlen, in caches [B, W, width],
    window_kv_seqlen       [B]              int64    whose layers see a window: W = what a row keeps there
    token_counts           [B]              int64    how many of the T tokens are a row's own, 0 if it sits the run out
    conv_state.{i}         [B, …]           float    layer i's last inputs of a short convolution
    recurrent_state.{i}    [B, …]           float32  layer i's recurrent state
    adapter_rows           [G, M]           int64    which of the batch's rows use each of G adapters; any beyond those
    adapter_places         [B, 2]           int64    where each row stands among these
    adapter_scales         [B, 1, 1]        float32  what its adapter adds is multiplied by; 0 for a row without one
    lora_a.{products}      [G, K, n·R]      number   the adapters' first matrices, of n products that read one value [K]
    lora_b.{product}       [G, R, N]        number   and their second, for each one's N outputs
    lora_scales.{product}  [G, 1, N]        float32  the factors of these columns, where the numbers are bytes

    output                 shape            type
    logits                 [B, P, V]        float32  or, of a model without a head, embeddings [B, P, H]
    updated_key_cache.{i}  as its input              bound to the same memory as its input
    updated_value_cache.{i}                          the same
    updated_…_state.{i}    as its input              the same

`[B, S, width]` is deliberate: every row, and every prefix of a row, is one contiguous block of memory. A width is heads
times their size; it may be another in each layer, and for keys and values. A layer has no value cache where its keys
are its values, too, and none at all where it reads another layer's; at least one layer has a cache.

The first slots of a row may be *reserved*: they hold bytes that come with the package, not with tokens (an attention
sink's key, say). Then the tokens lie behind them, and

    write_indices = tokens that the row holds + reserved slots       position_ids count tokens

Layers that see a window may keep no more than that: then their caches have a capacity of their own, W, and begin with
another token of the row, its *base*, the same in all of them:

    window_write_indices = write_indices - base        window_kv_seqlen = nonpad_kv_seqlen - base

Slots that are reserved stay where they are. A graph without such caches has none of both inputs.

A *state* has one size, however many tokens a row holds, and is what they all have made of it: zeros in a row that holds
none. It cannot be cut back to fewer tokens, so a run may change it by a row's own tokens alone; that is what
`token_counts` is for, and a graph without states has no such input. Which shape a state has is the graph's business.

*Adapters* (LoRA, arXiv 2106.09685) add `x · A · B · scale` to products, in the rows that use one. A graph has room for
them or not; R is the largest rank, the same in all products, and smaller ones are filled up with zeros. The G adapters
are neighbours in the runtime's memory, which is bound where they begin; with G = 0 nothing is added, at no cost but the
question, and their matrices need not be bound: empty ones are their defaults. A row uses one at most. Their numbers are
floats, or bytes of which 128 stands for 0; `{products}` are joined by "+".

A graph may let a lone token of one row be run *twice*, for processors whose products of one row have bits of their own:
it says so by another name for the length of its `input_ids`, [B, N]. Then N = 2 and T = P = 1 in such a run, and N = T
in others: layers' products have two rows, attention, caches and head the one token. Others take equal lengths alone.

Graphs whose layers all have both caches, all of one width and capacity, no reserved slots, no states and no room for
adapters, are contract 1; others contract 2.
Nothing else in the project spells these names.
"""

from __future__ import annotations

import itertools
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
WINDOW_WRITE_INDICES = "window_write_indices"
WINDOW_KV_SEQLEN = "window_kv_seqlen"
TOKEN_COUNTS = "token_counts"
ADAPTER_ROWS, ADAPTER_PLACES, ADAPTER_SCALES = "adapter_rows", "adapter_places", "adapter_scales"
LOGITS = "logits"
EMBEDDINGS = "embeddings"

BATCH, TOKENS, POSITIONS, CAPACITY, WINDOW_CAPACITY = "B", "T", "P", "S", "W"
REPEATED_TOKENS = "N"
ADAPTERS, MEMBERS = "G", "M"

CACHE_DTYPES = ("float32", "float16", "bfloat16")
ADAPTER_BYTES, ADAPTER_ZERO = "uint8", 128
ADAPTER_DTYPES = (*CACHE_DTYPES, ADAPTER_BYTES)

_CACHE_NAME = re.compile(r"(key|value)_cache\.(0|[1-9][0-9]*)")
_STATE_NAME = re.compile(r"(conv|recurrent)_state\.(0|[1-9][0-9]*)")
_FIRST, _SECOND, _SCALES = "lora_a.", "lora_b.", "lora_scales."


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache of a graph: its input's name, and how many elements a token takes in it.

    is_windowed: whether it holds a row's last tokens alone.
    """

    name: str
    width: int
    is_windowed: bool = False

    @property
    def layer(self) -> int:
        """The layer that writes it."""
        return int(self.name.rpartition(".")[2])

    @property
    def is_key(self) -> bool:
        """Whether it holds keys."""
        return self.name == key_cache(self.layer)

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Its dimensions, free ones by name."""
        return BATCH, WINDOW_CAPACITY if self.is_windowed else CAPACITY, self.width


@dataclass(frozen=True, slots=True)
class State:
    """One state of a graph: its input's name, its shape [B, *shape] without the batch, and its NumPy type name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def layer(self) -> int:
        """The layer whose it is."""
        return int(self.name.rpartition(".")[2])


@dataclass(frozen=True, slots=True)
class AdaptedProduct:
    """A product that adapters add to: its name, as in the checkpoint's tensors, and how many numbers go in and out."""

    name: str
    num_inputs: int
    num_outputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRoom:
    """What a graph has room for: products, together those that read one value; the largest rank; NumPy type name."""

    groups: tuple[tuple[AdaptedProduct, ...], ...]
    rank: int
    dtype: str

    @property
    def products(self) -> tuple[AdaptedProduct, ...]:
        """All of them, in order."""
        return tuple(itertools.chain(*self.groups))


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


def conv_state(layer: int) -> str:
    """Name of the input that holds the last inputs of a layer's short convolution."""
    return f"conv_state.{layer}"


def recurrent_state(layer: int) -> str:
    """Name of a layer's recurrent state input."""
    return f"recurrent_state.{layer}"


def lora_a(products: Iterable[str]) -> str:
    """Name of the input that holds adapters' first matrices for products that read one value."""
    return _FIRST + "+".join(products)


def lora_b(product: str) -> str:
    """Name of the input that holds adapters' second matrices for a product."""
    return _SECOND + product


def lora_scales(product: str) -> str:
    """Name of the input that holds what a product's second matrices of bytes are multiplied by."""
    return _SCALES + product


def updated(name: str) -> str:
    """Name of the output that holds a cache or state input after the run."""
    return f"updated_{name}"


def uniform_caches(num_layers: int, width: int) -> tuple[Cache, ...]:
    """Keys and values of each layer in turn, all of one width."""
    return tuple(Cache(name, width) for layer in range(num_layers) for name in (key_cache(layer), value_cache(layer)))


def in_order(caches: Iterable[Cache]) -> tuple[Cache, ...]:
    """Caches as they are declared, bound and kept: by layer, keys before values."""
    return tuple(sorted(caches, key=lambda cache: (cache.layer, not cache.is_key)))


def states_in_order(states: Iterable[State]) -> tuple[State, ...]:
    """States as they are declared, bound and kept: by layer, the convolution's first."""
    return tuple(sorted(states, key=lambda state: (state.layer, state.name != conv_state(state.layer))))


def is_uniform(caches: Sequence[Cache]) -> bool:
    """Whether each of the layers 0, 1, … has both caches, and all are of one width and of whole texts."""
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

    caches: as `in_order`; states: as `states_in_order`, none in most graphs; adapters: None in most graphs; repeats:
    whether a lone token may be run twice.
    """

    caches: tuple[Cache, ...]
    output: Output
    cache_dtype: str
    states: tuple[State, ...] = ()
    adapters: AdapterRoom | None = None
    repeats: bool = False


def inputs(
    caches: Sequence[Cache],
    cache_dtype: str,
    states: Sequence[State] = (),
    adapters: AdapterRoom | None = None,
    *,
    repeats: bool = False,
) -> list[TensorType]:
    """The contract's inputs, in order. repeats: of a graph that may run a lone token twice."""
    return [
        TensorType(name=INPUT_IDS, dtype="int64", shape=(BATCH, REPEATED_TOKENS if repeats else TOKENS)),
        TensorType(name=POSITION_IDS, dtype="int64", shape=(BATCH, TOKENS)),
        TensorType(name=WRITE_INDICES, dtype="int64", shape=(BATCH,)),
        TensorType(name=NONPAD_KV_SEQLEN, dtype="int64", shape=(BATCH,)),
        TensorType(name=LOGITS_POSITIONS, dtype="int64", shape=(BATCH, POSITIONS)),
        *(
            TensorType(name=name, dtype="int64", shape=(BATCH,))
            for name in (WINDOW_WRITE_INDICES, WINDOW_KV_SEQLEN)
            if any(cache.is_windowed for cache in caches)
        ),
        *(TensorType(name=cache.name, dtype=cache_dtype, shape=cache.shape) for cache in in_order(caches)),
        *([TensorType(name=TOKEN_COUNTS, dtype="int64", shape=(BATCH,))] if states else []),
        *(
            TensorType(name=state.name, dtype=state.dtype, shape=(BATCH, *state.shape))
            for state in states_in_order(states)
        ),
        *([] if adapters is None else adapter_inputs(adapters)),
    ]


def adapter_inputs(room: AdapterRoom) -> list[TensorType]:
    """The inputs of a graph with this room: who uses which, and the adapters themselves."""
    rows = TensorType(name=ADAPTER_ROWS, dtype="int64", shape=(ADAPTERS, MEMBERS))
    places = TensorType(name=ADAPTER_PLACES, dtype="int64", shape=(BATCH, 2))
    scales = TensorType(name=ADAPTER_SCALES, dtype="float32", shape=(BATCH, 1, 1))
    return [rows, places, scales, *adapter_stacks(room)]


def adapter_stacks(room: AdapterRoom) -> list[TensorType]:
    """The inputs that hold the adapters themselves: [G, …], one after the other in memory."""
    stacks = []
    for group in room.groups:
        wide = (ADAPTERS, group[0].num_inputs, len(group) * room.rank)
        stacks.append(TensorType(name=lora_a(each.name for each in group), dtype=room.dtype, shape=wide))
        for each in group:
            tall = (ADAPTERS, room.rank, each.num_outputs)
            stacks.append(TensorType(name=lora_b(each.name), dtype=room.dtype, shape=tall))
            if room.dtype == ADAPTER_BYTES:
                flat = (ADAPTERS, 1, each.num_outputs)
                stacks.append(TensorType(name=lora_scales(each.name), dtype="float32", shape=flat))
    return stacks


def outputs(
    caches: Sequence[Cache], cache_dtype: str, output: Output, states: Sequence[State] = ()
) -> list[TensorType]:
    """The contract's outputs, in order."""
    return [
        TensorType(name=output.name, dtype="float32", shape=(BATCH, POSITIONS, output.width)),
        *(TensorType(name=updated(cache.name), dtype=cache_dtype, shape=cache.shape) for cache in in_order(caches)),
        *(
            TensorType(name=updated(state.name), dtype=state.dtype, shape=(BATCH, *state.shape))
            for state in states_in_order(states)
        ),
    ]


def is_cache(name: str) -> bool:
    """Whether an input of this name is a cache."""
    return _CACHE_NAME.fullmatch(name) is not None


def caches_of(graph_inputs: Iterable[TensorType]) -> tuple[Cache, ...]:
    """The caches among a graph's inputs, in order; those whose width is not fixed are left out."""
    tensors = [*graph_inputs]
    has_windows = any(tensor.name == WINDOW_WRITE_INDICES for tensor in tensors)
    return in_order(
        Cache(tensor.name, width, is_windowed=has_windows and tensor.shape[1] == WINDOW_CAPACITY)
        for tensor in tensors
        if is_cache(tensor.name) and (width := _width(tensor)) is not None
    )


def is_state(name: str) -> bool:
    """Whether an input of this name is a state."""
    return _STATE_NAME.fullmatch(name) is not None


def states_of(graph_inputs: Iterable[TensorType]) -> tuple[State, ...]:
    """The states among a graph's inputs, in order; those whose size is not fixed are left out."""
    return states_in_order(
        State(tensor.name, shape, tensor.dtype)
        for tensor in graph_inputs
        if is_state(tensor.name) and (shape := _row_shape(tensor)) is not None
    )


def adapters_of(graph_inputs: Iterable[TensorType]) -> AdapterRoom | None:
    """The room for adapters that a graph's inputs tell of; what does not fit the first product's rank is left out."""
    matrices = {tensor.name: tensor for tensor in graph_inputs if tensor.name.startswith((_FIRST, _SECOND))}
    groups: list[tuple[AdaptedProduct, ...]] = []
    rank, dtype = 0, ""
    for first in (each for each in matrices if each.startswith(_FIRST)):
        names = first.removeprefix(_FIRST).split("+")
        one, others = _matrix(matrices[first]), [_matrix(matrices.get(lora_b(name))) for name in names]
        heights = {other and other[0] for other in others}
        rank, dtype = rank or next(iter(heights)) or 0, dtype or matrices[first].dtype
        if one is not None and one[1] == len(names) * rank and heights == {rank}:
            sizes = [other[1] for other in others if other is not None]
            groups.append(tuple(AdaptedProduct(name, one[0], size) for name, size in zip(names, sizes, strict=True)))
    return AdapterRoom(groups=tuple(groups), rank=rank, dtype=dtype) if groups else None


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
    states, adapters = states_of(have_in.values()), adapters_of(have_in.values())
    free = {name for name in free if is_cache(name)}
    unsized = {name for name in have_in if is_state(name)} - {state.name for state in states}
    keys = {cache.layer for cache in caches if cache.is_key}
    alone = [cache for cache in caches if cache.layer not in keys and key_cache(cache.layer) not in free]
    differences = [
        *_differences(
            "input",
            inputs(caches, dtype, states, adapters),
            {name: have_in[name] for name in have_in if name not in free | unsized},
        ),
        *_differences("output", outputs(caches, dtype, output, states), have_out),
        *(f"input {name!r} has shape {list(have_in[name].shape)}, not [B, fixed sizes]" for name in sorted(unsized)),
        *(
            f"input {state.name!r} is {state.dtype}, allowed: {' or '.join(allowed)}"
            for state in states
            if state.dtype not in (allowed := _state_dtypes(state, dtype))
        ),
        *(f"input {name!r} has shape {list(have_in[name].shape)}, not [B, S, a fixed width]" for name in sorted(free)),
        *(f"input {cache.name!r} is there without {key_cache(cache.layer)!r}" for cache in alone),
    ]
    if adapters is not None and adapters.dtype not in ADAPTER_DTYPES:
        differences.append(f"the adapters are {adapters.dtype}, allowed: {', '.join(ADAPTER_DTYPES)}")
    if dtype not in CACHE_DTYPES:
        differences.append(f"the caches are {dtype}, allowed: {', '.join(CACHE_DTYPES)}")
    if differences:
        raise ContractError("the graph does not follow the decoder contract: " + "; ".join(differences))
    repeats = have_in[INPUT_IDS].shape == (BATCH, REPEATED_TOKENS) and have_in[POSITION_IDS].shape == (BATCH, TOKENS)
    return GraphShape(
        caches=caches, output=output, cache_dtype=dtype, states=states, adapters=adapters, repeats=repeats
    )


def _output_of(have: dict[str, TensorType]) -> Output | None:
    """What a graph gives beside its caches, None if there is nothing of a fixed width."""
    tensor = have.get(LOGITS) or have.get(EMBEDDINGS)
    width = _width(tensor) if tensor else None
    return Output(tensor.name, width) if tensor and width is not None else None


def _width(tensor: TensorType) -> int | None:
    """The last of three dimensions, None if it is not fixed, or nothing fits into it."""
    width = tensor.shape[2] if len(tensor.shape) == 3 else None
    return width if isinstance(width, int) and width > 0 else None


def _row_shape(tensor: TensorType) -> tuple[int, ...] | None:
    """All dimensions but the first, None if they are not fixed, or hold nothing."""
    sizes = tuple(size for size in tensor.shape[1:] if isinstance(size, int) and size > 0)
    return sizes if sizes and len(sizes) == len(tensor.shape) - 1 else None


def _matrix(tensor: TensorType | None) -> tuple[int, int] | None:
    """The last two of three dimensions, None if they are not fixed, or hold nothing."""
    if tensor is None or (sizes := _row_shape(tensor)) is None:
        return None
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


def _state_dtypes(state: State, cache_dtype: str) -> tuple[str, ...]:
    """What a state may be: a recurrent one adds up over a whole text, in float32 always."""
    is_recurrent = state.name == recurrent_state(state.layer)
    return ("float32",) if is_recurrent else tuple(dict.fromkeys((cache_dtype, "float32")))


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
