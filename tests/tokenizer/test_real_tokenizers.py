"""The tokenizers inside the real weights, held against their originals and against SentencePiece."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from genai.build.gguf.file import GgufFile
from genai.tokenizer.files import TokenizerFiles
from genai.tokenizer.gguf_tokenizer import tokenizer_from_gguf
from genai.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.vocabularies import TORTURE, tokenizer_of

pytestmark = pytest.mark.slow

SPOKEN = (
    "The quick brown fox jumps over the lazy dog. Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. "
)


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> tuple[TokenizerFiles, dict[str, object]]:
    metadata = dict(GgufFile(smollm2_gguf).metadata)
    return tokenizer_from_gguf(metadata), metadata


@pytest.fixture(scope="module")
def gemma(gemma_gguf: Path) -> tuple[TokenizerFiles, dict[str, object]]:
    metadata = dict(GgufFile(gemma_gguf).metadata)
    return tokenizer_from_gguf(metadata), metadata


def test_smollm2_is_its_tokenizer_json(smollm2: tuple[TokenizerFiles, dict[str, object]]) -> None:
    """SmolLM2's tokenizer.json cuts digits apart, then as GPT-2; its added tokens are the control tokens."""
    files, metadata = smollm2
    tokens = list(metadata["tokenizer.ggml.tokens"])
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    original = Backend(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    original.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    original.add_special_tokens(tokens[:17])
    tokenizer = tokenizer_of(files)
    for text in (*TORTURE, SPOKEN * 20):
        ids = tokenizer.encode(text)
        assert ids == original.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert (files.bos_token_id, files.eos_token_ids, files.pad_token_id) == (1, (2, 0), 2)


def test_smollm2_differs_from_transformers_gguf_reader_only_before_digits(
    smollm2: tuple[TokenizerFiles, dict[str, object]],
) -> None:
    """transformers 5.23 does not know the pre-tokenizer "smollm" and cuts as GPT-2, which shows before digits only."""
    mapping = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    files, metadata = smollm2
    theirs = mapping.byte_level_tokenizer(
        {"tokens": metadata["tokenizer.ggml.tokens"], "merges": metadata["tokenizer.ggml.merges"]}
    )
    tokenizer = tokenizer_of(files)
    for text in TORTURE:
        plain = "".join(character for character in text if not character.isnumeric()).replace("<|", "< |")
        assert tokenizer.encode(plain) == theirs.backend_tokenizer.encode(plain).ids


def test_smollm2_chat(smollm2: tuple[TokenizerFiles, dict[str, object]]) -> None:
    tokenizer = tokenizer_of(smollm2[0])
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.render_chat(chat) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.apply_chat_template(chat)
    assert ids[0] == 1
    assert ids.count(1) == 3


def test_gemma_is_sentencepiece(gemma: tuple[TokenizerFiles, dict[str, object]]) -> None:
    pytest.importorskip("sentencepiece")
    model_pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    files, metadata = gemma
    oracle = sentencepiece_of(metadata, model_pb2)
    tokenizer = tokenizer_of(files)
    control = ("<start_of_turn>", "<end_of_turn>")  # spelled in text they become control tokens, as in transformers
    for text in (*TORTURE, SPOKEN * 20):
        if any(token in text for token in control):
            continue
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == oracle.encode(text)
        assert tokenizer.decode(ids) == oracle.decode(ids)
        assert tokenizer.encode(text) == [2, *ids]
    assert (files.bos_token_id, files.eos_token_ids, files.pad_token_id) == (2, (1, 106), 0)
    assert tokenizer.encode("<start_of_turn>user\nhi<end_of_turn>\n") == [2, 105, 2364, 107, 2202, 106, 107]
    assert not tokenizer.has_chat_template


def sentencepiece_of(metadata: dict[str, object], model_pb2: object) -> object:
    """A SentencePiece processor with the pieces, scores and types of a GGUF file."""
    import sentencepiece

    model = model_pb2.ModelProto()
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id = 3, 2, 1
    model.trainer_spec.pad_id = 0
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    keys = ("tokens", "scores", "token_type")
    pieces = zip(*(list(metadata[f"tokenizer.ggml.{key}"]) for key in keys), strict=True)
    for number, (token, score, kind) in enumerate(pieces):
        piece = model.pieces.add()
        piece.piece = token.replace(" ", "▁") if kind == 4 else token
        piece.score = float(score)
        piece.type = 2 if number == 3 else int(kind)
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def test_gemma_is_built_in_seconds(gemma: tuple[TokenizerFiles, dict[str, object]]) -> None:
    start = time.monotonic()
    tokenizer_from_gguf(gemma[1])
    assert time.monotonic() - start < 60


def test_streamed_text_is_the_whole_text(
    smollm2: tuple[TokenizerFiles, dict[str, object]], gemma: tuple[TokenizerFiles, dict[str, object]]
) -> None:
    for files in (smollm2[0], gemma[0]):
        tokenizer = tokenizer_of(files)
        for text in (*TORTURE, SPOKEN * 20):
            ids = tokenizer.encode(text)
            detokenizer = tokenizer.detokenizer()
            assert "".join(map(detokenizer.push, ids)) + detokenizer.finish() == tokenizer.decode(ids)


def test_saved_and_read_again(
    smollm2: tuple[TokenizerFiles, dict[str, object]], gemma: tuple[TokenizerFiles, dict[str, object]], tmp_path: Path
) -> None:
    for files in (smollm2[0], gemma[0]):
        files.save(tmp_path)
        loaded = Tokenizer.from_folder(
            tmp_path,
            bos_token_id=files.bos_token_id,
            eos_token_ids=files.eos_token_ids,
            pad_token_id=files.pad_token_id,
        )
        tokenizer = tokenizer_of(files)
        assert loaded.vocab_size == tokenizer.vocab_size
        for text in TORTURE:
            assert loaded.encode(text) == tokenizer.encode(text)
