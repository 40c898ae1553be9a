"""The bytes with which each row of a package's cache begins: an attention sink's keys and values, say.

`row_start.bin` holds one slot of every cache, in the order of the graph's signature, as they lie in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genai.config import CONFIG_FILE, ROW_START_FILE, ModelConfig
from genai.errors import ContractError
from genai.runtime.cache_shape import CacheShape
from genai.runtime.providers.base import Bytes


def read_row_start(folder: Path, model: ModelConfig, shape: CacheShape) -> list[Bytes]:
    """The reserved slot's bytes, one array for each buffer; none if the package has no such slot.

    Raises: ContractError if the file is missing, of another size, or holds what is no finite number.
    """
    path = folder / ROW_START_FILE
    if not model.reserved_slots:
        return []
    try:
        data = np.fromfile(path, np.uint8)
    except OSError:
        raise ContractError(
            f"{folder} has no {ROW_START_FILE}, though {CONFIG_FILE} says that rows begin with a reserved slot; build "
            "the package again"
        ) from None
    if data.size != shape.bytes_per_token:
        raise ContractError(
            f"{path} has {data.size:,} bytes, and one slot of the graph's {len(shape.caches)} caches takes "
            f"{shape.bytes_per_token:,}; build the package again"
        )
    row_start = np.split(data, np.cumsum(shape.slot_bytes)[:-1])
    if not shape.is_finite(row_start):
        raise ContractError(f"{path} holds what is no finite number; build the package again")
    return row_start
