"""transformers' attention as one ONNX Attention operator for each layer, with the cache as its past and present.

transformers lets a name stand for an attention function and a mask function, and takes any cache. Ours do nothing but
write the operator, so that neither masks nor repeated heads nor Concats of the cache are spread over the graph:

    q [B, T, Hq*D], k, v [B, T, Hkv*D], mask [B, 1, T, P+T], past [B, Hkv, P, D]  ─►  Attention  ─►  y, present
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from transformers.cache_utils import Cache
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from genai import contract
from genai.errors import UnsupportedModelError

NAME = "onnx_operator"
"""What the functions below are registered as, transformers' `attn_implementation`."""

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_FLOAT = 1  # onnx.TensorProto.FLOAT
_UNSUPPORTED = ("s_aux", "sinks", "position_bias", "head_mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """What one layer caches: heads, and elements of a key and of a value."""

    num_heads: int
    key_size: int
    value_size: int


@dataclass(slots=True)
class Attentions:
    """The attentions of one run of a model, in which caches come in and go out.

    past: keys and values [B, heads, P, size] of each layer in turn, or nothing in a run that only finds out the shapes;
    softmax_in_f32: ask the operator for a softmax in 32 bits; present and shapes are filled by the run.
    """

    past: Sequence[torch.Tensor] = ()
    softmax_in_f32: bool = False
    present: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    shapes: dict[int, HeadShape] = field(default_factory=dict)

    def register(self) -> None:
        """Be the functions that transformers calls for `NAME` from now on."""
        AttentionInterface.register(NAME, self.attend)
        AttentionMaskInterface.register(NAME, mask)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: object,
    ) -> tuple[torch.Tensor, None]:
        """transformers' attention function: query [B, Hq, T, D], key and value [B, Hkv, T, D] of the new tokens.

        Returns: [B, T, Hq, D]. Raises: UnsupportedModelError.
        """
        layer = module.layer_idx
        _check(layer, attention_mask, options)
        if layer in self.shapes:
            raise UnsupportedModelError(f"layer {layer} attends twice: no decoder that can be exported does")
        batch, num_heads, length, _ = query.shape
        self.shapes[layer] = HeadShape(num_heads=key.shape[1], key_size=key.shape[3], value_size=value.shape[3])
        if not self.past:
            return query.new_zeros(batch, length, num_heads, value.shape[3]), None
        past = self.past[2 * layer : 2 * layer + 2]
        total = past[0].shape[2] + length
        result, *present = torch.onnx.ops.symbolic_multi_out(
            "Attention",
            (*map(_rows, (query, key, value)), attention_mask, *past),
            self._attributes(query, key, options),
            dtypes=(query.dtype,) * 3,
            shapes=(
                (batch, length, num_heads * value.shape[3]),
                (batch, key.shape[1], total, key.shape[3]),
                (batch, key.shape[1], total, value.shape[3]),
            ),
            version=contract.OPSET,
        )
        self.present[layer] = tuple(present)
        return result.reshape(batch, length, num_heads, value.shape[3]), None

    def _attributes(self, query: torch.Tensor, key: torch.Tensor, options: dict[str, object]) -> dict[str, int | float]:
        scale, softcap = options.get("scaling"), options.get("softcap")
        attributes: dict[str, int | float] = {"q_num_heads": query.shape[1], "kv_num_heads": key.shape[1]}
        attributes["scale"] = float(scale) if isinstance(scale, int | float) else query.shape[3] ** -0.5
        if isinstance(softcap, int | float) and softcap:
            attributes["softcap"] = float(softcap)
        if self.softmax_in_f32:
            attributes["softmax_precision"] = _FLOAT
        return attributes


class _NoStates(list[object]):
    """The states of layers, which a model asks for only where they are something else than keys and values."""

    def __getitem__(self, _: object) -> NoReturn:
        raise UnsupportedModelError(
            "some layer keeps a state that is no keys and values, as Mamba, linear attention and convolutions do; "
            "decoders whose every layer attends can be exported"
        )


class PastCache(Cache):  # type: ignore[misc]
    """What a model takes for its cache: says how long the past is, and hands new keys and values through."""

    def __init__(self, past: Sequence[torch.Tensor]) -> None:
        self.layers: list[object] = _NoStates()
        self._past = past

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The new keys and values: the operator joins them to the past."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens in the past."""
        return self._past[0].shape[2] if self._past else 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Where the new tokens begin."""
        return self.get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """How many keys a query may see, and where they begin: windows hide keys, they do not drop them."""
        return self.get_seq_length() + query_length, 0


def mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: MaskFunction,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: torch.Tensor | None = None,
    **options: object,
) -> torch.Tensor:
    """transformers' mask function: [B or 1, 1, T, P+T] bool, true where a query sees a key.

    Raises: UnsupportedModelError.
    """
    if options.get("use_vmap"):
        raise UnsupportedModelError("the model computes a mask in a way of its own; only masks by position are known")
    rows, heads = torch.arange(batch_size), torch.arange(1)
    queries = torch.arange(q_length) + q_offset
    keys = torch.arange(kv_length) + kv_offset
    seen = mask_function(
        rows[:, None, None, None], heads[None, :, None, None], queries[None, None, :, None], keys[None, None, None, :]
    )
    return seen if attention_mask is None else seen & attention_mask[:, None, None, :].to(torch.bool)


def _rows(heads: torch.Tensor) -> torch.Tensor:
    """[B, H, T, D] as [B, T, H*D]."""
    batch, num_heads, length, size = heads.shape
    return heads.transpose(1, 2).reshape(batch, length, num_heads * size)


def _check(layer: object, mask: torch.Tensor | None, options: dict[str, object]) -> None:
    used = [name for name in _UNSUPPORTED if options.get(name) is not None]
    if used:
        raise UnsupportedModelError(f"layer {layer} attends with {used[0]}, which the operator Attention does not have")
    if mask is None:
        raise UnsupportedModelError(f"layer {layer} attends without a mask: it is no decoder's attention")
