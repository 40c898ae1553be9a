"""GGUF metadata to tokenizer: held against SentencePiece, the originals of byte-level models, and damaged metadata."""

from __future__ import annotations

import re
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from genai.errors import TokenizerError, UnsupportedModelError, WeightsError
from genai.tokenizer.gguf_tokenizer import merges_from_scores, tokenizer_from_gguf
from genai.tokenizer.gguf_vocabulary import TokenType
from genai.tokenizer.pre_tokenizers import pre_tokenizer, supported
from genai.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.vocabularies import (
    TORTURE,
    byte_level_metadata,
    sentencepiece_metadata,
    sentencepiece_model,
    tokenizer_of,
)


def build(metadata: dict[str, object]) -> Tokenizer:
    return tokenizer_of(tokenizer_from_gguf(metadata))


# --- byte-level BPE


@pytest.mark.parametrize("name", sorted(supported()))
def test_every_pre_tokenizer_keeps_the_text(name: str) -> None:
    tokenizer = build(byte_level_metadata(**{"tokenizer.ggml.pre": name, "tokenizer.ggml.add_bos_token": False}))
    is_nfc = pre_tokenizer(name).is_nfc
    for text in (normalize("NFC", text) if is_nfc else text for text in TORTURE):
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gpt-2", "I've 1234  x\n\n", ["I", "'ve", "Ġ1234", "Ġ", "Ġx", "ĊĊ"]),
        ("smollm", "x 12 3", ["x", "Ġ", "1", "2", "Ġ", "3"]),
        ("llama-bpe", "I'VE 12345\r\n\r\n x", ["I", "'VE", "Ġ", "123", "45", "čĊčĊ", "Ġx"]),
        ("qwen2", "I'VE 123!\n", ["I", "'VE", "Ġ", "1", "2", "3", "!Ċ"]),
        ("qwen35", "e\u0323x", ["eÌ£x"]),
        ("qwen2", "e\u0323x", ["e", "Ì£x"]),
        ("tekken", "CamelCASEWord/\n", ["Camel", "CASEWord", "/Ċ"]),
        ("gpt-4o", "CamelCase's 1234", ["Camel", "Case's", "Ġ", "123", "4"]),
        ("falcon", "a$b 12345", ["a", "$", "b", "Ġ", "123", "45"]),
        ("falcon", "x 12 м", ["x", "Ġ", "12", "ĠÐ", "¼"]),
        ("default", "a.b 12345", ["a", ".", "b", "Ġ", "123", "45"]),
        ("deepseek-llm", "hi 你好12", ["hi", "Ġ", "ä½łå¥½", "12"]),
        ("deepseek-coder", "hi 12", ["hi", "Ġ", "1", "2"]),
        ("deepseek-v3", "hi 1234你", ["hi", "Ġ", "123", "4", "ä½ł"]),
        ("bloom", "hi, you", ["hi", ",", "Ġyou"]),
        ("viking", "hi 12", ["hi", "Ġ", "1", "2"]),
        ("seed-coder", "a!\n", ["a", "!", "Ċ"]),
        ("tiny_aya", "a 1234567", ["a", "Ġ", "1", "234", "567"]),
        ("kimi-k2", "hi你好Bob 1234", ["hi", "ä½łå¥½", "Bob", "Ġ", "123", "4"]),
        ("youtu", "hi你好 12", ["hi", "ä½łå¥½", "Ġ", "1", "2"]),
    ],
)
def test_how_text_is_cut(name: str, text: str, words: list[str]) -> None:
    assert [word for word, _ in pre_tokenizer(name).build().pre_tokenize_str(text)] == words


def test_smollm_is_cut_as_its_own_tokenizer_json_says() -> None:
    original = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    ours = pre_tokenizer("smollm").build()
    for text in TORTURE:
        assert ours.pre_tokenize_str(text) == original.pre_tokenize_str(text)


def test_byte_level_merges() -> None:
    tokenizer = build(byte_level_metadata())
    ids = tokenizer.encode(" the té 🗣")
    assert [tokenizer.id_to_token(token_id) for token_id in ids] == ["Ġthe", "Ġt", "Ã©", "Ġ", "ðŁĹ", "£"]


def test_ignore_merges_keeps_a_token_whole_that_no_merge_makes() -> None:
    metadata = byte_level_metadata()
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "xyz"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 1]
    metadata["tokenizer.ggml.add_bos_token"] = False
    assert len(build(metadata).encode("xyz")) == 3
    assert len(build(metadata | {"tokenizer.ggml.pre": "llama-bpe"}).encode("xyz")) == 1


def test_an_unknown_pre_tokenizer_is_named_with_the_supported_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'klingon'.*command-r.*gpt-2.*qwen2"):
        tokenizer_from_gguf(byte_level_metadata(**{"tokenizer.ggml.pre": "klingon"}))


@pytest.mark.parametrize(
    ("model", "what"),
    [("klingon", "'klingon' \\(tok"), ("rwkv", "of RWKV"), ("bert", "WordPiece, of encoders"), ("t5", "unigrams")],
)
def test_an_unknown_model_is_named_with_the_supported_ones(model: str, what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"'{model}'.*gpt2, llama") as caught:
        tokenizer_from_gguf(byte_level_metadata(**{"tokenizer.ggml.model": model}))
    assert re.search(what, str(caught.value))


# --- special tokens


def test_control_and_user_defined_tokens() -> None:
    tokenizer = build(byte_level_metadata())
    assert tokenizer.encode("<|im_start|>x<tool é><|im_end|>")[::2] == [1, 3]
    added = tokenizer.backend.get_added_tokens_decoder()
    assert {token_id: token.special for token_id, token in added.items()} == {0: True, 1: True, 2: True, 3: False}
    assert tokenizer.decode([1, 3, 2]) == "<tool é>"


def test_special_ids_and_end_tokens() -> None:
    files = tokenizer_from_gguf(byte_level_metadata())
    assert (files.bos_token_id, files.eos_token_ids, files.pad_token_id) == (1, (2, 0), None)
    named = byte_level_metadata(
        **{"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": 2, "tokenizer.ggml.padding_token_id": 0}
    )
    assert tokenizer_from_gguf(named).eos_token_ids == (0, 2)
    assert tokenizer_from_gguf(named).pad_token_id == 0


def test_an_ordinary_token_named_for_padding_stays_visible() -> None:
    tokenizer = build(byte_level_metadata(**{"tokenizer.ggml.padding_token_id": 4}))
    assert tokenizer.decode([4]) == tokenizer.id_to_token(4) == "!"


@pytest.mark.parametrize("kind", [TokenType.NORMAL, TokenType.UNUSED, TokenType.UNDEFINED])
def test_end_tokens_of_another_type_end_and_are_one_token(kind: int) -> None:
    """llama.cpp overrides the type of what looks like one of them."""
    tokens = byte_level_metadata()["tokenizer.ggml.tokens"]
    types = [int(kind), 3, int(kind), 4] + [1] * (len(tokens) - 4)
    metadata = byte_level_metadata(**{"tokenizer.ggml.token_type": types, "tokenizer.ggml.eos_token_id": 1})
    assert tokenizer_from_gguf(metadata).eos_token_ids == (1, 0, 2)
    tokenizer = build(metadata)
    assert tokenizer.encode("a<|im_end|><|endoftext|>")[-2:] == [2, 0]
    assert tokenizer.decode([2, 0]) == ""


def test_end_tokens_of_a_file_without_types_end() -> None:
    metadata = byte_level_metadata()
    del metadata["tokenizer.ggml.token_type"]
    assert tokenizer_from_gguf(metadata).eos_token_ids == (2, 0)
    assert build(metadata).encode("<|im_end|>") == [2]


@pytest.mark.parametrize(
    ("pair", "ends"),
    [
        (("<|return|>", "<|call|>"), (0, 1)),
        (("<|calls|>", "<|flush|>"), (0, 1)),
        (("<|call|>", "<|flush|>"), (0, 1)),
        (("<|return|>", "<|flush|>"), (0, 1, 2)),
    ],
)
def test_harmony_end_of_message_is_not_the_end(pair: tuple[str, str], ends: tuple[int, ...]) -> None:
    tokens = [*pair, "<|end|>", *byte_level_metadata()["tokenizer.ggml.tokens"][3:]]
    metadata = byte_level_metadata(**{"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": 0})
    assert tokenizer_from_gguf(metadata).eos_token_ids == ends
    del metadata["tokenizer.ggml.token_type"]
    assert build(metadata).encode("<|end|>") == [2], "one token all the same"


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (True, False), (False, True), (False, False)])
def test_bos_and_eos_around_a_text(bos: bool, eos: bool) -> None:
    flags = {"tokenizer.ggml.add_bos_token": bos, "tokenizer.ggml.add_eos_token": eos}
    tokenizer = build(byte_level_metadata(**flags))
    assert tokenizer.encode("") == [1] * bos + [2] * eos
    assert tokenizer.encode("", add_special_tokens=False) == []


def test_bos_defaults_follow_the_kind() -> None:
    assert build(byte_level_metadata()).encode("") == []
    assert build(byte_level_metadata(**{"tokenizer.ggml.pre": "llama-bpe"})).encode("") == [1]
    assert build(sentencepiece_metadata(has_dummy_prefix=True)).encode("") == [1]


def test_bos_that_is_asked_for_must_exist() -> None:
    metadata = byte_level_metadata(**{"tokenizer.ggml.add_bos_token": True})
    del metadata["tokenizer.ggml.bos_token_id"]
    with pytest.raises(TokenizerError, match="bos_token_id is missing"):
        tokenizer_from_gguf(metadata)


def test_phi3_tokens_swallow_white_space_after_them() -> None:
    metadata = sentencepiece_metadata(has_dummy_prefix=True)
    tokens = [*metadata["tokenizer.ggml.tokens"], "<|user|>"]
    metadata |= {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [*metadata["tokenizer.ggml.scores"], 0.0],
        "tokenizer.ggml.token_type": [*metadata["tokenizer.ggml.token_type"], 3],
    }
    plain, user = build(metadata), len(tokens) - 1
    for arch in ("phi3", "phimoe"):
        assert build(metadata | {"general.architecture": arch}).encode("<|user|>\n") == [1, user]
    assert len(plain.encode("<|user|>\n")) > 2


# --- SentencePiece


@pytest.mark.parametrize("has_prefix", [True, False])
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.sampled_from(TORTURE),
        st.text(alphabet="theshlsanb  x,[]=12\n▁你éя🙂", max_size=60),
        st.text(max_size=20),
    )
)
def test_sentencepiece_ids_are_sentencepieces(has_prefix: bool, text: str) -> None:
    import sentencepiece

    if "<s>" in text or "</s>" in text or "<unk>" in text:
        return  # spelled control tokens become control tokens, as in transformers; SentencePiece reads them as text
    oracle = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(has_dummy_prefix=has_prefix))
    tokenizer = build_sentencepiece(has_prefix)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == oracle.encode(text)
    assert tokenizer.decode(ids) == oracle.decode(ids)


_built: dict[bool, Tokenizer] = {}


def build_sentencepiece(has_prefix: bool) -> Tokenizer:
    if has_prefix not in _built:
        _built[has_prefix] = build(sentencepiece_metadata(has_dummy_prefix=has_prefix))
    return _built[has_prefix]


def test_user_defined_runs_of_spaces_are_found_longest_first() -> None:
    metadata = sentencepiece_metadata(has_dummy_prefix=False)
    extra = ["  ", "    ", "\n\n"]
    metadata |= {
        "tokenizer.ggml.tokens": [*metadata["tokenizer.ggml.tokens"], *extra],
        "tokenizer.ggml.scores": [*metadata["tokenizer.ggml.scores"], *[-1000.0] * 3],
        "tokenizer.ggml.token_type": [*metadata["tokenizer.ggml.token_type"], 4, 4, 4],
    }
    tokenizer = build(metadata)
    two, four, lines = range(tokenizer.vocab_size - 3, tokenizer.vocab_size)
    ids = tokenizer.encode("      \n\n    x", add_special_tokens=False)
    assert ids[:4] == [four, two, lines, four]
    assert tokenizer.decode(ids) == "      \n\n    x"
    assert tokenizer.encode("▁ ", add_special_tokens=False) == [two]


def test_merges_are_all_ways_to_make_a_piece_best_first() -> None:
    merges = merges_from_scores(["a", "b", "ab", "aba", "<s>"], [1, 1, 1, 1, 3], [0.0, 0.0, -2.0, -1.0, 0.0])
    assert merges == [("ab", "a"), ("a", "b")]


def test_merges_in_the_file_are_used_where_there_are_no_scores() -> None:
    metadata = sentencepiece_metadata(has_dummy_prefix=False)
    tokens, types, scores = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores"))
    merges = [" ".join(pair) for pair in merges_from_scores(tokens, types, scores)]
    given_merges = metadata | {"tokenizer.ggml.merges": merges, "tokenizer.ggml.model": "gemma4"}
    for text in TORTURE:
        assert build(given_merges).encode(text) == build_sentencepiece(False).encode(text)


# --- the files


def test_saved_files_give_the_same_tokenizer(tmp_path: Path) -> None:
    for metadata in (byte_level_metadata(), sentencepiece_metadata(has_dummy_prefix=True)):
        files = tokenizer_from_gguf(metadata)
        files.save(tmp_path)
        loaded = Tokenizer.from_folder(
            tmp_path, bos_token_id=files.bos_token_id, eos_token_ids=files.eos_token_ids, pad_token_id=None
        )
        assert loaded.has_chat_template == (files.chat_template is not None)
        for text in TORTURE:
            assert loaded.encode(text) == tokenizer_of(files).encode(text)


def test_transformers_reads_the_saved_tokenizer(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    files = tokenizer_from_gguf(byte_level_metadata())
    files.save(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    ours = tokenizer_of(files)
    for text in TORTURE:
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(ours.encode(text), skip_special_tokens=True) == ours.decode(ours.encode(text))


def test_arrays_may_be_numpy() -> None:
    metadata = sentencepiece_metadata(has_dummy_prefix=False)
    metadata["tokenizer.ggml.scores"] = np.array(metadata["tokenizer.ggml.scores"], np.float32)
    metadata["tokenizer.ggml.token_type"] = np.array(metadata["tokenizer.ggml.token_type"], np.int32)
    metadata["tokenizer.ggml.bos_token_id"] = np.uint32(1)
    assert build(metadata).encode("the")[0] == 1


# --- damaged metadata


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": []}, "tokens is missing"),
        ({"tokens": "abc"}, "not a list"),
        ({"tokens": ["a", 3]}, "element 1 is int 3"),
        ({"tokens": ["a", "a"]}, "tokens 0 and 1 are the same"),
        ({"tokens": ["a", "\udc80"]}, "not valid Unicode"),
        ({"tokens": ["a" * 5000]}, "5000 characters"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["Ġ"]}, "merge 0"),
        ({"merges": ["Ġ nothing"]}, r"merge 0 is 'Ġ nothing', but 'nothing' is no token"),
        ({"merges": ["z z"]}, r"merge 0 is 'z z', but 'zz' is no token"),
        ({"token_type": [1]}, "has 1 elements"),
        ({"token_type": 3}, "not a list"),
        ({"bos_token_id": 10**6}, "vocabulary has"),
        ({"eos_token_id": -5}, "vocabulary has"),
        ({"eos_token_id": 1.5}, "not a whole number"),
        ({"eos_token_id": True}, "not a whole number"),
        ({"add_bos_token": 1}, "not true or false"),
        ({"model": None}, "model is missing"),
        ({"model": 3}, "not a string"),
        ({"pre": ["gpt-2"]}, "not a string"),
    ],
)
def test_damage_is_named(changes: dict[str, object], part: str) -> None:
    metadata = byte_level_metadata()
    for name, value in changes.items():
        metadata[f"tokenizer.ggml.{name}"] = value
        if value is None:
            del metadata[f"tokenizer.ggml.{name}"]
    with pytest.raises(TokenizerError, match=part):
        tokenizer_from_gguf(metadata)


def test_scores_must_be_finite_and_there() -> None:
    metadata = sentencepiece_metadata(has_dummy_prefix=True)
    count = len(metadata["tokenizer.ggml.tokens"])
    with pytest.raises(TokenizerError, match="not a finite number"):
        tokenizer_from_gguf(metadata | {"tokenizer.ggml.scores": [float("nan")] * count})
    del metadata["tokenizer.ggml.scores"]
    with pytest.raises(TokenizerError, match="scores is missing"):
        tokenizer_from_gguf(metadata)


def test_no_token_is_written_as_minus_one() -> None:
    for value in (-1, 0xFFFF_FFFF):
        assert tokenizer_from_gguf(byte_level_metadata(**{"tokenizer.ggml.bos_token_id": value})).bos_token_id is None


def test_an_empty_token_gets_a_name() -> None:
    metadata = byte_level_metadata()
    tokens = list(metadata["tokenizer.ggml.tokens"])
    tokens[0] = ""
    assert build(metadata | {"tokenizer.ggml.tokens": tokens}).id_to_token(0) == "[EMPTY_0]"


_TOKEN = st.one_of(
    st.sampled_from(
        ["<s>", "</s>", "<unk>", "▁", "a", "ab", "abc", "b", " ", "  ", "", "<0x41>", "<|im_end|>", "$A", "x:0"]
    ),
    st.text(max_size=4),
    st.text(alphabet=st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), min_size=1, max_size=1),
)
_VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(_TOKEN, max_size=8),
    st.lists(st.integers(-1, 7), max_size=8),
    st.lists(st.floats(), max_size=8),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
_NAMES = ("model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eos_token_id", "eot_token_id")
_NAMES += ("unknown_token_id", "padding_token_id", "add_bos_token", "add_eos_token", "add_space_prefix")


@st.composite
def plausible_metadata(draw: st.DrawFn) -> dict[str, object]:
    tokens = draw(st.lists(_TOKEN, min_size=1, max_size=8, unique=draw(st.booleans())))
    count = len(tokens)
    return {
        "tokenizer.ggml.model": draw(st.sampled_from(["gpt2", "llama", "gemma4"])),
        "tokenizer.ggml.pre": draw(st.sampled_from(["gpt-2", "default", "llama-bpe", "qwen2"])),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": draw(st.lists(st.integers(0, 6), min_size=count, max_size=count)),
        "tokenizer.ggml.scores": draw(st.lists(st.floats(-9, 0, width=32), min_size=count, max_size=count)),
        "tokenizer.ggml.merges": draw(st.lists(st.sampled_from(["a b", "ab c", "a bc", "▁ a", "  a"]), max_size=3)),
        "tokenizer.ggml.bos_token_id": draw(st.integers(0, count)),
        "tokenizer.ggml.eos_token_id": draw(st.integers(0, count - 1)),
        "general.architecture": draw(st.sampled_from(["llama", "phi3"])),
    }


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    plausible_metadata(),
    st.dictionaries(st.sampled_from([f"tokenizer.ggml.{name}" for name in _NAMES]), _VALUE, max_size=2),
)
def test_any_metadata_gives_a_tokenizer_or_one_of_our_errors(
    metadata: dict[str, object], damage: dict[str, object]
) -> None:
    try:
        files = tokenizer_from_gguf(metadata | damage)
    except (TokenizerError, WeightsError, UnsupportedModelError):
        return
    tokenizer = tokenizer_of(files)
    ids = tokenizer.encode("a ab  abc<s>▁é")
    assert isinstance(tokenizer.decode(ids), str)
    assert tokenizers.Tokenizer.from_str(files.tokenizer.to_str()).encode("a ab  abc").ids == tokenizer.encode(
        "a ab  abc"
    )


def test_models_bpe_is_what_is_built() -> None:
    assert isinstance(tokenizer_from_gguf(byte_level_metadata()).tokenizer.model, models.BPE)


def test_the_template_for_tools_is_read() -> None:
    files = tokenizer_from_gguf(byte_level_metadata() | {"tokenizer.chat_template.tool_use": "{{ tools | length }}!"})
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    chat = [{"role": "user", "content": "x"}]
    assert tokenizer_of(files).render_chat(chat, tools=[tool]) == "1!"
    assert tokenizer_of(files).render_chat(chat) == "<|im_start|>x<|im_end|>"
