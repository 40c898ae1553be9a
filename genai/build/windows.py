"""Which layers keep no more than their windows, and by how much their keys may move with all bits kept."""

from __future__ import annotations

from genai.build.spec import AttentionSpec, DecoderSpec
from genai.config import WindowConfig

_ADDED = 128 * 128
"""Products on CPU take blocks of so many elements at a time: slots × elements of a head, 16 to 128 of these."""


def windowed_layers(spec: DecoderSpec) -> frozenset[int]:
    """The layers whose caches hold the last tokens alone: all that read these see a window, or a chunk.

    Where texts hardly outgrow the window they hold whole texts, as others do.
    """
    by_source: dict[int, list[AttentionSpec]] = {}
    for layer, heads in spec.attentions.items():
        by_source.setdefault(heads.keys_layer(layer), []).append(heads)
    return frozenset(
        layer
        for layer, readers in by_source.items()
        if all(0 < window_of(each) < spec.max_position - block_slots(each.head_dim) for each in readers)
    )


def window_config(spec: DecoderSpec) -> WindowConfig | None:
    """What the runtime is told of these layers; None where there are none."""
    layers = windowed_layers(spec)
    heads = [each for layer, each in spec.attentions.items() if each.keys_layer(layer) in layers]
    if not heads:
        return None
    return WindowConfig(size=max(map(window_of, heads)), block=max(block_slots(each.head_dim) for each in heads))


def window_of(heads: AttentionSpec) -> int:
    """How many newest keys a query sees at most: a chunk reaches no further than such a window; 0 for all."""
    return heads.sliding_window or (heads.chunk.size if heads.chunk else 0)


def block_slots(head_dim: int) -> int:
    """How many slots kernels add up at a time where heads, those of values, have so many elements."""
    return _ADDED // min(max(1 << (head_dim - 1).bit_length(), 16), 128)
