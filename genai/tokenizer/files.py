"""What building a tokenizer gives: the tokenizer itself, its chat template and its special ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tokenizers

from genai.errors import TokenizerError

TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
TOOL_TEMPLATE_FILE = "additional_chat_templates/tool_use.jinja"
"""Where transformers keeps the template that is used when there are tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer ready to be written into a model package.

    tool_template: the chat template for conversations with tools, where the model has one of its own for them;
    eos_token_ids: tokens that end a text; the first is the one that chat templates call `eos_token`.
    """

    tokenizer: tokenizers.Tokenizer
    chat_template: str | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    tool_template: str | None = None

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and the chat templates that there are into an existing folder."""
        # Not the tokenizer's own save(): its errors are no OSErrors.
        (folder / TOKENIZER_FILE).write_text(self.tokenizer.to_str(), encoding="utf-8", newline="\n")
        for name, template in ((CHAT_TEMPLATE_FILE, self.chat_template), (TOOL_TEMPLATE_FILE, self.tool_template)):
            if template is None:
                (folder / name).unlink(missing_ok=True)
            else:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(template, encoding="utf-8", newline="\n")


def read_template(path: Path) -> str | None:
    """A chat template's file, or None if there is none. Raises: TokenizerError."""
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None
