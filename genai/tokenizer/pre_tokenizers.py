r"""How byte-level BPE vocabularies cut text into words, by the name that a GGUF file gives in `tokenizer.ggml.pre`.

The names and the order of the patterns are llama.cpp's (src/llama-vocab.cpp, `llm_tokenizer_bpe`). Each pattern cuts
the pieces that the one before it left: a match is a piece, and so is what lies between two matches. Where llama.cpp
rewrote a pattern for its own regex engine (it has no `(?i:…)` and no `\p{Lu}`), the original of the model's
`tokenizer.json` stands here. NFC is the normalizer in those originals; llama.cpp leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

from genai.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """How text is cut before merging.

    patterns: applied one after the other.
    ignore_merges: a piece that is a token stays whole, whatever the merges say.
    adds_bos: BOS is put in front of a text unless the file says otherwise.
    is_nfc: text is brought into Unicode normal form C first.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    adds_bos: bool = False
    is_nfc: bool = False

    def build(self) -> pre_tokenizers.PreTokenizer:
        """The `tokenizers` object: the cuts, then every byte as a character of GPT-2's alphabet."""
        cuts: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns
        ]
        return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    def normalizer(self) -> normalizers.Normalizer | None:
        """The `tokenizers` object that changes the text first, or None."""
        return normalizers.NFC() if self.is_nfc else None


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer of this name. Raises: UnsupportedModelError, naming those that are supported."""
    if name not in _BY_NAME:
        supported = ", ".join(sorted(_BY_NAME))
        raise UnsupportedModelError(f"unknown pre-tokenizer {name!r} (tokenizer.ggml.pre); supported: {supported}")
    return _BY_NAME[name]


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_HAN_KANA = r"[一-龥぀-ゟ゠-ヿ]+"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
_DEEPSEEK_WORD = (  # cased letters; escapes where normalizing this file would change the character
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ"
    r"-Ὅὐ-ὗὙὛὝὟ-\u1F7Dᾀ-ᾴᾶ-ᾼ\u1FBEῂ-ῄῆ-ῌῐ-\u1FD3ῖ-\u1FDBῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212A-ℭℯ-ℴℹℼ-ℿⅅ"
    r"-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_FALCON_MARKS = r"[\p{P}\$\+<=>\^~\|`]+"

_PLAIN = PreTokenizer(patterns=(_GPT2,))
_DIGITS = PreTokenizer(patterns=(r"\p{N}", _GPT2))

_FAMILIES: tuple[tuple[PreTokenizer, str], ...] = (
    (
        PreTokenizer(patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
        "default",
    ),
    (_PLAIN, "gpt-2 phi-2 gigachat a.x-4.0 mellum exaone4 jais trillion granite-docling"),
    (PreTokenizer(patterns=(_GPT2,), is_nfc=True), "mpt olmo"),
    (_DIGITS, "smollm starcoder refact codeshell exaone minerva-7b mellum2"),
    (PreTokenizer(patterns=_DIGITS.patterns, is_nfc=True), "command-r"),
    (
        PreTokenizer(patterns=(_LLAMA3,), ignore_merges=True, adds_bos=True),
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    ),
    (PreTokenizer(patterns=(_LLAMA3,)), "dbrx smaug-bpe chatglm-bpe"),
    (PreTokenizer(patterns=(_LLAMA3,), ignore_merges=True), "glm4 glm5"),
    (PreTokenizer(patterns=(_QWEN2,), is_nfc=True), "qwen2 megrez"),
    (PreTokenizer(patterns=(_QWEN2,)), "deepseek-r1-qwen kormo stablelm2 hunyuan solar-open grok-2"),
    (PreTokenizer(patterns=(_QWEN35,), is_nfc=True), "qwen35"),
    (PreTokenizer(patterns=(_TEKKEN,), ignore_merges=True, adds_bos=True), "tekken"),
    (PreTokenizer(patterns=(_GPT4O,)), "gpt-4o llama4 kanana2 minimax-m2"),
    (
        PreTokenizer(
            patterns=(
                r"[\r\n]",
                _DEEPSEEK_WORD,
                r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
                r"\s+$",
                r"[一-龥ࠀ-一가-퟿]+",
                r"\p{N}+",
            )
        ),
        "deepseek-llm",
    ),
    (
        PreTokenizer(patterns=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
        "deepseek-coder",
    ),
    (PreTokenizer(patterns=(r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK3)), "deepseek-v3 hunyuan-dense joyai-llm"),
    (PreTokenizer(patterns=(_FALCON_MARKS, _GPT2, r"[0-9][0-9][0-9]")), "falcon"),
    (PreTokenizer(patterns=(_BLOOM,)), "bloom poro-chat gpt3-finnish"),
    (PreTokenizer(patterns=(_BLOOM, r"\p{N}")), "viking"),
    (
        PreTokenizer(
            patterns=(
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
                r"|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
        "bailingmoe bailingmoe2 llada-moe",
    ),
    (
        PreTokenizer(
            patterns=(rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)
        ),
        "seed-coder",
    ),
)

_BY_NAME = {name: family for family, names in _FAMILIES for name in names.split()}

SUPPORTED = tuple(sorted(_BY_NAME))
"""Every supported name."""
