"""Models of several parts, of which the text decoder is built."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.build import tiny
from tests.families.case import YARN, Case, Tower, rope
from tests.families.cases.gemma_gpt_oss import GEMMA3, GEMMA4
from tests.families.cases.mixtures import CHUNKS, LLAMA4
from tests.families.gguf_writer import PAIRED, GgufForm, mapped, renamed

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
PATCHES = {"image_size": 28, "patch_size": 14}
CLIP = {"vision_config": {"model_type": "clip_vision_model", "projection_dim": 16, "vocab_size": 10} | SIZES | PATCHES}
QWEN = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 64}
SECTIONS = rope(mrope_section=[2, 3, 3])
IN_FILES = {"rope.dimension_sections": lambda config: [*config.rope_parameters["mrope_section"], 0]}


def halved(rows: np.ndarray, head_dim: int, rotated: int) -> np.ndarray:
    """What is rotated of each head, every second row first: neighbours become halves.

    0 0' 1 1' 2 2' … rest   ─►   0 1 2 … 0' 1' 2' … rest
    """
    heads = rows.reshape(-1, head_dim, *rows.shape[1:])
    parts = heads[:, :rotated:2], heads[:, 1:rotated:2], heads[:, rotated:]
    return np.concatenate(parts, axis=1).reshape(rows.shape)


def tower(text: str, vision: dict[str, Any], **outer: Any) -> Tower:
    return Tower(text=text, outer={"vision_config": vision} | outer)


CASES: dict[str, Case] = {
    "gemma3 with vision": Case(
        model_type="gemma3",
        options=GEMMA3,
        tower=tower(
            "gemma3_text", SIZES | PATCHES,
            mm_tokens_per_image=4, image_token_index=299, boi_token_index=298, eoi_token_index=297,
        ),
    ),
    "gemma4 with vision": Case(
        model_type="gemma4",
        options=GEMMA4,
        tower=tower(
            "gemma4_text",
            SIZES | {"num_key_value_heads": 2, "head_dim": 8, "patch_size": 4, "position_embedding_size": 16},
            image_token_id=0, video_token_id=1, audio_token_id=2,  # which no prompt here has: they are read otherwise
        ),
    ),
    "gemma4 unified": Case(
        model_type="gemma4_unified",
        options={key: value for key, value in GEMMA4.items() if not key.endswith("per_layer_input")}
        | {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "num_kv_shared_layers": 0},
        tower=tower(
            "gemma4_unified_text",
            {"patch_size": 4, "pooling_kernel_size": 2, "mm_embed_dim": 16, "mm_posemb_size": 16},
            audio_config={"audio_embed_dim": 16}, image_token_id=0, video_token_id=1, audio_token_id=2,
        ),
    ),
    "qwen2_vl": Case(
        model_type="qwen2_vl",
        options=SECTIONS,
        tower=tower("qwen2_vl_text", {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 64}),
        gguf=GgufForm(arch="qwen2vl", keys=IN_FILES, steps=(renamed(r"visual\.", ""),)),
    ),
    "qwen2_5_vl": Case(
        model_type="qwen2_5_vl",
        options=SECTIONS,
        tower=tower("qwen2_5_vl_text", QWEN | {"fullatt_block_indexes": [0]}),
    ),
    "qwen2_5_vl as published": Case(
        model_type="qwen2_5_vl",
        options=SECTIONS,
        tower=tower("qwen2_5_vl_text", QWEN | {"fullatt_block_indexes": [0]}),
        changes={"text_config": ..., "rope_theta": 500.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
        | tiny.SIZES,
    ),
    "qwen2_5_vl tied": Case(
        model_type="qwen2_5_vl",
        options=SECTIONS | {"tie_word_embeddings": True},
        tower=tower("qwen2_5_vl_text", QWEN | {"fullatt_block_indexes": [0]}),
    ),
    "qwen3_vl": Case(
        model_type="qwen3_vl",
        options={"head_dim": 24} | rope(mrope_section=[4, 4, 4], mrope_interleaved=True),
        tower=tower("qwen3_vl_text", QWEN | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}),
        gguf=GgufForm(
            arch="qwen3vl",
            keys=IN_FILES | {"n_deepstack_layers": lambda _: 2},
            steps=(renamed(r"visual\.", ""), renamed(r"model\.language_model\.", "model.")),
        ),
    ),
    "smolvlm": Case(
        model_type="smolvlm",
        options={"head_dim": 24},
        tower=tower("llama", SIZES | PATCHES, scale_factor=2, image_token_id=299),
        gguf=GgufForm(
            arch="llama",
            steps=(renamed(r"vision_model\.|connector\.", ""), renamed(r"model\.text_model\.", "model."), *PAIRED),
        ),
    ),
    "llama4 with vision": Case(
        model_type="llama4",
        options=LLAMA4 | CHUNKS,
        tower=tower(
            "llama4_text",
            SIZES | PATCHES | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
            image_token_index=299, boi_token_index=298, eoi_token_index=297,
        ),
    ),
    "mistral3": Case(
        model_type="mistral3",
        options={"head_dim": 24} | rope("yarn", **YARN, llama_4_scaling_beta=0.3),
        tower=tower(
            "ministral3", {"model_type": "pixtral", "head_dim": 8} | SIZES | PATCHES,
            image_token_index=299, spatial_merge_size=2,
        ),
    ),
    "llava": Case(
        model_type="llava", options={"head_dim": 24}, tower=Tower(text="qwen2", outer=CLIP | {"image_token_index": 299})
    ),
    "llava_next": Case(
        model_type="llava_next",
        options={"sliding_window": 7},
        tower=Tower(text="mistral", outer=CLIP | {"image_token_index": 299}),
    ),
    "internvl": Case(
        model_type="internvl",
        options={"head_dim": 24},
        tower=tower("qwen3", SIZES | {"image_size": [28, 28], "patch_size": [14, 14]}, image_token_id=299),
    ),
    "aya_vision": Case(
        model_type="aya_vision",
        options={"sliding_window": 6, "num_hidden_layers": 4, "tie_word_embeddings": False}
        | {"logit_scale": 1.0},  # transformers' model around the decoder leaves this factor out
        tower=tower("cohere2", {"model_type": "siglip_vision_model"} | SIZES | PATCHES, image_token_index=299),
    ),
    "glm4v": Case(
        model_type="glm4v",
        options=rope(mrope_section=[1, 1, 2], partial_rotary_factor=0.5),
        tower=tower("glm4v_text", QWEN | PATCHES),
        gguf=GgufForm(
            arch="glm4",
            steps=(
                renamed(r"visual\.", ""), renamed(r"model\.language_model\.", "model."),
                mapped(r"\.[qk]_proj\.", lambda rows: halved(rows, head_dim=16, rotated=8)),
            ),
            keys=IN_FILES,
        ),
    ),
}  # fmt: skip
