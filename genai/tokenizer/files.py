"""What building a tokenizer gives: the tokenizer itself, its chat template and its special ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tokenizers

TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer ready to be written into a model package.

    eos_token_ids: tokens that end a text; the first is the one that chat templates call `eos_token`.
    """

    tokenizer: tokenizers.Tokenizer
    chat_template: str | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and, where there is one, `chat_template.jinja` into an existing folder."""
        # Not the tokenizer's own save(): its errors are no OSErrors.
        (folder / TOKENIZER_FILE).write_text(self.tokenizer.to_str(), encoding="utf-8", newline="\n")
        template = folder / CHAT_TEMPLATE_FILE
        if self.chat_template is None:
            template.unlink(missing_ok=True)
        else:
            template.write_text(self.chat_template, encoding="utf-8", newline="\n")
