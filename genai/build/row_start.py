"""What `genai.json` says of a graph's caches, and `row_start.bin` for rows that begin with a reserved slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from genai import contract
from genai.build.graph import numpy_dtype
from genai.config import CONTRACT_BY_LAYER, CONTRACT_VERSION, ROW_START_FILE, ModelConfig
from genai.contract import Cache, TensorType


def write_contract(
    folder: Path, config: ModelConfig, model: onnx.ModelProto, row_start: Mapping[str, npt.NDArray[np.float32]]
) -> ModelConfig:
    """Write `genai.json` with the contract version that a graph needs, and its reserved slot; returns what was written.

    row_start: with what each row of a cache begins, by the cache's name, [width] each; a cache that is not named gets
    zeros. Empty: rows have no reserved slot. Raises: ValueError for a name or size that the graph does not have.
    """
    signature = [*map(_tensor_type, model.graph.input)]
    caches = contract.caches_of(signature)
    has_more = contract.states_of(signature) or contract.adapters_of(signature) or row_start
    is_plain = contract.is_uniform(caches) and not has_more
    version, reserved_slots = CONTRACT_VERSION if is_plain else CONTRACT_BY_LAYER, 1 if row_start else 0
    config = replace(config, contract_version=version, reserved_slots=reserved_slots)
    if row_start:
        (folder / ROW_START_FILE).write_bytes(slot_bytes(caches, config.cache_dtype, row_start))
    config.write(folder)
    return config


def slot_bytes(caches: tuple[Cache, ...], dtype: str, row_start: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """One slot of every cache, in their order. Raises: ValueError for a name or size that they do not have."""
    widths = {cache.name: cache.width for cache in caches}
    for name, values in row_start.items():
        if values.shape != (widths.get(name),):
            raise ValueError(f"a row's start {list(values.shape)} for {name!r}; the graph's caches are {widths}")
    slots = (row_start.get(cache.name, np.zeros(cache.width, np.float32)) for cache in caches)
    return b"".join(slot.astype(numpy_dtype(dtype)).tobytes() for slot in slots)


def _tensor_type(value: onnx.ValueInfoProto) -> TensorType:
    shape = (dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim)
    return TensorType(name=value.name, dtype="", shape=tuple(shape))
