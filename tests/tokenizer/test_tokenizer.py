"""The tokenizer of a model package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from genai.errors import TokenizerError
from genai.tokenizer.gguf_tokenizer import tokenizer_from_gguf
from genai.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.vocabularies import TORTURE, byte_level_metadata, sentencepiece_metadata, tokenizer_of


@pytest.fixture
def tokenizer() -> Tokenizer:
    return tokenizer_of(tokenizer_from_gguf(byte_level_metadata()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer_from_gguf(byte_level_metadata()).save(tmp_path)
    return tmp_path


def load(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder, bos_token_id=1, eos_token_ids=(2, 0))


def test_a_package_folder_is_read(folder: Path) -> None:
    tokenizer = load(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids, tokenizer.pad_token_id) == (1, (2, 0), None)
    assert tokenizer.has_chat_template
    assert tokenizer.vocab_size == len(byte_level_metadata()["tokenizer.ggml.tokens"])
    assert tokenizer.token_to_id("<|im_end|>") == 2
    assert tokenizer.id_to_token(2) == "<|im_end|>"
    assert tokenizer.token_to_id("no such token") is None
    assert tokenizer.id_to_token(10**6) is tokenizer.id_to_token(-1) is None


def test_missing_and_damaged_files_are_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja cannot be read"):
        load(folder)
    (folder / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(TokenizerError, match="cannot be compiled"):
        load(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a tokenizer"):
        load(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        load(folder)


def test_ids_must_be_in_the_vocabulary(folder: Path) -> None:
    with pytest.raises(TokenizerError, match="eos token id 999999 is not in the vocabulary"):
        Tokenizer.from_folder(folder, bos_token_id=None, eos_token_ids=(2, 999_999))


def test_truncation_and_padding_of_training_are_off(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert len(load(folder).encode("abcdefgh")) == 8


@pytest.mark.parametrize("text", TORTURE)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_decode_takes_any_integers(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the")
    assert (
        tokenizer.decode(np.array(ids, np.int64))
        == tokenizer.decode(tuple(ids))
        == tokenizer.decode(iter(ids))
        == "the"
    )
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode([10**6, *ids]) == "the"


@pytest.mark.parametrize("ids", [[-1], [2**40], ["x"], [None], 3])
def test_decode_refuses_what_is_no_id(tokenizer: Tokenizer, ids: list) -> None:
    with pytest.raises(TokenizerError, match="non-negative integers"):
        tokenizer.decode(ids)


def test_encode_refuses_what_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="not list"):
        tokenizer.encode(["x"])
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode("a\ud800")


def test_text_that_spells_special_tokens_becomes_them(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_end|>", add_special_tokens=False) == [2]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "<|im_end|>"}]) == [1, 2, 2]


def test_a_chat_is_not_given_a_second_bos() -> None:
    files = tokenizer_from_gguf(
        byte_level_metadata(
            **{
                "tokenizer.ggml.add_bos_token": True,
                "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}",
            }
        )
    )
    tokenizer = tokenizer_of(files)
    chat = [{"role": "user", "content": "x"}]
    assert tokenizer.render_chat(chat) == "<|im_start|>x<|im_end|>"
    assert tokenizer.apply_chat_template(chat) == tokenizer.encode("x<|im_end|>")
    assert tokenizer.encode("x")[0] == 1


def test_variables_and_tools_reach_the_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ tools | length }}{{ mood }}{{ add_generation_prompt }}")
    chat = [{"role": "user", "content": "x"}]
    assert load(folder).render_chat(chat, tools=[{}, {}], mood="good", add_generation_prompt=False) == "2goodFalse"


def test_without_a_chat_template_the_error_says_what_to_do(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    tokenizer = load(folder)
    assert not tokenizer.has_chat_template
    with pytest.raises(TokenizerError, match="pass the prompt as a string"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}])


def test_the_bytes_of_a_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(tokenizer.token_to_id("ðŁĹ")) == b"\xf0\x9f\x97"
    assert tokenizer.token_bytes(2) == b"<|im_end|>"
    assert tokenizer.token_bytes(10**6) == b""
    sentencepiece = tokenizer_of(tokenizer_from_gguf(sentencepiece_metadata(has_dummy_prefix=True)))
    assert sentencepiece.token_bytes(sentencepiece.token_to_id("<0xE4>")) == b"\xe4"
    assert sentencepiece.token_bytes(sentencepiece.token_to_id("▁the")) == b" the"


def test_saving_without_a_template_removes_an_old_one(folder: Path) -> None:
    metadata = byte_level_metadata()
    del metadata["tokenizer.chat_template"]
    tokenizer_from_gguf(metadata).save(folder)
    assert not (folder / "chat_template.jinja").exists()


def test_a_text_is_counted_only_until_it_is_too_long(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "word and more " * 60_000
    whole = len(tokenizer.encode(text))
    assert tokenizer.num_beyond(text, whole) is None
    encoded: list[int] = []
    encode = Tokenizer.encode

    def counted(self: Tokenizer, piece: str, *, add_special_tokens: bool = True) -> list[int]:
        encoded.append(len(piece))
        return encode(self, piece, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(Tokenizer, "encode", counted)
    beyond = tokenizer.num_beyond(text, 1000)
    assert beyond is not None
    assert 1000 < beyond <= whole
    assert sum(encoded) < len(text) / 3
    assert tokenizer.num_beyond(text[:1000], 1) is None, "it takes no more memory than a piece"
