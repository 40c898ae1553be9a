"""Each family's way of cutting text against its original: transformers' own classes, or what its tokenizer.json says.

A vocabulary is trained on text that the original cut; as a GGUF file has it, it must give the same words and ids.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Punctuation, Sequence, Split

from genai.tokenizer.gguf_tokenizer import tokenizer_from_gguf
from genai.tokenizer.pre_tokenizers import pre_tokenizer, supported
from tests.tokenizer.vocabularies import TORTURE

transformers = pytest.importorskip("transformers")

WORDS = (
    "I've we'll they'RE 12 123 1234 12345 3.14 a1b22c333",
    "foo_bar  baz\n\n\tqux!? (x)",
    "我想在apple工作1314天 日本語カナ 한국어",
    *TORTURE,
)
Parts = tuple[normalizers.Normalizer | None, pre_tokenizers.PreTokenizer]


def of_class(name: str) -> Parts:
    """What transformers' class for a family does."""
    backend = getattr(transformers, name)().backend_tokenizer
    return backend.normalizer, backend.pre_tokenizer


def of_gguf(name: str) -> Parts:
    """What transformers itself makes of a GGUF file that names this pre-tokenizer."""
    table = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping").GGUF_PRE_TOKENIZER_SPLITS
    return None, cut(table[name])


def cut(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Patterns one after the other, then bytes."""
    return Sequence(
        [*(Split(Regex(text), "isolated") for text in patterns), ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def words_of_gpt2(*before: pre_tokenizers.PreTokenizer, after: tuple[pre_tokenizers.PreTokenizer, ...] = ()) -> Parts:
    return None, Sequence([*before, ByteLevel(add_prefix_space=False, use_regex=True), *after])


KIMI = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)  # fmt: skip
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+")
DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    r"[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)

ORIGINALS: dict[str, Callable[[], Parts]] = {
    # By the pre-tokenizer's name: the families that have it, and their original.
    "gpt-2": lambda: of_class("GPT2Tokenizer"),  # GPT-2, OPT
    "phi-2": lambda: of_class("GPT2Tokenizer"),
    "olmo": lambda: of_class("GPTNeoXTokenizer"),  # GPT-NeoX, Pythia, OLMo, OLMoE
    "command-r": lambda: of_class("CohereTokenizer"),  # Command R, Cohere 2
    "qwen2": lambda: of_class("Qwen2Tokenizer"),  # Qwen 2 to 3, with experts, and embeddings
    "qwen35": lambda: of_class("Qwen3_5Tokenizer"),
    "starcoder": lambda: words_of_gpt2(Digits(individual_digits=True)),
    "refact": lambda: words_of_gpt2(Digits(individual_digits=True)),  # Granite
    "smollm": lambda: words_of_gpt2(Digits(individual_digits=True)),
    "falcon": lambda: words_of_gpt2(
        Punctuation("contiguous"), after=(Digits(individual_digits=False), Split(Regex("[0-9][0-9][0-9]"), "isolated"))
    ),
    "llama-bpe": lambda: of_gguf("llama-bpe"),  # Llama 3, Arcee
    "dbrx": lambda: of_gguf("dbrx"),  # OLMo 2 and 3
    "smaug-bpe": lambda: of_gguf("smaug-bpe"),  # SmolLM3
    "glm4": lambda: (None, cut(CL100K)),  # GLM-4 and 4.5
    "chatglm-bpe": lambda: (None, cut(CL100K)),
    "tekken": lambda: of_gguf("tekken"),  # Mistral Nemo, Ministral 3, Apertus
    "llama4": lambda: of_gguf("llama4"),
    "gpt-4o": lambda: of_gguf("gpt-4o"),  # gpt-oss
    "tiny_aya": lambda: (None, cut(r"\d{1,3}(?=(?:\d{3})*\b)", "|".join(of_splits("gpt-4o")))),  # Cohere 2
    "kimi-k2": lambda: (None, cut(KIMI)),  # Kimi K2, Moonlight: DeepSeek V3's
    "deepseek-coder": lambda: (None, Sequence([
        *(Split(Regex(text), "isolated") for text in DEEPSEEK_CODER),
        Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=False),
    ])),
    "deepseek-v3": lambda: (None, cut(*DEEPSEEK_V3)),
    "hunyuan-dense": lambda: (None, cut(*DEEPSEEK_V3)),
}  # fmt: skip


def of_splits(name: str) -> list[str]:
    table = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping").GGUF_PRE_TOKENIZER_SPLITS
    return [table[name]]


@functools.cache
def original(name: str) -> Tokenizer:
    """A byte-level BPE of some hundred merges, trained on words that the original cut."""
    tokenizer = Tokenizer(models.BPE())
    normalizer, cuts = ORIGINALS[name]()
    tokenizer.pre_tokenizer = cuts
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(WORDS * 3, trainer)
    return tokenizer


@functools.cache
def ours(name: str) -> Tokenizer:
    model = json.loads(original(name).to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokenizer_from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": name,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
            "tokenizer.ggml.add_bos_token": False,
        }
    ).tokenizer


def check(name: str, text: str) -> None:
    theirs = original(name)
    assert ours(name).encode(text).ids == theirs.encode(text).ids
    normal = text if theirs.normalizer is None else theirs.normalizer.normalize_str(text)
    words = [word for word, _ in theirs.pre_tokenizer.pre_tokenize_str(normal)]
    assert [word for word, _ in pre_tokenizer(name).build().pre_tokenize_str(normal)] == words


@pytest.mark.parametrize("name", ORIGINALS)
def test_hard_texts_have_the_originals_ids(name: str) -> None:
    assert name in supported()
    for text in WORDS:
        check(name, text)


@pytest.mark.parametrize("name", ORIGINALS)
@settings(max_examples=60, deadline=None)
@given(
    text=st.one_of(
        st.text(alphabet="aB 1234567'slLtT\n\r\t.,!$`_-你好のカ한é\u0301", max_size=40), st.text(max_size=20)
    )
)
def test_any_text_has_the_originals_ids(name: str, text: str) -> None:
    check(name, text)
