"""Hugging Face folders, held against `AutoTokenizer` on the same folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genai.errors import TokenizerError
from genai.tokenizer.gguf_tokenizer import tokenizer_from_gguf
from genai.tokenizer.hf_tokenizer import tokenizer_from_hf
from genai.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.vocabularies import (
    TORTURE,
    byte_level_metadata,
    sentencepiece_metadata,
    sentencepiece_model,
    tokenizer_of,
)

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer.json and nothing else."""
    metadata = byte_level_metadata()
    del metadata["tokenizer.chat_template"]
    tokenizer_from_gguf(metadata).save(tmp_path)
    return tmp_path


def write(folder: Path, name: str, **values: object) -> None:
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def test_agrees_with_auto_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    saved = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )
    saved.save_pretrained(folder)
    write(folder, "config.json", model_type="llama", eos_token_id=2)
    theirs = AutoTokenizer.from_pretrained(folder)
    files = tokenizer_from_hf(folder)
    ours = tokenizer_of(files)
    assert (files.bos_token_id, files.eos_token_ids, files.pad_token_id) == (1, (2,), 0)
    chat = [{"role": "user", "content": text} for text in TORTURE]
    assert ours.render_chat(chat) == theirs.apply_chat_template(chat, tokenize=False)
    assert ours.apply_chat_template(chat) == list(theirs.apply_chat_template(chat, tokenize=True)["input_ids"])
    for text in TORTURE:
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("in_json", [True, False])
def test_tokenizer_json_says_whether_bos_is_added_as_in_transformers(tmp_path: Path, in_json: bool) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer_from_gguf(byte_level_metadata(**{"tokenizer.ggml.add_bos_token": in_json})).save(tmp_path)
    settings = {"bos_token": "<|im_start|>", "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}}
    write(tmp_path, "tokenizer_config.json", **settings, add_bos_token=not in_json)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = tokenizer_of(tokenizer_from_hf(tmp_path))
    assert ours.encode("x") == theirs.encode("x")
    assert len(ours.encode("x")) == 1 + in_json
    assert ours.eos_token_ids == (theirs.eos_token_id,)


def test_end_tokens_are_gathered_in_order(folder: Path) -> None:
    write(folder, "generation_config.json", eos_token_id=[1, 0], bos_token_id=1)
    write(folder, "config.json", eos_token_id=0, bos_token_id=0, pad_token_id=-1)
    files = tokenizer_from_hf(folder)
    assert (files.bos_token_id, files.eos_token_ids, files.pad_token_id) == (1, (1, 0), None)
    write(folder, "tokenizer_config.json", eos_token="<|im_end|>", bos_token=None)
    files = tokenizer_from_hf(folder)
    assert (files.bos_token_id, files.eos_token_ids) == (None, (2, 1, 0))


def test_odd_configurations_do_no_harm(folder: Path) -> None:
    write(folder, "config.json", eos_token_id=["x", None, 2.5, True, 10**9, -1], text_config={"eos_token_id": 2})
    assert tokenizer_from_hf(folder).eos_token_ids == (2,)


def test_without_any_configuration(folder: Path) -> None:
    files = tokenizer_from_hf(folder)
    assert (files.bos_token_id, files.eos_token_ids, files.pad_token_id, files.chat_template) == (None, (), None, None)


def test_where_the_chat_template_comes_from(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "named"}]
    write(folder, "tokenizer_config.json", chat_template=named)
    assert tokenizer_from_hf(folder).chat_template == "named"
    write(folder, "tokenizer_config.json", chat_template="plain")
    assert tokenizer_from_hf(folder).chat_template == "plain"
    write(folder, "chat_template.json", chat_template="json")
    assert tokenizer_from_hf(folder).chat_template == "json"
    (folder / "chat_template.jinja").write_text("jinja")
    assert tokenizer_from_hf(folder).chat_template == "jinja"


def test_where_the_template_for_tools_comes_from(folder: Path) -> None:
    assert tokenizer_from_hf(folder).tool_template is None
    write(folder, "tokenizer_config.json", chat_template={"tool_use": "named", "default": "D"})
    assert tokenizer_from_hf(folder).tool_template == "named"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("file")
    assert tokenizer_from_hf(folder).tool_template == "file"


def test_transformers_chooses_the_same_template(folder: Path) -> None:
    """What transformers saves is read again, and is rendered as transformers renders it, with tools and without."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    templates = {
        "default": "D{% for m in messages %}{{ m.content }}{% endfor %}",
        "tool_use": "T{{ tools | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    theirs.chat_template = templates
    theirs.save_pretrained(folder / "saved")
    theirs = AutoTokenizer.from_pretrained(folder / "saved")
    tokenizer_from_hf(folder / "saved").save(folder)
    ours = Tokenizer.from_folder(folder, bos_token_id=None, eos_token_ids=())
    chat = [{"role": "user", "content": "x"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    for given in (None, tools):
        assert ours.render_chat(chat, tools=given, add_generation_prompt=False) == theirs.apply_chat_template(
            chat, tools=given, tokenize=False
        )
    assert ours.render_chat(chat, tools=tools).startswith("T1")


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_damaged_json_is_named(folder: Path, content: str) -> None:
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is damaged"):
        tokenizer_from_hf(folder)


def test_a_folder_without_tokenizer_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none of tokenizer\.json, tokenizer\.model, vocab\.json"):
        tokenizer_from_hf(tmp_path)


def test_what_transformers_cannot_convert_is_said(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"nonsense")
    write(tmp_path, "config.json", model_type="llama")
    write(tmp_path, "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    with pytest.raises(TokenizerError, match="transformers cannot convert"):
        tokenizer_from_hf(tmp_path)


def test_a_sentencepiece_model_is_converted(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(has_dummy_prefix=True))
    write(tmp_path, "config.json", model_type="llama", bos_token_id=1, eos_token_id=2)
    write(tmp_path, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>")
    files = tokenizer_from_hf(tmp_path)
    assert (files.bos_token_id, files.eos_token_ids) == (1, (2,))
    ours = tokenizer_of(tokenizer_from_gguf(sentencepiece_metadata(has_dummy_prefix=True)))
    text = "the shells she sells, 12 bananas"
    assert tokenizer_of(files).encode(text, add_special_tokens=False) == ours.encode(text, add_special_tokens=False)


def test_vocab_and_merges_are_converted(tmp_path: Path) -> None:
    metadata = byte_level_metadata()
    vocab = {token: token_id for token_id, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    write(tmp_path, "vocab.json", **vocab)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(metadata["tokenizer.ggml.merges"]), "utf-8")
    write(tmp_path, "config.json", model_type="gpt2")
    write(tmp_path, "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", eos_token="<|endoftext|>")
    files = tokenizer_from_hf(tmp_path)
    assert files.eos_token_ids == (0,)
    text = "I'll take the té, 123"
    assert tokenizer_of(files).encode(text) == tokenizer_of(tokenizer_from_gguf(metadata)).encode(text)


def test_transformers_is_imported_only_to_convert(folder: Path) -> None:
    program = (
        "import sys, pathlib; from genai.tokenizer.hf_tokenizer import tokenizer_from_hf; "
        "from tests.tokenizer.vocabularies import tokenizer_of; "
        "tokenizer_of(tokenizer_from_hf(pathlib.Path(sys.argv[1]))).encode('x'); "
        "sys.exit(sum(name in sys.modules for name in ('transformers', 'torch', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(folder)], check=False).returncode == 0
