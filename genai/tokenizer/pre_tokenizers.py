"""How byte-level BPE vocabularies cut text into words: `pre_tokenizers.toml` as objects of `tokenizers`.

Each pattern cuts the pieces that the one before it left: a match is a piece, and so is what lies between two matches.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tokenizers import Regex, normalizers, pre_tokenizers

from genai.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """How text is cut before merging.

    patterns: applied one after the other; byte_patterns: to what that gives, when every byte is a character.
    ignore_merges: a piece that is a token stays whole, whatever the merges say.
    adds_bos: BOS is put in front of a text unless the file says otherwise.
    is_nfc: text is brought into Unicode normal form C first.
    """

    patterns: tuple[str, ...]
    byte_patterns: tuple[str, ...] = ()
    ignore_merges: bool = False
    adds_bos: bool = False
    is_nfc: bool = False

    def build(self) -> pre_tokenizers.PreTokenizer:
        """The `tokenizers` object: the cuts, every byte as a character of GPT-2's alphabet, the cuts of these."""
        return pre_tokenizers.Sequence(
            [
                *_cuts(self.patterns),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                *_cuts(self.byte_patterns),
            ]
        )

    def normalizer(self) -> normalizers.Normalizer | None:
        """The `tokenizers` object that changes the text first, or None."""
        return normalizers.NFC() if self.is_nfc else None


def _cuts(patterns: tuple[str, ...]) -> list[pre_tokenizers.PreTokenizer]:
    return [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer of this name. Raises: UnsupportedModelError, naming those that are supported."""
    known = supported()
    if name not in known:
        raise UnsupportedModelError(
            f"unknown pre-tokenizer {name!r} (tokenizer.ggml.pre); supported: {', '.join(sorted(known))}"
        )
    return known[name]


@functools.cache
def supported() -> Mapping[str, PreTokenizer]:
    """Every pre-tokenizer, by each of its names."""
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    found: dict[str, PreTokenizer] = {}
    for family in data["families"]:
        names = family.pop("names").split()
        patterns, of_bytes = (
            tuple(data["patterns"][name] for name in family.pop(key, ())) for key in ("patterns", "byte_patterns")
        )
        found |= dict.fromkeys(names, PreTokenizer(patterns=patterns, byte_patterns=of_bytes, **family))
    return MappingProxyType(found)
