"""Small vocabularies, as a GGUF file would give them."""

from __future__ import annotations

import io
from functools import cache

from genai.tokenizer.files import TokenizerFiles
from genai.tokenizer.gguf_vocabulary import TokenType
from genai.tokenizer.token_pieces import byte_alphabet
from genai.tokenizer.tokenizer import Tokenizer

TORTURE = (
    "Hello  world\n\n\n\tHello   world \r\n",
    " leading,   trailing  ",
    "I've we'LL don’t THEY'RE 'tis",
    "3 33 333 3333 1234567890 1,234.56 ½ ² Ⅷ ١٢٣ 五",
    "def f(x):\n    if x == 1:\n\t\treturn {'a': [1, 2.5e-3]}\n    # comment\n\n\nclass A(B): pass",
    "你好，世界！今天天气很好。日本語のテキスト。 한국어 텍스트입니다.",
    "مرحبا بالعالم، كيف حالك؟ שָׁלוֹם עוֹלָם Привет, мир! Γειά σου हिन्दी ภาษาไทย",
    "e\u0301 a\u0308 \u212b ﬁ Z\u0351\u036bA\u0334\u0335 \U00010330\U0001d49c\U0002070e",
    "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🇨🇭 1️⃣ ❤️🤖💥",
    "\x00\x01\x07\x0b\x0c\x1b\x7f\x80\x85\xa0\xad a\u00a0b\u2003c\u200bd\u2028e\u3000f\ufeffg",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<|endoftext|>x<|im_start|",
    "<start_of_turn>user\nhi<end_of_turn>\n<table><td>x</td></table><s></s>[multimodal]",
    "▁ ▁▁ a▁b Ġ Ċ <0x0A> \ufffd",
    " " * 40 + "x" + "\n" * 40 + "\t" * 40 + "y" + "a b  c   d    e     f",
    'http://example.com/?q=a%20b&c=d#e C:\\path $100 €50 +-=<>^~|` (a)[b]{c}"d"',
    "",
    " ",
    "\n",
)
"""Text that tokenizers get wrong."""


def byte_level_metadata(**changes: object) -> dict[str, object]:
    """A byte-level BPE: all bytes, some merges, three control tokens, one user-defined token."""
    letters = list(byte_alphabet())
    merges = ["Ġ t", "h e", "Ġt he", "i n", "Ã ©", "1 2", "12 3", "Ġ Ġ", "Ċ Ċ", "ð Ł", "ðŁ Ĺ", "l l", "' ll"]
    merged = ["".join(merge.split(" ")) for merge in merges]
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool é>"]
    tokens = [*added, *letters, *merged]
    types = [TokenType.CONTROL] * 3 + [TokenType.USER_DEFINED] + [TokenType.NORMAL] * (len(letters) + len(merged))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
    } | changes


@cache
def sentencepiece_model(*, has_dummy_prefix: bool) -> bytes:
    """A SentencePiece BPE with byte fallback, trained on a few lines."""
    import sentencepiece

    lines = [
        "the quick brown fox jumps over the lazy dog and the other dogs",
        "she sells sea shells on the sea shore, the shells she sells are sea shells",
        "banana bananas ana anan nana  nananana   x = [1, 22, 333]",
        "Grüezi, wie geht's? Привет, мир! 你好，世界",
    ] * 3
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=480,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        add_dummy_prefix=has_dummy_prefix,
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()


def sentencepiece_metadata(*, has_dummy_prefix: bool, **changes: object) -> dict[str, object]:
    """The same model as a GGUF file gives it."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(has_dummy_prefix=has_dummy_prefix))
    ids = range(model.vocab_size())
    types = []
    for token_id in ids:
        kind = TokenType.NORMAL
        kind = TokenType.UNKNOWN if model.is_unknown(token_id) else kind
        kind = TokenType.CONTROL if model.is_control(token_id) else kind
        kind = TokenType.BYTE if model.is_byte(token_id) else kind
        types.append(int(kind))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(token_id) for token_id in ids],
        "tokenizer.ggml.scores": [model.get_score(token_id) for token_id in ids],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
        "tokenizer.ggml.add_space_prefix": has_dummy_prefix,
    } | changes


def tokenizer_of(files: TokenizerFiles) -> Tokenizer:
    """A tokenizer that has just been built, without writing it first."""
    return Tokenizer(
        files.tokenizer,
        bos_token_id=files.bos_token_id,
        eos_token_ids=files.eos_token_ids,
        pad_token_id=files.pad_token_id,
        chat_template=files.chat_template,
        tool_template=files.tool_template,
    )
