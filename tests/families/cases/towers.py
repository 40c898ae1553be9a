"""Models of several parts, of which the text decoder is built."""

from __future__ import annotations

from tests.families.case import Case, Tower
from tests.families.cases.gemma_gpt_oss import GEMMA3

CASES: dict[str, Case] = {
    "gemma3 with vision": Case(
        model_type="gemma3",
        options=GEMMA3,
        tower=Tower(
            text="gemma3_text",
            outer={
            "vision_config": {
                "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 28, "patch_size": 14,
            },
            "mm_tokens_per_image": 4, "image_token_index": 299, "boi_token_index": 298, "eoi_token_index": 297,
        }),
    ),
}  # fmt: skip
