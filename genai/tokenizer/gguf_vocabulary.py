"""A GGUF file's tokenizer metadata, checked: what leaves here has the right types, lengths and ranges.

The keys are described in ggml's docs/gguf.md; defaults for absent keys are llama.cpp's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from numbers import Integral

from genai.errors import TokenizerError

MAX_TOKEN_LENGTH = 4096
"""Longest token, in characters; real ones have up to a few hundred."""
_NO_TOKEN = 0xFFFF_FFFF  # llama.cpp's LLAMA_TOKEN_NULL (-1), written as uint32


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufVocabulary:
    """The vocabulary as the file gives it.

    tokens, types: one for each id; tokens are distinct and not empty.
    scores: one for each id, or None; merges: pairs in the order of their rank, or None.
    special_ids: "bos", "eos", "eot", "eom", "unknown", "padding", as far as the file names them.
    flags: "add_bos_token", "add_eos_token", "add_space_prefix", likewise.
    """

    model: str
    pre: str
    architecture: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[tuple[str, str]] | None
    special_ids: Mapping[str, int]
    flags: Mapping[str, bool]
    chat_template: str | None
    tool_template: str | None

    @classmethod
    def read(cls, metadata: Mapping[str, object]) -> GgufVocabulary:
        """Read a file's key-value pairs. Raises: TokenizerError, naming the key that is wrong."""
        tokens = _tokens(metadata)
        return cls(
            model=_text(metadata, "tokenizer.ggml.model"),
            pre=_text(metadata, "tokenizer.ggml.pre", "default"),
            architecture=_text(metadata, "general.architecture", ""),
            tokens=tokens,
            types=_types(metadata, len(tokens)),
            scores=_scores(metadata, len(tokens)),
            merges=_merges(metadata, tokens),
            special_ids=_special_ids(metadata, len(tokens)),
            flags=_flags(metadata),
            chat_template=_optional_text(metadata, "tokenizer.chat_template"),
            tool_template=_optional_text(metadata, "tokenizer.chat_template.tool_use"),
        )


def _tokens(metadata: Mapping[str, object]) -> list[str]:
    key = "tokenizer.ggml.tokens"
    found = _strings(metadata, key)
    if not found:
        raise TokenizerError(f"{key} is missing or empty: this file holds no tokenizer")
    tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(found)]
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if len(token) > MAX_TOKEN_LENGTH:
            raise TokenizerError(f"{key}: token {number} has {len(token)} characters (limit {MAX_TOKEN_LENGTH})")
        if seen.setdefault(token, number) != number:
            raise TokenizerError(f"{key}: tokens {seen[token]} and {number} are the same: {token!r}")
    return tokens


def _types(metadata: Mapping[str, object], count: int) -> list[int]:
    key = "tokenizer.ggml.token_type"
    if key not in metadata:
        return [int(TokenType.NORMAL)] * count
    types = [_whole(value, key) for value in _numbers(metadata, key, count)]
    known = {int(kind) for kind in TokenType}
    for number, kind in enumerate(types):
        if kind not in known:
            raise TokenizerError(f"{key}: token {number} has the unknown type {kind}; known: 0 to {max(known)}")
    return types


def _scores(metadata: Mapping[str, object], count: int) -> list[float] | None:
    key = "tokenizer.ggml.scores"
    if key not in metadata:
        return None
    scores = []
    for number, value in enumerate(_numbers(metadata, key, count)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TokenizerError(f"{key}: the score of token {number} is {value!r}, not a finite number")
        scores.append(float(value))
    return scores


def _merges(metadata: Mapping[str, object], tokens: Sequence[str]) -> list[tuple[str, str]] | None:
    key = "tokenizer.ggml.merges"
    if key not in metadata:
        return None
    known = set(tokens)
    pairs: dict[tuple[str, str], int] = {}
    for number, merge in enumerate(_strings(metadata, key)):
        cut = merge.find(" ", 1)  # a left half may itself begin with a space
        if cut < 0 or cut + 1 == len(merge):
            raise TokenizerError(f"{key}: merge {number} is {merge[:80]!r}, not two tokens with a space between")
        left, right = merge[:cut], merge[cut + 1 :]
        for token in (left, right, left + right):
            if token not in known:
                raise TokenizerError(f"{key}: merge {number} is {merge[:80]!r}, but {token[:80]!r} is no token")
        pairs.setdefault((left, right), number)
    return list(pairs)


def _special_ids(metadata: Mapping[str, object], count: int) -> dict[str, int]:
    found = {}
    for name in ("bos", "eos", "eot", "eom", "unknown", "padding"):
        key = f"tokenizer.ggml.{name}_token_id"
        if key not in metadata:
            continue
        token_id = _whole(metadata[key], key)
        if token_id in {-1, _NO_TOKEN}:
            continue
        if not 0 <= token_id < count:
            raise TokenizerError(f"{key} is {token_id}, but the vocabulary has {count} tokens")
        found[name] = token_id
    return found


def _flags(metadata: Mapping[str, object]) -> dict[str, bool]:
    found = {}
    for name in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        value = metadata.get(f"tokenizer.ggml.{name}")
        if value is None:
            continue
        if not isinstance(value, bool):
            raise TokenizerError(f"tokenizer.ggml.{name} is {_shown(value)}, not true or false")
        found[name] = value
    return found


def _text(metadata: Mapping[str, object], key: str, default: str | None = None) -> str:
    value = metadata.get(key, default)
    if value is None:
        raise TokenizerError(f"{key} is missing: this file holds no tokenizer")
    if not isinstance(value, str):
        raise TokenizerError(f"{key} is {_shown(value)}, not a string")
    return _encodable(value, key)


def _optional_text(metadata: Mapping[str, object], key: str) -> str | None:
    return _text(metadata, key) if key in metadata else None


def _strings(metadata: Mapping[str, object], key: str) -> list[str]:
    values = _list(metadata.get(key, []), key)
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise TokenizerError(f"{key}: element {number} is {_shown(value)}, not a string")
        _encodable(value, f"{key}: element {number}")
    return [value for value in values if isinstance(value, str)]


def _numbers(metadata: Mapping[str, object], key: str, count: int) -> list[object]:
    values = _list(metadata[key], key)
    if len(values) != count:
        raise TokenizerError(f"{key} has {len(values)} elements, but there are {count} tokens")
    return values


def _list(value: object, key: str) -> list[object]:
    """A list from a list, a tuple or a one-dimensional NumPy array."""
    to_list = getattr(value, "tolist", None)
    values = to_list() if callable(to_list) else value
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise TokenizerError(f"{key} is {_shown(value)}, not a list")
    return list(values)


def _whole(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Integral):
        raise TokenizerError(f"{key} holds {_shown(value)}, not a whole number")
    return int(value)


def _encodable(text: str, place: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TokenizerError(f"{place} is not valid Unicode: {text[:80]!r}") from None
    return text


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, int | float | str | None) else ""
    return f"{type(value).__name__} {text[:80]}".rstrip()
