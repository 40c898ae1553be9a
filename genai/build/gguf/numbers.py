"""Weights of one element that a GGUF file holds as metadata: a list of one number per layer.

xielu.alpha_p = [0.8, 0.7, …]   ─►   model.layers.0.mlp.act_fn.alpha_p = 0.8, …
"""

from __future__ import annotations

import numpy as np

from genai.build.gguf.file import GgufFile
from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables import architectures
from genai.errors import WeightsError


def named_numbers(file: GgufFile, arch: str) -> dict[str, float]:
    """Each layer's numbers by their Hugging Face names. Raises: WeightsError for a missing or bad list."""
    numbers = {}
    for name, key in architectures()[arch].numbers.items():
        for layer, value in enumerate(_list(file, key, ArchitectureMetadata(file, arch).num_layers)):
            numbers[f"model.layers.{layer}.{name}"] = value
    return numbers


def _list(file: GgufFile, key: str, count: int) -> list[float]:
    values = file.metadata.get(key)
    if not isinstance(values, np.ndarray) or values.shape != (count,) or not np.isfinite(values).all():
        raise WeightsError(f"{file.path}: metadata {key} should be a list of {count} numbers, one for each layer")
    found: list[float] = values.astype(np.float64).tolist()
    return found
