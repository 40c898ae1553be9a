"""A tokenizer from a Hugging Face folder.

`tokenizer.json` is taken as it is (transformers 5, too, ignores `add_bos_token` beside it). What is spread over
`tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and `config.json` is read as transformers
reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import tokenizers

from genai.errors import TokenizerError
from genai.tokenizer.files import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, TOOL_TEMPLATE_FILE, TokenizerFiles, read_template
from genai.tokenizer.tokenizer import load_tokenizer_json

_JSON = Mapping[str, object]
_CONVERTIBLE = ("tokenizer.model", "vocab.json", "tekken.json", "spiece.model")


def tokenizer_from_hf(folder: Path) -> TokenizerFiles:
    """Read a folder as `save_pretrained` writes it.

    eos_token_ids: the tokenizer's own EOS, then those of the generation configuration, then the model configuration's.
    A folder without `tokenizer.json` is converted by transformers, which is imported only then.
    Raises: TokenizerError if there is no tokenizer, or a file is damaged.
    """
    config = _read_json(folder / "config.json")
    generation = _read_json(folder / "generation_config.json")
    settings = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
    tokenizer = _load(folder)
    bos = _token_ids(tokenizer, settings, "bos", config, generation)
    eos = _end_ids(tokenizer, settings, config, generation)
    pad = _token_ids(tokenizer, settings, "pad", config, generation)
    return TokenizerFiles(
        tokenizer=tokenizer,
        chat_template=_chat_template(folder, settings, CHAT_TEMPLATE_FILE, "default"),
        tool_template=_chat_template(folder, settings, TOOL_TEMPLATE_FILE, "tool_use"),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=eos,
        pad_token_id=pad[0] if pad else None,
    )


def _load(folder: Path) -> tokenizers.Tokenizer:
    if (folder / TOKENIZER_FILE).is_file():
        return load_tokenizer_json(folder / TOKENIZER_FILE)
    if not any((folder / name).is_file() for name in _CONVERTIBLE):
        wanted = ", ".join((TOKENIZER_FILE, *_CONVERTIBLE))
        raise TokenizerError(f"{folder} holds no tokenizer: none of {wanted} is there")
    try:
        from transformers import AutoTokenizer

        converted = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return tokenizers.Tokenizer.from_str(converted.backend_tokenizer.to_str())
    except Exception as error:  # whatever a missing sentencepiece, an unknown class or a damaged file raises
        reason = " ".join(str(error).split())[:300]
        raise TokenizerError(
            f"{folder} has no {TOKENIZER_FILE}, and transformers cannot convert what is there ({reason}); "
            f"install sentencepiece and protobuf, or save a {TOKENIZER_FILE} with AutoTokenizer elsewhere"
        ) from None


def _token_ids(
    tokenizer: tokenizers.Tokenizer, settings: _JSON, name: str, config: _JSON, generation: _JSON
) -> tuple[int, ...]:
    """The ids of a special token: what the tokenizer's settings say, null included, else the configurations'."""
    key = f"{name}_token"
    if key in settings:
        token = _token_text(settings[key])
        token_id = None if token is None else tokenizer.token_to_id(token)
        return () if token_id is None else (token_id,)
    return _configured_ids(tokenizer, f"{key}_id", generation) or _configured_ids(tokenizer, f"{key}_id", config)


def _end_ids(tokenizer: tokenizers.Tokenizer, settings: _JSON, config: _JSON, generation: _JSON) -> tuple[int, ...]:
    own = _token_ids(tokenizer, settings, "eos", {}, {})
    places = (generation, config, _object(config.get("text_config")))
    configured = [token_id for place in places for token_id in _configured_ids(tokenizer, "eos_token_id", place)]
    return tuple(dict.fromkeys([*own, *configured]))


def _configured_ids(tokenizer: tokenizers.Tokenizer, key: str, config: _JSON) -> tuple[int, ...]:
    """One id or a list of them; what is not in the vocabulary (a pad id of -1) cannot occur, and is left out."""
    value = config.get(key)
    values = value if isinstance(value, list) else [value]
    ids = [item for item in values if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**32]
    return tuple(token_id for token_id in ids if tokenizer.id_to_token(token_id) is not None)


def _chat_template(folder: Path, settings: _JSON, file: str, name: str) -> str | None:
    """The template of a file, else the one of this name in `chat_template.json`, else in `tokenizer_config.json`."""
    if (template := read_template(folder / file)) is not None:
        return template
    own = _read_json(folder / "chat_template.json").get("chat_template")
    return _named_template(own if own is not None else settings.get("chat_template"), name)


def _named_template(value: object, name: str) -> str | None:
    """One of several templates; a template that is alone is the default one."""
    if isinstance(value, list):
        named = [_object(item) for item in value]
        value = {str(item.get("name")): item.get("template") for item in named}
    elif not isinstance(value, Mapping):
        value = {"default": value}
    template = value.get(name)
    return template if isinstance(template, str) else None


def _token_text(value: object) -> str | None:
    """A token is written as a string, or as an object with its `content`."""
    text = _object(value).get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _object(value: object) -> _JSON:
    return value if isinstance(value, Mapping) else {}


def _read_json(path: Path) -> _JSON:
    """A JSON object, empty if there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} is damaged: it does not hold a JSON object")
    return value
