"""What one token adds to a text, as UTF-8 bytes, without decoding its neighbours.

Nearly every language model's tokenizer decodes in one of two ways, which are read here token by token:

    byte-level BPE     every character of a token stands for one byte (GPT-2's alphabet)
    SentencePiece-like "▁" is a space, "<0xE4>" is a byte, and the text may lose one leading space

For any other decoder the tokenizer itself is asked, with a plain token in front where the text has begun.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import tokenizers

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: a printable character for each byte (openai/gpt-2, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


class TokenPieces:
    """The bytes of every token of one tokenizer, found when first asked for and kept."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes_of = _reader(tokenizer)
        self._cache: dict[int, bytes | None] = {}
        self.special_ids = frozenset(
            token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special
        )
        """Tokens that are left out of the text when special tokens are skipped."""

    def piece(self, token_id: int) -> bytes | None:
        """The bytes that the token adds to a text that has begun; None if there is no such token."""
        if token_id not in self._cache:
            self._cache[token_id] = self._find(token_id, is_first=False)
        return self._cache[token_id]

    def first_piece(self, token_id: int) -> bytes | None:
        """The bytes of a token that begins a text, perhaps without its leading space; None if there is no such."""
        return self._find(token_id, is_first=True)

    def _find(self, token_id: int, *, is_first: bool) -> bytes | None:
        token = self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return None if token is None else self._bytes_of(token_id, token, is_first)


_Reader = Callable[[int, str, bool], bytes]


def _reader(tokenizer: tokenizers.Tokenizer) -> _Reader:
    steps = _decoder_steps(tokenizer)
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level_reader()
    if _is_sentencepiece_like(steps):
        replaced = [_replacement(step) for step in steps if step["type"] == "Replace"]
        return _sentencepiece_reader(cast("list[tuple[str, str]]", replaced), strips="Strip" in kinds)
    return _asking_reader(tokenizer)


def _byte_level_reader() -> _Reader:
    alphabet = byte_alphabet()

    def read(token_id: int, token: str, is_first: bool) -> bytes:
        try:
            return bytes([alphabet[character] for character in token])
        except KeyError:  # an added token, spelled as it reads
            return token.encode()

    return read


def _sentencepiece_reader(replaced: Sequence[tuple[str, str]], *, strips: bool) -> _Reader:
    def read(token_id: int, token: str, is_first: bool) -> bytes:
        for old, new in replaced:
            token = token.replace(old, new)
        byte = _BYTE_TOKEN.fullmatch(token)
        data = bytes([int(byte[1], 16)]) if byte else token.encode()
        return data.removeprefix(b" ") if strips and is_first else data

    return read


def _asking_reader(tokenizer: tokenizers.Tokenizer) -> _Reader:
    plain = _plain_token(tokenizer)
    begun = "" if plain is None else tokenizer.decode([plain], skip_special_tokens=False)

    def read(token_id: int, token: str, is_first: bool) -> bytes:
        if is_first or plain is None:
            return tokenizer.decode([token_id], skip_special_tokens=False).encode()
        return tokenizer.decode([plain, token_id], skip_special_tokens=False)[len(begun) :].encode()

    return read


def _plain_token(tokenizer: tokenizers.Tokenizer) -> int | None:
    """A token that decodes to letters only, so that text after it is text that has begun."""
    added = tokenizer.get_added_tokens_decoder()
    for token_id in range(tokenizer.get_vocab_size()):
        if token_id not in added and tokenizer.decode([token_id], skip_special_tokens=False).isalpha():
            return token_id
    return None


def _decoder_steps(tokenizer: tokenizers.Tokenizer) -> list[Mapping[str, object]]:
    """The decoder's own description (its pickled state, which is JSON), with sequences flattened."""
    if tokenizer.decoder is None:
        return []
    state = json.loads(tokenizer.decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    return cast("list[Mapping[str, object]]", steps)


def _is_sentencepiece_like(steps: Sequence[Mapping[str, object]]) -> bool:
    """Replace…, ByteFallback, Fuse and perhaps Strip of one leading space, in this order."""
    kinds = [str(step.get("type")) for step in steps]
    replaces = kinds.count("Replace")
    if not all(_replacement(step) for step in steps[:replaces]):
        return False
    rest = kinds[replaces:]
    if rest[:2] != ["ByteFallback", "Fuse"] or len(rest) > 3:
        return False
    last = steps[-1]
    return len(rest) == 2 or (
        last.get("type") == "Strip" and (last.get("content"), last.get("start"), last.get("stop")) == (" ", 1, 0)
    )


def _replacement(step: Mapping[str, object]) -> tuple[str, str] | None:
    pattern, content = step.get("pattern"), step.get("content")
    if step.get("type") != "Replace" or not isinstance(pattern, Mapping) or not isinstance(content, str):
        return None
    old = pattern.get("String")
    return (old, content) if isinstance(old, str) else None
