"""The tokenizer of a model package: text to ids, ids to text, chats to ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tokenizers

from genai.chat.formats import GENERIC
from genai.chat.shapes import ToolFormat
from genai.chat.template import ChatTemplate, Message
from genai.errors import TokenizerError
from genai.tokenizer.detokenizer import IncrementalDetokenizer
from genai.tokenizer.files import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, TOOL_TEMPLATE_FILE, read_template
from genai.tokenizer.token_pieces import TokenPieces

_PIECE_CHARACTERS = 1 << 18
_SPARE_TOKENS = 16
"""So many tokens of each piece may be there only because the text was cut."""


class Tokenizer:
    """A `tokenizers.Tokenizer` with its special ids and chat template.

    Text that spells a special token, such as "<|im_end|>", becomes that token wherever it comes from, the user's
    message included; this is what transformers does. Who must not let users write special tokens removes them first.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        bos_token_id: int | None,
        eos_token_ids: tuple[int, ...],
        pad_token_id: int | None = None,
        chat_template: str | None = None,
        tool_template: str | None = None,
    ) -> None:
        """Takes the tokenizer over: its truncation and padding, meant for training, are switched off.

        tool_template: the chat template for conversations with tools, where that is another one.
        Raises: TokenizerError if an id is not in the vocabulary or the chat template cannot be compiled.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._pieces = TokenPieces(tokenizer)
        self._chat_template = None if chat_template is None else ChatTemplate(chat_template)
        self._tool_template = self._chat_template if tool_template is None else ChatTemplate(tool_template)
        self.bos_token_id = bos_token_id
        self.eos_token_ids = tuple(eos_token_ids)
        self.pad_token_id = pad_token_id
        for name, token_id in (("bos", bos_token_id), ("pad", pad_token_id), *(("eos", i) for i in eos_token_ids)):
            if token_id is not None and self.id_to_token(token_id) is None:
                raise TokenizerError(f"{name} token id {token_id} is not in the vocabulary of {self.vocab_size} tokens")

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        bos_token_id: int | None,
        eos_token_ids: tuple[int, ...],
        pad_token_id: int | None = None,
    ) -> Tokenizer:
        """Read a model package's `tokenizer.json` and the chat templates that there are.

        Raises: TokenizerError if a file is missing or damaged.
        """
        tokenizer = load_tokenizer_json(folder / TOKENIZER_FILE)
        return cls(
            tokenizer,
            bos_token_id=bos_token_id,
            eos_token_ids=eos_token_ids,
            pad_token_id=pad_token_id,
            chat_template=read_template(folder / CHAT_TEMPLATE_FILE),
            tool_template=read_template(folder / TOOL_TEMPLATE_FILE),
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added tokens included; a model's logits may be padded to more."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The tokenizer underneath, for libraries that want one (grammar constraints); not to be changed."""
        return self._tokenizer

    @property
    def has_chat_template(self) -> bool:
        """Whether `apply_chat_template` can be used."""
        return self._tool_template is not None

    @property
    def chat_template(self) -> str | None:
        """The chat template's source, or None."""
        return None if self._chat_template is None else self._chat_template.source

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls."""
        return GENERIC if self._tool_template is None else self._tool_template.tool_format

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that are left out of the text when special tokens are skipped."""
        return self._pieces.special_ids

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text; with the special tokens (BOS…) that this tokenizer puts around one.

        Raises: TokenizerError if the text is not a string, or holds a lone surrogate.
        """
        if not isinstance(text, str):
            raise TokenizerError(f"only a string can be encoded, not {type(text).__name__}")
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        except Exception as error:  # tokenizers raises plain Exception, and a misleading TypeError for surrogates
            has_surrogate = any("\ud800" <= character <= "\udfff" for character in text)
            reason = "it holds a lone surrogate, which is no character" if has_surrogate else error
            raise TokenizerError(f"the text cannot be encoded: {reason}") from None

    def num_beyond(self, text: str, most: int) -> int | None:
        """How many tokens a text has at least, if that is more than `most`; None if it is not.

        Found piece by piece, because encoding takes two hundred bytes a token. Raises: as `encode`.
        """
        if len(text) <= _PIECE_CHARACTERS:
            return None  # it takes no more memory than a piece
        count = 0
        for start in range(0, len(text), _PIECE_CHARACTERS):
            piece = self.encode(text[start : start + _PIECE_CHARACTERS], add_special_tokens=False)
            count += max(len(piece) - _SPARE_TOKENS, 0)
            if count > most:
                return count
        return None

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of a sequence of ids; ids outside the vocabulary add nothing, as in transformers.

        Raises: TokenizerError for a value that cannot be an id.
        """
        try:
            return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError, ValueError) as error:
            raise TokenizerError(f"token ids are non-negative integers: {error}") from None

    def detokenizer(
        self,
        *,
        skip_special_tokens: bool = True,
        visible_token_ids: frozenset[int] = frozenset(),
        is_begun: bool = False,
    ) -> IncrementalDetokenizer:
        """A new detokenizer for one streamed sequence.

        visible_token_ids: special tokens that are not skipped; is_begun: text stands before it, so that the space of a
        first word is kept.
        """
        return IncrementalDetokenizer(
            self._pieces,
            skip_special_tokens=skip_special_tokens,
            visible_token_ids=visible_token_ids,
            is_begun=is_begun,
        )

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text: perhaps part of a character. Empty for an unknown id."""
        return self._pieces.piece(token_id) or b""

    def shown_bytes(self, token_id: int) -> bytes:
        """The same; of a special token its own spelling."""
        return self.token_bytes(token_id) or (self.id_to_token(token_id) or "").encode()

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it ("Ġthe", "▁the", "<s>"), or None."""
        return self._tokenizer.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it, or None."""
        return self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, object]] | None = None,
        **variables: object,
    ) -> str:
        """The text of a conversation; `variables` are passed to the template (`date_string`, `enable_thinking`…).

        continue_final_message: it ends where the last message, an assistant's, does, so that the model goes on there.
        Raises: TokenizerError if the model has no chat template, or it refuses the messages.
        """
        template = self._tool_template if tools or self._chat_template is None else self._chat_template
        if template is None:
            raise TokenizerError(
                "this model has no chat template: instruction-tuned models (named -instruct, -chat or -it) have one; "
                "pass the prompt as a string, or add a chat_template.jinja to the model package"
            )
        return template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self._special_tokens(), **variables},
        )

    def template_variables(self, *, has_tools: bool = False) -> frozenset[str]:
        """The names that the chat template reads; has_tools: that of conversations with tools."""
        template = self._tool_template if has_tools or self._chat_template is None else self._chat_template
        return frozenset() if template is None else template.variables

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, object]] | None = None,
        **variables: object,
    ) -> list[int]:
        """The ids of a conversation. The template writes BOS itself where the model wants it: none is added again."""
        text = self.render_chat(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            **variables,
        )
        return self.encode(text, add_special_tokens=False)

    def _special_tokens(self) -> dict[str, str]:
        """The special tokens under the names that templates know; those the model lacks stay undefined."""
        eos = self.eos_token_ids[0] if self.eos_token_ids else None
        ids = {"bos_token": self.bos_token_id, "eos_token": eos, "pad_token": self.pad_token_id}
        tokens = {name: self.id_to_token(token_id) for name, token_id in ids.items() if token_id is not None}
        return {name: token for name, token in tokens.items() if token is not None}


def load_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """Read a `tokenizer.json`. Raises: TokenizerError if it is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TokenizerError(f"{path.parent} has no {path.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}") from None
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises plain Exception
        raise TokenizerError(f"{path} is not a tokenizer that this version of tokenizers reads: {error}") from None
