"""Streamed text equals the whole text, for every kind of decoder; and what `DecodeStream` would do instead."""

from __future__ import annotations

import codecs
import time
from functools import cache

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from genai.tokenizer.detokenizer import IncrementalDetokenizer
from genai.tokenizer.gguf_tokenizer import tokenizer_from_gguf
from genai.tokenizer.token_pieces import TokenPieces, byte_alphabet
from tests.tokenizer.vocabularies import TORTURE, byte_level_metadata, sentencepiece_metadata


@cache
def byte_level() -> tokenizers.Tokenizer:
    return tokenizer_from_gguf(byte_level_metadata()).tokenizer


@cache
def sentencepiece(has_prefix: bool) -> tokenizers.Tokenizer:
    return tokenizer_from_gguf(sentencepiece_metadata(has_dummy_prefix=has_prefix)).tokenizer


@cache
def pieces(tokenizer: tokenizers.Tokenizer) -> TokenPieces:
    return TokenPieces(tokenizer)


def streamed(tokenizer: tokenizers.Tokenizer, ids: list[int], *, skip: bool = True) -> list[str]:
    detokenizer = IncrementalDetokenizer(pieces(tokenizer), skip_special_tokens=skip)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.finish()]


@given(ids=st.lists(st.integers(0, 280), max_size=30), skip=st.booleans())
def test_byte_level_equals_decode_for_any_ids(ids: list[int], skip: bool) -> None:
    tokenizer = byte_level()
    assert "".join(streamed(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(ids=st.lists(st.integers(0, 700), max_size=30), skip=st.booleans(), has_prefix=st.booleans())
def test_sentencepiece_equals_decode_where_bytes_are_characters(ids: list[int], skip: bool, has_prefix: bool) -> None:
    tokenizer = sentencepiece(has_prefix)
    expected = tokenizer.decode(ids, skip_special_tokens=skip)
    if "\ufffd" not in expected:
        assert "".join(streamed(tokenizer, ids, skip=skip)) == expected


def test_the_space_of_a_first_word_is_kept_behind_a_text() -> None:
    tokenizer = sentencepiece(True)
    ids = tokenizer.encode("a", add_special_tokens=False).ids
    assert tokenizer.decode(ids) == "a", "a text of its own begins without"
    detokenizer = IncrementalDetokenizer(pieces(tokenizer), is_begun=True)
    assert "".join(map(detokenizer.push, ids)) == " a"


@given(st.text(max_size=30))
def test_any_text_comes_back(text: str) -> None:
    for tokenizer in (byte_level(), sentencepiece(False), sentencepiece(True)):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert "".join(streamed(tokenizer, ids, skip=False)) == tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", TORTURE)
def test_no_chunk_holds_half_a_character(text: str) -> None:
    text = text.replace("\ufffd", "")
    for tokenizer in (byte_level(), sentencepiece(False)):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        chunks = streamed(tokenizer, ids, skip=False)
        assert not any("\ufffd" in chunk for chunk in chunks)
        assert "".join(chunks) == (text if tokenizer is byte_level() else text.replace("▁", " "))


def test_a_character_is_shown_as_soon_as_it_is_complete() -> None:
    tokenizer = byte_level()
    ids = [tokenizer.token_to_id(piece) for piece in ("h", "ðŁĹ", "£", "x")]  # U+1F5E3 is F0 9F 97 A3
    assert streamed(tokenizer, ids) == ["h", "", "🗣", "x", ""]


def test_an_incomplete_character_at_the_end_is_not_lost() -> None:
    tokenizer = byte_level()
    ids = [tokenizer.token_to_id(piece) for piece in ("h", "ðŁ")]
    assert streamed(tokenizer, ids) == ["h", "", "\ufffd"]


def test_wrong_bytes_do_not_hold_the_text_back() -> None:
    tokenizer = byte_level()
    start = time.monotonic()
    chunks = streamed(tokenizer, [tokenizer.token_to_id("ÿ")] * 20_000)  # the byte FF
    assert chunks[0] == "\ufffd"
    assert "".join(chunks) == "\ufffd" * 20_000
    assert time.monotonic() - start < 5


def test_characters_that_were_complete_stay_when_a_byte_after_them_is_wrong() -> None:
    tokenizer = sentencepiece(False)
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in (0xE4, 0xBD, 0xA0, 0xFF)]
    assert "".join(streamed(tokenizer, ids)) == "你\ufffd"
    assert tokenizer.decode(ids) == "\ufffd" * 4  # the whole run of bytes; nothing shown can be taken back


def test_the_leading_space_is_dropped_once() -> None:
    tokenizer = sentencepiece(True)
    space, bos = tokenizer.token_to_id("▁"), tokenizer.token_to_id("<s>")
    assert "".join(streamed(tokenizer, [bos, space, space, bos, space])) == "  "
    assert "".join(streamed(sentencepiece(False), [space, space])) == "  "


def test_unknown_ids_add_nothing() -> None:
    assert streamed(byte_level(), [10**6, -1, 2**40]) == ["", "", "", ""]


def test_finish_begins_anew() -> None:
    tokenizer = sentencepiece(True)
    detokenizer = IncrementalDetokenizer(pieces(tokenizer))
    ids = tokenizer.encode("the", add_special_tokens=False).ids
    for _ in range(2):
        assert "".join(map(detokenizer.push, ids)) + detokenizer.finish() == "the"


def word_tokenizer(decoder: decoders.Decoder | None, words: list[str]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, "[UNK]"))
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


OTHERS = [
    (decoders.WordPiece(cleanup=False), ["[UNK]", "hello", "world", "##ing", "##s", "."]),
    (decoders.Metaspace(), ["[UNK]", "▁hello", "▁", "world", "▁▁x", "é"]),
    (decoders.Metaspace(prepend_scheme="never"), ["[UNK]", "▁hello", "▁", "world", "▁▁x", "é"]),
    (decoders.Sequence([decoders.ByteLevel()]), ["[UNK]", "Ġhello", "Ã", "©", "!"]),
    (decoders.Sequence([decoders.Replace("_", " "), decoders.Fuse()]), ["[UNK]", "_hello", "_", "you"]),
    (None, ["[UNK]", "hello", "world"]),
]


@given(which=st.sampled_from(range(len(OTHERS))), picks=st.lists(st.integers(0, 5), max_size=12))
def test_other_decoders_equal_decode(which: int, picks: list[int]) -> None:
    decoder, words = OTHERS[which]
    tokenizer = word_tokenizer(decoder, words)
    ids = [pick % len(words) for pick in picks]
    detokenizer = IncrementalDetokenizer(TokenPieces(tokenizer))
    assert "".join(map(detokenizer.push, ids)) + detokenizer.finish() == tokenizer.decode(ids)


def decode_stream(tokenizer: tokenizers.Tokenizer, ids: list[int]) -> str:
    stream = decoders.DecodeStream(skip_special_tokens=True)
    return "".join(stream.step(tokenizer, token_id) or "" for token_id in ids)


def test_why_not_decode_stream() -> None:
    """When one of these fails, `tokenizers` has improved, and our own detokenizer may go."""
    byte, sp = byte_level(), sentencepiece(False)
    incomplete = [byte.token_to_id(piece) for piece in ("h", "ðŁ")]
    assert decode_stream(byte, incomplete) != byte.decode(incomplete)  # no way to finish
    wrong = [sp.token_to_id(f"<0x{value:02X}>") for value in (0xE4, 0xBD, 0xA0, 0xFF)] + [sp.token_to_id("the")]
    try:
        text = decode_stream(sp, wrong)
    except Exception as error:  # "Invalid prefix encountered"
        text = str(error)
    assert "你\ufffdthe" not in text


def test_python_and_rust_agree_on_what_is_one_wrong_character() -> None:
    """Byte-level equality rests on this: both replace maximal subparts (Unicode 3.9, U+FFFD substitution)."""
    data = b"\xf0\x9f\x92 \xe4\xbd\xe4 \xc0\xaf \xed\xa0\x80 \xf4\x90\x80\x80 \xf0\x80"
    alphabet = {byte: character for character, byte in byte_alphabet().items()}
    tokenizer = byte_level()
    ids = [tokenizer.token_to_id(alphabet[byte]) for byte in data]
    assert tokenizer.decode(ids) == codecs.decode(data, "utf-8", "replace")
