"""Models that are not built: for some the reason, for all of them what else may run them.

A reason is what would have to be there first: mostly an operator that ONNX Runtime has on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from genai.build.architectures.config import ConfigReader
from genai.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a `model_type` is refused; where: only configurations for which this holds; which: those in words."""

    reason: str
    where: Callable[[ConfigReader], bool] = lambda _: True
    which: str = ""


def _has_experts(config: ConfigReader) -> bool:
    """Whether some of Nemotron-H's layers have: they are listed, or a letter each."""
    listed = config.get("layers_block_type") or config.get("layer_types")
    return "E" in str(config.get("hybrid_override_pattern") or "") or "moe" in str(listed)


_GEMMA3N = Refusal(reason="it has four residual streams that predict each other (AltUp); Gemma 4 took its place")
_INDEXED = "each token attends to the few keys that an indexer has picked, for which there is no operator"

REFUSED: Mapping[str, Refusal] = {
    "deepseek_v32": Refusal(reason=_INDEXED),
    "deepseek_v4": Refusal(reason=_INDEXED),
    "glm_moe_dsa": Refusal(reason=_INDEXED),
    "gemma3n": _GEMMA3N,
    "gemma3n_text": _GEMMA3N,
    "gemma4_text": Refusal(
        reason="its experts are gated by GELU, which the operators for experts do not know",
        where=lambda config: config.flag("enable_moe_block"),
        which="with experts",
    ),
    "kimi_linear": Refusal(
        reason="three of four layers are linear attention with states (KDA), which nothing here builds"
    ),
    "nemotron_h": Refusal(
        reason="its experts square what ReLU leaves, which the operators for experts do not know",
        where=_has_experts,
        which="with experts",
    ),
    "paligemma": Refusal(reason="its text decoder reads a prompt in both directions"),
}
"""By `model_type`."""
_IN_GGUF = {
    "deepseek32": "deepseek_v32",
    "deepseek4": "deepseek_v4",
    "gemma3n": "gemma3n",
    "glm-dsa": "glm_moe_dsa",
    "kimi-linear": "kimi_linear",
    "nemotron_h_moe": "nemotron_h",
}
"""Architectures of GGUF files that mean one of them, always."""


def refuse(config: ConfigReader) -> None:
    """Raises: UnsupportedModelError if a checkpoint's model type, configured so, is one of `REFUSED`."""
    model_type = config.text("model_type")
    if (refusal := REFUSED.get(model_type)) and refusal.where(config):
        raise UnsupportedModelError(f"model type {model_type!r} is not supported: {refusal.reason}")


def unknown_model_type(model_type: str, supported: Iterable[str]) -> UnsupportedModelError:
    """The error for a model type that nothing here reads."""
    return UnsupportedModelError(
        f"model type {model_type!r} is not supported. Something else may run it: `genai export SOURCE OUT` "
        "(transformers and torch), `genai build SOURCE -o OUT --builder mobius`, or `genai convert MODEL.onnx OUT` "
        f"if there is an ONNX file of it. Supported: {', '.join(supported)}"
    )


def unknown_gguf(arch: str, supported: Iterable[str]) -> UnsupportedModelError:
    """The error for a GGUF file of an architecture that nothing here reads."""
    if arch in _IN_GGUF:
        return UnsupportedModelError(f"architecture {arch!r} is not supported: {REFUSED[_IN_GGUF[arch]].reason}")
    return UnsupportedModelError(
        f"architecture {arch!r} is not supported. Something else may run the model's Hugging Face folder or hub id: "
        "`genai export SOURCE OUT` (transformers and torch), or `genai build SOURCE -o OUT --builder mobius`. "
        f"Supported: {', '.join(supported)}"
    )
