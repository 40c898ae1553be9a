"""What a decoder's blocks are made of: one file per kind of part, each two functions or three.

`mix` is what a part does with all tokens of a step together (attention; a part that treats each token by itself does
nothing there), `finish` what it does for each token afterwards, `caches` and `states` which ones it writes. Between
`mix` and `finish` of the last block that writes any, all but the tokens that get logits are left out; what mixes in a
later block is given these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from genai.build.parts import attention, delta, latent, mamba2, mlp, moe, per_layer, short_conv
from genai.build.parts.context import Context
from genai.build.spec import (
    AttentionSpec,
    BlockSpec,
    DecoderSpec,
    DeltaSpec,
    LatentSpec,
    Mamba2Spec,
    MlpSpec,
    MoeSpec,
    Part,
    PerLayerSpec,
    ShortConvSpec,
)
from genai.contract import Cache, State


@dataclass(frozen=True, slots=True)
class Writer:
    """A kind of part: (context, its spec, the value it reads, layer) -> what it makes of it; mix: None for nothing.

    caches: (its spec, layer) -> the caches that it writes; states: (its spec, layer, the stream's width) -> the states.
    """

    mix: Callable[[Context, Any, str, int], str] | None
    finish: Callable[[Context, Any, str, int], str]
    caches: Callable[[Any, int], tuple[Cache, ...]] = lambda spec, layer: ()
    states: Callable[[Any, int, int], tuple[State, ...]] = lambda spec, layer, hidden_size: ()


WRITERS: Mapping[type[Part], Writer] = {
    AttentionSpec: Writer(attention.mix, attention.finish, attention.caches),
    LatentSpec: Writer(latent.mix, latent.finish, latent.caches),
    DeltaSpec: Writer(delta.mix, delta.finish, states=delta.states),
    Mamba2Spec: Writer(mamba2.mix, mamba2.finish, states=mamba2.states),
    ShortConvSpec: Writer(short_conv.mix, short_conv.finish, states=short_conv.states),
    MlpSpec: Writer(None, mlp.finish),
    MoeSpec: Writer(None, moe.finish),
    PerLayerSpec: Writer(None, per_layer.finish),
}


def caches_of(block: BlockSpec) -> tuple[Cache, ...]:
    """The caches that a block writes."""
    return tuple(cache for part in block.parts for cache in WRITERS[type(part)].caches(part, block.layer))


def states_of(block: BlockSpec, spec: DecoderSpec) -> tuple[State, ...]:
    """The states that a block writes."""
    return tuple(
        state for part in block.parts for state in WRITERS[type(part)].states(part, block.layer, spec.hidden_size)
    )
