"""A whole model package that is built in a moment: random weights, a tokenizer of bytes, a chat template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from genai.build.architectures import spec_of
from genai.build.architectures.config import ConfigReader
from genai.build.windows import window_config
from genai.config import CONTRACT_BY_LAYER, CONTRACT_VERSION, ModelConfig, Provenance
from genai.tokenizer.tokenizer import Tokenizer
from tests.random_model import CONFIG, RandomSource, build_random_model

BEGIN, END = "<|begin|>", "<|end|>"
VOCAB_SIZE = 258
BEGIN_ID, END_ID = 256, 257
TEMPLATE = (
    "{% for message in messages %}<|begin|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Token n is byte n; two more begin and end a message."""
    alphabet = {letter: byte for byte, letter in enumerate(_letters())}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BEGIN, END])
    return tokenizer


def tiny_package(
    folder: Path,
    *,
    tokenizer: Tokenizer | None = None,
    has_template: bool = True,
    max_position: int = 4096,
    weights_of: Callable[..., RandomSource] = RandomSource,
    **generation: object,
) -> Path:
    """Build a package.

    tokenizer: one of its own, with its template; weights_of: what has other weights; generation: its own defaults.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backend = byte_tokenizer() if tokenizer is None else tokenizer.backend
    vocab_size = backend.get_vocab_size()
    sizes = {"vocab_size": vocab_size, "max_position_embeddings": max_position}
    build_random_model(folder, weights_of=weights_of, **sizes)
    window = window_config(spec_of(ConfigReader(weights_of(**sizes).config)))
    backend.save(str(folder / "tokenizer.json"))
    template = TEMPLATE if tokenizer is None else tokenizer.chat_template
    if has_template and template is not None:
        (folder / "chat_template.jinja").write_text(template)
    ModelConfig(
        contract_version=CONTRACT_VERSION if window is None else CONTRACT_BY_LAYER,
        model_type=str(CONFIG["model_type"]),
        num_layers=2,
        hidden_size=64,
        vocab_size=vocab_size,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_position=max_position,
        cache_dtype="float32",
        eos_token_ids=(END_ID,) if tokenizer is None else tokenizer.eos_token_ids,
        generation=generation,  # type: ignore[arg-type]
        kept_window=window,
        provenance=Provenance(source="random", sha256="", precision="f32", builder="tests"),
    ).write(folder)
    return folder


def _letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE vocabularies (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
