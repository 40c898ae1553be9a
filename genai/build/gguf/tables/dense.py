"""Dense decoders whose query and key rows lie as Hugging Face has them: GLM, EXAONE, Seed-OSS, ERNIE, Hunyuan, …"""

from __future__ import annotations

import numpy as np

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import (
    ATTENTION,
    FUSED_ATTENTION,
    HEAD_NORMS,
    MLP,
    PLAIN,
    POST_NORMS,
    PRE_NORMS,
    Architecture,
    windowless,
)
from genai.build.source import JSON


def _exaone4(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    window = metadata.optional_size("attention.sliding_window")
    if window is None:
        # The 32B's first files were written without; it is known by its depth. The 1.2B has no window.
        return {"sliding_window": 4096 if metadata.num_layers == 64 else None}
    return {"sliding_window": window, "layer_types": metadata.layer_types(default_period=4)}


def _apertus(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # The rotary parameters are all there: what the configuration's class would fill in is not meant.
    return windowless(metadata) | {"hidden_act": "xielu", "rope_parameters": {}}


def _glm(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | {"fused_qkv": metadata.has_tensor("blk.0.attn_qkv.weight")}


def _glm4(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # Vision models' rotary sections are rotated by halves in ggml: their rows are laid out for it.
    sections = metadata.value("rope.dimension_sections")
    has_sections = isinstance(sections, np.ndarray) and sections.any()
    return _glm(metadata) | ({"model_type": "glm4v_text", "rotates_halves": True} if has_sections else {})


_GLM = ATTENTION | FUSED_ATTENTION | {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}

ARCHITECTURES = {
    "chatglm": Architecture(model_type="glm", layer=_GLM | PRE_NORMS, extras=_glm),
    "glm4": Architecture(
        model_type="glm4",
        layer=_GLM
        | {"attn_norm": "input_layernorm", "post_attention_norm": "post_self_attn_layernorm"}
        | {"ffn_norm": "post_attention_layernorm", "post_ffw_norm": "post_mlp_layernorm"},
        extras=_glm4,
        reads=frozenset({"rope.dimension_sections"}),
    ),
    "exaone": Architecture(model_type="exaone", layer=PLAIN),
    "exaone4": Architecture(model_type="exaone4", layer=ATTENTION | MLP | HEAD_NORMS | POST_NORMS, extras=_exaone4),
    "seed_oss": Architecture(
        model_type="seed_oss",
        layer=ATTENTION | MLP | {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"},
    ),
    "ernie4_5": Architecture(model_type="ernie4_5", layer=PLAIN),
    "hunyuan-dense": Architecture(model_type="hunyuan_v1_dense", layer=PLAIN | HEAD_NORMS),
    "apertus": Architecture(
        model_type="apertus",
        layer=ATTENTION | PRE_NORMS | HEAD_NORMS | {"ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"},
        extras=_apertus,
        numbers={f"mlp.act_fn.{name}": f"xielu.{name}" for name in ("alpha_p", "alpha_n", "beta", "eps")},
    ),
}
