"""PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight  [rank, in]   …lora_B.weight  [out, rank]

Scales are `lora_alpha / r`, or with rsLoRA `lora_alpha / sqrt(r)` (arXiv 2312.03732); both may differ by module, found
by PEFT's patterns. What is not LoRA alone is refused by name: it would be another model than was trained.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from genai.build import towers
from genai.build.adapters.adapter import Adapter, LowRank, checked
from genai.build.adapters.base import Base
from genai.build.checkpoint_config import read_json_object
from genai.build.safetensors import SafetensorsFile
from genai.build.source import JSON
from genai.errors import AdapterError, WeightsError

_log = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)\.lora_(?P<matrix>[AB])(?:\.[^.]+)?\.weight")
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")
"""Beginnings of ways to begin a training that change the base's weights, too."""
_UNKNOWN: Mapping[str, str] = {
    "use_dora": "DoRA, whose magnitudes scale each weight's columns",
    "use_qalora": "QA-LoRA, which pools what goes in",
    "lora_bias": "biases of the second matrices",
    "modules_to_save": "whole modules that were trained beside it",
    "trainable_token_indices": "embeddings of tokens that were trained beside it",
    "target_parameters": "changes of experts' stacked parameters",
    "layer_replication": "layers that are repeated",
    "alora_invocation_tokens": "a beginning only behind certain tokens (aLoRA)",
    "megatron_config": "layers of Megatron's",
    "arrow_config": "a router over adapters (Arrow)",
}
"""Options that are something else than `x · A · B`, and what."""


def read_peft(folder: Path, base: Base) -> Adapter:
    """An adapter as PEFT saves it. Raises: AdapterError for what is not LoRA alone, or damaged."""
    try:
        config = read_json_object(folder / CONFIG_FILE)
        _refuse(folder, config)
        if not (folder / WEIGHTS_FILE).is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            what = "only pickled weights (adapter_model.bin), which are not read: save it again" if pickled else "none"
            raise AdapterError(f"{folder} should have its matrices in {WEIGHTS_FILE}, and has {what}")
        file = SafetensorsFile(folder / WEIGHTS_FILE)
        try:
            return checked(str(folder), dict(_products(folder, config, file, base)))
        finally:
            file.close()
    except WeightsError as error:
        raise AdapterError(str(error)) from None


def _products(
    folder: Path, config: Mapping[str, JSON], file: SafetensorsFile, base: Base
) -> Iterator[tuple[str, LowRank]]:
    pairs: dict[str, dict[str, str]] = {}
    left_out: list[str] = []
    for name in file.shapes:
        if (match := _TENSOR.fullmatch(name)) is None:
            raise AdapterError(f"{folder}: tensor {name!r} is no LoRA matrix; only those are read")
        if (part := towers.other_part(match["module"])) is not None:  # as of the base
            left_out.append(part)
            continue
        pairs.setdefault(match["module"], {})[match["matrix"]] = name
    if left_out:
        parts = ", ".join(dict.fromkeys(left_out))
        _log.warning("%s: only what it changes of the text decoder is read; left out: %s", folder, parts)
    for module, pair in pairs.items():
        if pair.keys() != {"A", "B"}:
            raise AdapterError(f"{folder}: {module} has only one of lora_A and lora_B")
        a, b = file.read(pair["A"]), file.read(pair["B"])
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise AdapterError(f"{folder}: {module} has lora_A {list(a.shape)} and lora_B {list(b.shape)}")
        product = base.product(module)
        base.check_tiles(product, is_tiled=False)
        yield product, LowRank.of(a, base.in_our_order(product, b), _scale(folder, config, module, a.shape[0]))


def _scale(folder: Path, config: Mapping[str, JSON], module: str, rank: int) -> float:
    """What a module's change is multiplied by. Raises: AdapterError if the configuration says another rank."""
    said = _number(folder, config, "r", "rank_pattern", module)
    if said != rank:
        raise AdapterError(f"{folder}: {module} has rank {rank}, {CONFIG_FILE} says {said:g}")
    alpha = _number(folder, config, "lora_alpha", "alpha_pattern", module)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _number(folder: Path, config: Mapping[str, JSON], key: str, pattern_key: str, module: str) -> float:
    """A number of a module's own, where a pattern that names it has one, or that of all."""
    patterns, value = config.get(pattern_key) or {}, config.get(key)
    if isinstance(patterns, dict):
        try:
            found = next((name for name in patterns if re.match(rf"(.*\.)?({name})$", module)), None)
        except re.error as error:
            raise AdapterError(f"{folder}: {pattern_key} has a pattern that cannot be read ({error})") from None
        value = value if found is None else patterns[found]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise AdapterError(f"{folder}: {key} is {value!r}, and should be a number")
    return float(value)


def _refuse(folder: Path, config: Mapping[str, JSON]) -> None:
    """Raises: AdapterError for what is not LoRA alone."""
    if (kind := config.get("peft_type")) != "LORA":
        raise AdapterError(f"{folder}: an adapter of the type {kind!r}; only LORA is supported")
    if (bias := config.get("bias", "none")) != "none":
        raise AdapterError(f"{folder}: bias={bias!r}: biases that were trained are not supported, only the matrices")
    for name, what in _UNKNOWN.items():
        if config.get(name):
            raise AdapterError(f"{folder}: {name} is set: {what}; not supported; merge it into its base with peft")
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and begun.startswith(_CHANGES_BASE):
        raise AdapterError(
            f"{folder}: init_lora_weights={begun!r} has changed the base's weights, too; save it as plain LoRA with "
            "peft (save_pretrained with path_initial_model_for_weight_conversion)"
        )
