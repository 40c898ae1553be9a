"""llama.cpp's adapters: GGUF files of the type `adapter`, as its `convert_lora_to_gguf.py` writes them.

    blk.0.attn_q.weight.lora_a  [rank, in]    blk.0.attn_q.weight.lora_b  [out, rank]    adapter.lora.alpha

The scale is `alpha / rank`, 1 where alpha is 0. Rows of the second matrix lie as those of the architecture's weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from genai.build.adapters.adapter import Adapter, LowRank, checked
from genai.build.adapters.base import Base
from genai.build.gguf import names
from genai.build.gguf.file import GgufFile, TensorInfo
from genai.errors import AdapterError, ModelError

_TENSOR = re.compile(r"(?P<weight>.+\.weight)\.lora_(?P<matrix>[ab])")


def read_gguf_adapter(path: Path, base: Base) -> Adapter:
    """An adapter in a GGUF file. Raises: AdapterError for what is none, is not LoRA, or is damaged."""
    try:
        with GgufFile(path) as file:
            kind, method = (str(file.metadata.get(key)) for key in ("general.type", "adapter.type"))
            if kind != "adapter":
                raise AdapterError(f"{path} is no adapter (general.type is {kind[:40]!r})")
            if method != "lora":
                raise AdapterError(f"{path}: an adapter of the type {method[:40]!r}; only lora is supported")
            if "adapter.alora.invocation_tokens" in file.metadata:
                raise AdapterError(f"{path}: it begins only behind certain tokens (aLoRA); not supported")
            return checked(str(path), dict(_products(file, base)))
    except ModelError as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(str(error)) from None


def _products(file: GgufFile, base: Base) -> Iterator[tuple[str, LowRank]]:
    alpha, arch = file.metadata.get("adapter.lora.alpha", 0.0), names.architecture_of(file)
    if not isinstance(alpha, int | float):
        raise AdapterError(f"{file.path}: adapter.lora.alpha is no number")
    pairs: dict[str, dict[str, TensorInfo]] = {}
    for name, info in file.tensors.items():
        if (match := _TENSOR.fullmatch(name)) is None:
            raise AdapterError(f"{file.path}: tensor {name!r} is no LoRA matrix; only those are read")
        pairs.setdefault(match["weight"], {})[match["matrix"]] = info
    for weight, pair in pairs.items():
        if pair.keys() != {"a", "b"}:
            raise AdapterError(f"{file.path}: {weight} has only one of lora_a and lora_b")
        a, b = file.read(pair["a"]), file.read(pair["b"])
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise AdapterError(f"{file.path}: {weight} has lora_a {list(a.shape)} and lora_b {list(b.shape)}")
        ours = names.tensor_name(arch, weight)
        if ours is None:
            raise AdapterError(f"{file.path}: {weight} is no product")
        base.check_tiles(ours, is_tiled=names.has_tiled_heads(arch))
        heads = names.paired_heads(arch, ours, base.config)
        b = b if heads is None else b[names.unpaired_rows(len(b), heads)]
        yield ours.removesuffix(".weight"), LowRank.of(a, b, alpha / a.shape[0] if alpha else 1.0)
