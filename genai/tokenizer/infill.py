"""Text into a gap: the prompt of models that were taught to fill in the middle, from their own tokens.

    <fim_prefix> … before the gap … <fim_suffix> … behind it … <fim_middle>

Source: "Efficient Training of Language Models to Fill in the Middle" (arXiv 2207.14255), the PSM order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genai.errors import ConfigError

if TYPE_CHECKING:
    from genai.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Marks:
    """The tokens of a family; repository and file begin what other files say, where the family has such tokens."""

    prefix: str
    suffix: str
    middle: str
    repository: str = ""
    file: str = ""


_FAMILIES = (
    _Marks("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"),  # Qwen
    _Marks("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "", "<|file_separator|>"),  # CodeGemma
    _Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<repo_name>", "<file_sep>"),  # StarCoder 2
    _Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    _Marks("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    _Marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    _Marks("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
)

_PADDING = "<|fim_pad|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherFile:
    """What else is known: a file's name and text."""

    name: str
    text: str


def infill_prompt(tokenizer: Tokenizer, before: str, behind: str, others: Sequence[OtherFile] = ()) -> list[int]:
    """The prompt whose continuation is what stands between two texts. Raises: ConfigError."""
    marks = _marks_of(tokenizer)
    told = _told(tokenizer, marks, others)
    return [
        *told,
        *_ids(tokenizer, marks.prefix, before),
        *_ids(tokenizer, marks.suffix, behind),
        *_ids(tokenizer, marks.middle, ""),
    ]


def infill_ends(tokenizer: Tokenizer) -> list[int]:
    """Tokens beside the model's own ends that say that the gap is filled. Raises: ConfigError."""
    marks = _marks_of(tokenizer)
    ends = (marks.file, marks.repository, marks.prefix, _PADDING)
    return [token for end in ends if end and (token := tokenizer.token_to_id(end)) is not None]


def _marks_of(tokenizer: Tokenizer) -> _Marks:
    for marks in _FAMILIES:
        if _has(tokenizer, marks):
            return marks
    raise ConfigError("the model was not taught to fill in the middle: its vocabulary has no tokens for it")


def _has(tokenizer: Tokenizer, marks: _Marks) -> bool:
    wanted = (marks.prefix, marks.suffix, marks.middle, marks.repository, marks.file)
    return all(tokenizer.token_to_id(token) is not None for token in wanted if token)


def _ids(tokenizer: Tokenizer, mark: str, text: str) -> list[int]:
    token = tokenizer.token_to_id(mark)
    assert token is not None, "the family was chosen by its tokens"
    return [token, *tokenizer.encode(text, add_special_tokens=False)]


def _told(tokenizer: Tokenizer, marks: _Marks, others: Sequence[OtherFile]) -> list[int]:
    """Other files, in front of the one with the gap."""
    if not others:
        return []
    if not marks.file:
        text = "".join(f"{other.text}\n\n" for other in others)
        return tokenizer.encode(text, add_special_tokens=False)
    ids = _ids(tokenizer, marks.repository, "repository\n") if marks.repository else []
    for other in others:
        ids += _ids(tokenizer, marks.file, f"{other.name}\n{other.text}\n")
    return ids + _ids(tokenizer, marks.file, "filename\n")
