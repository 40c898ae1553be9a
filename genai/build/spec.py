"""What a decoder looks like, as data: the one thing an architecture file has to produce.

A decoder is a list of blocks; a block adds to the residual stream what its parts make of it:

    x  +=  scale · norm_out( part(norm_in(x)) + part(norm_in(x)) + … )

A Llama layer is two blocks of one part each, attention and MLP; a Cohere layer is one block of two.

`architectures/<model_type>.py` reads a checkpoint's configuration into a `DecoderSpec`; `decoder.py` turns any spec
into a graph. A model family that needs something new adds a field to a part here, or a part and its file in `parts/`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "xielu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RotarySpec:
    """Rotary embedding: one angle per position and entry of `inverse_frequencies` (half the rotated size).

    scale multiplies cosines and sines (yarn and longrope's attention factor); is_interleaved: neighbouring elements are
    rotated together, instead of an element of the first half with one of the second.
    """

    inverse_frequencies: tuple[float, ...]
    scale: float = 1.0
    is_interleaved: bool = False

    @property
    def size(self) -> int:
        """How many of a head's elements are rotated; the rest pass unchanged."""
        return 2 * len(self.inverse_frequencies)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSpec:
    """How a decoder normalises: by the root of the mean square ("rms"), or by mean and variance ("layer").

    offset: added to every norm weight (Gemma stores `w - 1`). A bias is used where the checkpoint has one.
    """

    eps: float
    kind: Literal["rms", "layer"] = "rms"
    offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperatureSpec:
    """Queries grow with their position, in steps: `q * (1 + weight * log(1 + floor((position + offset) / period)))`."""

    weight: float
    period: int
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSpec:
    """Positions in chunks of so many: a query sees the keys of its own chunk alone."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """Attention over a layer's own cache, or over another layer's.

    name: the module's within its layer; scale: multiplies q·k; softcap: `softcap * tanh(score / softcap)`, None for
    none; sliding_window: a query sees this many newest keys, itself included; rotary: None for layers without
    position encoding; qk_norm: a norm of queries and keys over each head, with one weight for all heads ("per_head") or
    one for each ("own_per_head"), or over all heads together, before the rotary embedding, or behind it if
    norms_rotated; alibi: what each query head's scores lose for a token of distance, in layers without a window;
    temperature: None for none; clip: queries, keys and values are at most this far from 0; is_fused: the checkpoint
    holds q/k/v as one matrix `qkv_proj`; biases: products that must have one, others have one where the checkpoint
    does. chunk: None for layers that see across chunks; a qk_norm "unit_per_head" has no weight.
    keys_of: the earlier layer whose keys and values it reads, None if it has its own; value_is_key: values are what the
    product `k_proj` gives, before its norm; has_value_norm: values are normalised over each head, without a weight.
    has_sinks: each query head has a score that takes its part of the softmax and gives nothing, in `sinks`; in all
    layers or in none. Then rows begin with a reserved slot, and keys have an element more for each query head.
    has_gate: `q_proj` gives each head's query and then as many elements, whose sigmoids multiply what the head gives.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rotary: RotarySpec | None
    softcap: float | None = None
    sliding_window: int | None = None
    qk_norm: Literal["none", "per_head", "own_per_head", "unit_per_head", "all_heads"] = "none"
    norms_rotated: bool = False
    chunk: ChunkSpec | None = None
    alibi: tuple[float, ...] = ()
    temperature: TemperatureSpec | None = None
    clip: float | None = None
    is_fused: bool = False
    biases: frozenset[str] = frozenset()
    keys_of: int | None = None
    value_is_key: bool = False
    has_value_norm: bool = False
    has_sinks: bool = False
    has_gate: bool = False
    name: str = "self_attn"

    @property
    def q_size(self) -> int:
        """Elements of one token's queries."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of one token's keys, and of its values."""
        return self.num_kv_heads * self.head_dim

    @property
    def sink_size(self) -> int:
        """Elements that each head's queries and keys have more of, for its sinks."""
        return self.num_heads // self.num_kv_heads if self.has_sinks else 0

    def keys_layer(self, layer: int) -> int:
        """The layer whose keys and values are read by these heads, if they stand in this one."""
        return layer if self.keys_of is None else self.keys_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpec:
    """Latent attention (MLA, arXiv 2405.04434): all heads' keys and values come from one vector, which is cached.

        c, r    =  norm(kv_a_proj_with_mqa(x)), rotated         what the cache holds: [latent_size ‖ rotary.size]
        key     =  [k_b(c) ‖ r]     value  =  v_b(c)            of each head
        q       =  q_b_proj(norm(q_a_proj(x)))  or  q_proj(x)   [plain_size ‖ rotary.size], of each head

    query_rank: elements between the queries' two products, None where there is one, `q_proj`; norm_eps: of both norms
    here; scale: multiplies q·k; biases: as in `AttentionSpec`.
    """

    num_heads: int
    latent_size: int
    plain_size: int
    value_size: int
    rotary: RotarySpec
    scale: float
    query_rank: int | None = None
    norm_eps: float = 1e-6
    biases: frozenset[str] = frozenset()
    name: str = "self_attn"

    @property
    def query_size(self) -> int:
        """Elements of one head's query."""
        return self.plain_size + self.rotary.size

    @property
    def head_dim(self) -> int:
        """Elements of a token's one key, which all heads read."""
        return self.latent_size + self.rotary.size

    @property
    def num_kv_heads(self) -> int:
        """Heads that keys are cached for."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSpec:
    """Feed-forward network: `down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))` without a gate.

    name: the module's within its layer; size: elements between the products; is_fused: the checkpoint holds gate and
    up as one matrix `gate_up_proj`; biases: as in `AttentionSpec`; output_gate: a module of the layer, H -> 1, whose
    sigmoid multiplies the result.
    """

    size: int
    activation: Activation = "silu"
    is_gated: bool = True
    is_fused: bool = False
    biases: frozenset[str] = frozenset()
    output_gate: str | None = None
    name: str = "mlp"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSpec:
    """Which experts a token goes to, and what each of them counts, from the logits of the product `gate`.

    score: an expert's, by the softmax of all logits; by its logit's sigmoid; or SparseMixer's (arXiv 2409.12136): one
    after the other, its softmax among those left whose logits are less than `2 * jitter` of the largest below it.
    has_correction: `gate.e_score_correction_bias` is added to the scores for the choice only; groups: experts are
    chosen from the `kept_groups` best of so many groups, which count as their best expert, or as their two best.
    is_normalised: the chosen scores are divided by their sum; scale: multiplies them; multiplies: what they multiply,
    what an expert gives or (Llama 4) what it reads.
    """

    score: Literal["softmax", "sigmoid", "sparse_mixer"] = "softmax"
    jitter: float = 0.0
    has_correction: bool = False
    groups: int = 1
    kept_groups: int = 1
    group_score: Literal["best", "two_best"] = "best"
    is_normalised: bool = True
    scale: float = 1.0
    multiplies: Literal["output", "input"] = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """A mixture of experts: each token goes through `top_k` of `num_experts` gated networks of `size` elements.

        g, u = gate(x), up(x), at most `limit` (u also at least -limit)
        down(g * sigmoid(alpha * g) * (u + beta))

    router: which ones, and what they count; is_interleaved: where the checkpoint holds an expert's gate and up as one
    matrix `gate_up_proj`, their rows alternate; else one comes after the other; has_biases: router and experts must
    have them, others have them where the checkpoint does. An expert for all tokens is an `MlpSpec` beside it.
    """

    num_experts: int
    top_k: int
    size: int
    router: RouterSpec
    alpha: float = 1.0
    beta: float = 0.0
    limit: float | None = None
    is_interleaved: bool = False
    has_biases: bool = False
    name: str = "mlp"

    @property
    def biases(self) -> frozenset[str]:
        """Products that must have one, as of any part; of the experts' the first one's down is asked for."""
        return frozenset({"gate", "experts.0.down_proj"} if self.has_biases else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class PerLayerSpec:
    """What a layer adds of its own embedding `e` of each token: `per_layer_projection(activation(gate(x)) * e)`.

    All layers' embeddings of a token are made once a step, from its id and from what enters the first layer:

        e  =  (norm(per_layer_model_projection(x)) + embed_tokens_per_layer(id))  /  √2         [layers, size] each

    size: elements of one layer's embedding; vocab_size: rows of their table; name: what the names of its modules within
    a layer begin with.
    """

    size: int
    vocab_size: int
    activation: Activation = "gelu_tanh"
    name: str = "per_layer"

    @property
    def biases(self) -> frozenset[str]:
        """Its products have none."""
        return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaSpec:
    """Linear attention by the gated delta rule (arXiv 2412.06464): a head's state is a matrix that each token corrects.

        q, k, v  =  silu(conv1d(in_proj_qkv(x))), q and k of length 1
        g, b     =  -exp(A_log) * softplus(in_proj_a(x) + dt_bias),  sigmoid(in_proj_b(x))
        S        =  exp(g) S;    S += k (v - kᵀS)ᵀ b;    y  =  qᵀS / √key_dim
        out_proj(norm(y) * silu(in_proj_z(x)))                      norm over each head, its weight as it is stored

    Of n key heads and r·n value heads the i-th value head reads the key head i // r, or i % n if is_tiled. kernel: how
    many tokens the convolution reads; norm_eps: of the norm. Checkpoints may hold q, k, v and z as one matrix
    `in_proj_qkvz`, and b and a as `in_proj_ba`, there of one key head after the other.
    """

    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    norm_eps: float
    is_tiled: bool = False
    name: str = "linear_attn"

    @property
    def key_size(self) -> int:
        """Elements of one token's keys, and of its queries."""
        return self.num_key_heads * self.key_dim

    @property
    def value_size(self) -> int:
        """Elements of one token's values."""
        return self.num_value_heads * self.value_dim

    @property
    def conv_size(self) -> int:
        """Channels of the convolution."""
        return 2 * self.key_size + self.value_size

    @property
    def biases(self) -> frozenset[str]:
        """Its products have none."""
        return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Spec:
    """A Mamba-2 mixer (arXiv 2405.21060): a head's state fades by a factor for each token, which adds to it.

        z, xBC, dt  =  in_proj(x)
        x, B, C     =  silu(conv1d(xBC))                 B and C for each of the groups, whose heads are neighbours
        dt          =  softplus(dt + dt_bias), within bounds
        S           =  exp(-exp(A_log) dt) S + dt B xᵀ;    y  =  Cᵀ S + D x
        out_proj(gated(y, z))

    gating: `norm(y * silu(z))`, `norm(y) * silu(z)`, or `y * silu(z)`, the norm over each group; bounds: of dt; kernel,
    norm_eps: as in `DeltaSpec`; biases: as in `AttentionSpec`.
    """

    num_heads: int
    head_dim: int
    num_groups: int
    state_size: int
    kernel: int
    norm_eps: float
    gating: Literal["before_norm", "after_norm", "without_norm"] = "before_norm"
    bounds: tuple[float, float] = (0.0, math.inf)
    biases: frozenset[str] = frozenset()
    name: str = "mamba"

    @property
    def inner_size(self) -> int:
        """Elements of one token's `x`, and of what the heads give."""
        return self.num_heads * self.head_dim

    @property
    def group_size(self) -> int:
        """Elements of one token's `B`, and of its `C`."""
        return self.num_groups * self.state_size

    @property
    def conv_size(self) -> int:
        """Channels of the convolution."""
        return self.inner_size + 2 * self.group_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvSpec:
    """A short convolution between two gates: `B, C, x = in_proj(x)`, then `out_proj(C * conv(B * x))`.

    kernel: tokens that the convolution reads; biases: as in `AttentionSpec`.
    """

    kernel: int
    biases: frozenset[str] = frozenset()
    name: str = "conv"


Part: TypeAlias = AttentionSpec | LatentSpec | DeltaSpec | Mamba2Spec | ShortConvSpec | MlpSpec | MoeSpec | PerLayerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """Parts that read the residual stream together, and whose sum is added to it.

    layer: whose modules its names are, and whose caches and states; norm_in: which of the layer's norms stands before
    the parts, or which one before each of them; norm_out: which stands after their sum; None for none;
    stream_scale: the layer's number that multiplies the stream afterwards.
    """

    layer: int
    parts: tuple[Part, ...]
    norm_in: str | tuple[str, ...] | None
    norm_out: str | None = None
    stream_scale: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedPositions:
    """A table of positions [offset + count, H], whose row `offset + position` is added to a token's embedding."""

    count: int
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A whole decoder.

    embedding_scale, residual_scale and logits_scale multiply what their names say; head_bias: the head must have one;
    has_head: False if what the final norm gives is the output, embeddings; has_wide_residual: the residual stream
    outgrows float16 and is kept in float32 there; positions: None where no table of them is added to the embedding;
    embedding_norm: the norm of what the first block reads, None for none.
    """

    vocab_size: int
    hidden_size: int
    max_position: int
    blocks: tuple[BlockSpec, ...]
    norm: NormSpec
    is_head_tied: bool
    has_head: bool = True
    head_bias: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    logits_softcap: float | None = None
    has_wide_residual: bool = False
    positions: LearnedPositions | None = None
    embedding_norm: str | None = None

    @property
    def num_layers(self) -> int:
        """Layers, as the checkpoint counts them."""
        return 1 + max(block.layer for block in self.blocks)

    @property
    def attentions(self) -> dict[int, AttentionSpec]:
        """Each layer's attention, for layers that have one."""
        return {block.layer: part for block in self.blocks for part in block.parts if isinstance(part, AttentionSpec)}

    @property
    def reserved_slots(self) -> int:
        """With how many slots rows begin that hold no token: one for sinks."""
        return int(any(attention.has_sinks for attention in self.attentions.values()))

    @property
    def per_layer(self) -> PerLayerSpec | None:
        """What layers add of embeddings of their own, None if they have none: the same in all of them."""
        return next((part for block in self.blocks for part in block.parts if isinstance(part, PerLayerSpec)), None)

    @property
    def latents(self) -> dict[int, LatentSpec]:
        """Each layer's latent attention, for layers that have one."""
        return {block.layer: part for block in self.blocks for part in block.parts if isinstance(part, LatentSpec)}

    @property
    def kernels(self) -> frozenset[int]:
        """How many tokens the layers' short convolutions read: empty for a decoder without states."""
        parts = (part for block in self.blocks for part in block.parts)
        return frozenset(part.kernel for part in parts if isinstance(part, DeltaSpec | Mamba2Spec | ShortConvSpec))

    @property
    def first_attention(self) -> AttentionSpec | LatentSpec:
        """The first layer's that has one of either kind."""
        parts = (part for block in self.blocks for part in block.parts)
        return next(part for part in parts if isinstance(part, AttentionSpec | LatentSpec))

    @property
    def sliding_window(self) -> int | None:
        """The smallest window of any layer, None if every layer sees everything."""
        windows = (attention.sliding_window for attention in self.attentions.values())
        return min((window for window in windows if window), default=None)
