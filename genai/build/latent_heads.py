"""What makes a latent's heads: each head's own matrices, from either form in which checkpoints hold them.

    kv_b_proj.weight  [heads · (plain + value), latent]      all of them together
    k_b_proj.3.weight  [latent, plain]     v_b_proj.3.weight  [value, latent]      one by one

`k_b` is the transposed part of a head's keys: it maps its query into the latent's space, where all heads read one key.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from genai.build.quantize import quantize
from genai.build.source import BlockWeight, FloatArray
from genai.build.spec import LatentSpec
from genai.build.weights import Weights

KEYS, VALUES = "k_b_proj", "v_b_proj"
_TOGETHER = "kv_b_proj"


def float_heads(weights: Weights, latent: LatentSpec, prefix: str, part: str) -> Iterator[FloatArray]:
    """Each head's matrix [N, K], of the part `KEYS` or `VALUES`. Raises: WeightsError."""
    shape = _shape(latent, part)
    if not weights.has(f"{prefix}.{_TOGETHER}.weight"):
        for head in range(latent.num_heads):
            yield weights.read(f"{prefix}.{part}.{head}.weight", shape)
        return
    sizes = (latent.plain_size, latent.value_size)
    rows = weights.read(f"{prefix}.{_TOGETHER}.weight", (latent.num_heads * sum(sizes), latent.latent_size))
    for whole in rows.reshape(latent.num_heads, sum(sizes), latent.latent_size):
        yield whole[: sizes[0]].T if part == KEYS else whole[sizes[0] :]


def block_heads(weights: Weights, latent: LatentSpec, prefix: str, part: str) -> Iterator[tuple[str, BlockWeight]]:
    """Each head's matrix in blocks, and its name: as the checkpoint has it one by one, else in 8 bits."""
    shape, form = _shape(latent, part), weights.plan.matrices
    names = [f"{prefix}.{part}.{head}" for head in range(latent.num_heads)]
    if form != "float" and not weights.has(f"{prefix}.{_TOGETHER}.weight"):
        for name in names:
            yield name, weights.read_blocks(f"{name}.weight", shape, form)
        return
    block_size = 64 if shape[1] % 64 == 0 else 32
    for name, head in zip(names, float_heads(weights, latent, prefix, part), strict=True):
        yield name, quantize(np.ascontiguousarray(head), bits=8, block_size=block_size)


def _shape(latent: LatentSpec, part: str) -> tuple[int, int]:
    return (latent.latent_size, latent.plain_size) if part == KEYS else (latent.value_size, latent.latent_size)
