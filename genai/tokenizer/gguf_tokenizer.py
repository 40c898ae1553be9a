"""A tokenizer from a GGUF file's metadata, without torch and without transformers.

    tokenizer.ggml.model
      ├─ "gpt2"    byte-level BPE: merges are in the file, `tokenizer.ggml.pre` names how text is cut
      ├─ "llama"   SentencePiece BPE: merges follow from the scores; unknown characters become bytes
      └─ "gemma4"  the same, with the merges in the file

Control tokens become special added tokens, user-defined ones become plain added tokens: both are found in the text
before anything else, the longest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from genai.errors import TokenizerError, UnsupportedModelError
from genai.tokenizer.cuts import cuts
from genai.tokenizer.files import TokenizerFiles
from genai.tokenizer.gguf_vocabulary import GgufVocabulary, TokenType
from genai.tokenizer.pre_tokenizers import pre_tokenizer

_SPACE = "▁"

_OTHER_MODELS = {
    "bert": "WordPiece, of encoders, which write no text",
    "t5": "SentencePiece's unigrams, of encoder-decoders and encoders",
    "rwkv": "of RWKV, which is recurrent and is not built here",
    "plamo2": "of PLaMo 2, which is recurrent and is not built here",
    "no_vocab": "none: the file was written without its vocabulary; convert the model again with it",
    "none": "none: the file was written without its vocabulary; convert the model again with it",
}
"""Kinds of vocabularies that other files have, and what they are."""

_END_OF_TURN = {
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<|flush|>",
    "<|calls|>",
    "<|tool_response>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
}
"""Tokens that end a turn or a text wherever they occur, whatever type a file gives them.

llama.cpp's list, without tokens for filling in the middle, and without "</s>", which Gemma's vocabulary has as HTML.
"""
_HARMONY_ENDS = ({"<|return|>", "<|call|>"}, {"<|call|>", "<|flush|>"}, {"<|calls|>", "<|flush|>"})
"""Where both of a pair exist, "<|end|>" only ends a message."""


def tokenizer_from_gguf(metadata: Mapping[str, object]) -> TokenizerFiles:
    """Build the tokenizer that a GGUF file's key-value pairs describe.

    Raises: TokenizerError if the metadata is missing, inconsistent or damaged; UnsupportedModelError if it is of a kind
    that is not supported.
    """
    vocabulary = GgufVocabulary.read(metadata)
    builders = {"gpt2": _byte_level, "llama": _sentencepiece, "gemma4": _sentencepiece}
    if vocabulary.model not in builders:
        what = f" ({_OTHER_MODELS[vocabulary.model]})" if vocabulary.model in _OTHER_MODELS else ""
        raise UnsupportedModelError(
            f"tokenizer model {vocabulary.model!r}{what} (tokenizer.ggml.model) is not supported; supported: "
            f"{', '.join(builders)}"
        )
    ids = _special_ids(vocabulary)
    eos = _end_tokens(vocabulary, ids)
    try:
        tokenizer = builders[vocabulary.model](vocabulary)
        _add_tokens(tokenizer, vocabulary, special_ids={*eos, ids.get("bos", -1)})
    except (TokenizerError, UnsupportedModelError):
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise TokenizerError(f"the tokenizer in this GGUF file cannot be built: {error}") from None
    tokenizer.post_processor = _post_processor(vocabulary, ids)
    return TokenizerFiles(
        tokenizer=tokenizer,
        chat_template=vocabulary.chat_template,
        tool_template=vocabulary.tool_template,
        bos_token_id=ids.get("bos"),
        eos_token_ids=eos,
        pad_token_id=ids.get("padding"),
    )


def _byte_level(vocabulary: GgufVocabulary) -> tokenizers.Tokenizer:
    if vocabulary.merges is None:
        raise TokenizerError("tokenizer.ggml.merges is missing: a byte-level BPE tokenizer cannot be built without it")
    cuts = pre_tokenizer(vocabulary.pre)
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=_ids(vocabulary.tokens), merges=vocabulary.merges, ignore_merges=cuts.ignore_merges)
    )
    if (normalizer := cuts.normalizer()) is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = cuts.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(vocabulary: GgufVocabulary) -> tokenizers.Tokenizer:
    if vocabulary.model == "llama" and vocabulary.scores is not None:
        merges = merges_from_scores(vocabulary.tokens, vocabulary.types, vocabulary.scores)
    elif vocabulary.merges is not None:
        merges = vocabulary.merges
    else:
        raise TokenizerError("tokenizer.ggml.scores is missing: the order of merges follows from it")
    unknown = _unknown(vocabulary)
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=_ids(vocabulary.tokens), merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    replace = normalizers.Replace(" ", _SPACE)
    last: list[decoders.Decoder] = []
    if _adds_space_prefix(vocabulary):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replace])
        last = [decoders.Strip(content=" ", left=1, right=0)]
    else:
        tokenizer.normalizer = replace
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    )
    return tokenizer


def merges_from_scores(tokens: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """The BPE merges of a SentencePiece vocabulary, best first.

    SentencePiece joins the two neighbours that make the piece of the highest score; a ranked merge for every way of
    cutting a piece in two known pieces says the same. Control and byte tokens are never made by merging, and
    user-defined ones are found before.
    Raises: TokenizerError if there are far more of them than any real vocabulary has.
    """
    made = (TokenType.UNDEFINED, TokenType.NORMAL, TokenType.UNUSED)
    candidates = [token_id for token_id, kind in enumerate(types) if kind in made]
    candidates.sort(key=lambda token_id: (-scores[token_id], token_id))
    return cuts([tokens[token_id] for token_id in candidates])


def _ids(tokens: Iterable[str]) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(tokens)}


def _unknown(vocabulary: GgufVocabulary) -> str | None:
    if "unknown" in vocabulary.special_ids:
        return vocabulary.tokens[vocabulary.special_ids["unknown"]]
    typed = [token_id for token_id, kind in enumerate(vocabulary.types) if kind == TokenType.UNKNOWN]
    return vocabulary.tokens[typed[0]] if typed else None


def _adds_space_prefix(vocabulary: GgufVocabulary) -> bool:
    return vocabulary.flags.get("add_space_prefix", vocabulary.model == "llama")


def _special_ids(vocabulary: GgufVocabulary) -> dict[str, int]:
    """The file's special ids; SentencePiece's customary 1 and 2 for BOS and EOS where it names none."""
    ids = dict(vocabulary.special_ids)
    if vocabulary.model == "llama":
        for name, token_id in (("bos", 1), ("eos", 2)):
            if name not in ids and token_id < len(vocabulary.tokens):
                ids[name] = token_id
    ids.pop("unknown", None)  # it stays visible: the model may mean it
    return ids


def _end_tokens(vocabulary: GgufVocabulary, ids: Mapping[str, int]) -> tuple[int, ...]:
    """EOS first, then the other tokens that end a text or a turn."""
    named = [ids[name] for name in ("eos", "eot", "eom") if name in ids]
    return tuple(dict.fromkeys([*named, *_spelled_ends(vocabulary).values()]))


def _spelled_ends(vocabulary: GgufVocabulary) -> dict[str, int]:
    spelled = {token: token_id for token_id, token in enumerate(vocabulary.tokens) if token in _END_OF_TURN}
    if any(pair <= spelled.keys() for pair in _HARMONY_ENDS):
        spelled.pop("<|end|>", None)
    return spelled


def _add_tokens(tokenizer: tokenizers.Tokenizer, vocabulary: GgufVocabulary, special_ids: set[int]) -> None:
    """Add control, user-defined and the given tokens. Padding is not given: files name ordinary tokens for it."""
    # Where the normalizer only turns spaces into "▁", runs of spaces are looked for after it, as SentencePiece does.
    is_normalized = vocabulary.model != "gpt2" and not _adds_space_prefix(vocabulary)
    added = []
    for token_id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        is_special = kind == TokenType.CONTROL or token_id in special_ids
        if is_special or kind == TokenType.USER_DEFINED or token in _END_OF_TURN:
            rstrip = is_special and _strips_right(vocabulary, token)
            normalized = is_normalized and " " in token and not is_special
            added.append(AddedToken(token, special=is_special, normalized=normalized, rstrip=rstrip))
    tokenizer.add_tokens(added)


def _strips_right(vocabulary: GgufVocabulary, token: str) -> bool:
    """Special tokens of Phi-3 and Phi-3.5-MoE swallow the white space after them, which their files cannot say."""
    is_phi3 = vocabulary.architecture in ("phi3", "phimoe") and vocabulary.model == "llama"
    return is_phi3 and token not in {"<unk>", "<s>", "<|endoftext|>"}


def _post_processor(vocabulary: GgufVocabulary, ids: Mapping[str, int]) -> processors.PostProcessor:
    """What puts BOS before a text and EOS after it, where the file wants them."""
    adds_bos = vocabulary.flags.get("add_bos_token")
    if adds_bos is None:
        adds_bos = pre_tokenizer(vocabulary.pre).adds_bos if vocabulary.model == "gpt2" else True
        adds_bos = adds_bos and "bos" in ids
    wanted = {"bos": adds_bos, "eos": vocabulary.flags.get("add_eos_token", False)}
    named = [name for name, is_wanted in wanted.items() if is_wanted]
    for name in named:
        if name not in ids:
            raise TokenizerError(f"tokenizer.ggml.add_{name}_token is true, but {name}_token_id is missing")
    parts = [
        [f"{name}:{part}" for name in ("bos", letter, "eos") if name in (*named, letter)]
        for part, letter in enumerate(("$A", "$B"))
    ]
    tokens = [{"id": name, "ids": [ids[name]], "tokens": [vocabulary.tokens[ids[name]]]} for name in named]
    return processors.TemplateProcessing(single=parts[0], pair=parts[0] + parts[1], special_tokens=tokens)
