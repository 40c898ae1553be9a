"""Real vocabularies of a dozen families against the token ids that their original tokenizers gave.

llama.cpp keeps both for its own tests, and its Python package's source archive carries them: `ggml-vocab-NAME.gguf`,
texts in `….inp`, ids in `….out`, made by transformers from each model's tokenizer.json.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import urllib.request
from pathlib import Path
from unicodedata import normalize

import pytest

from genai.build.gguf.file import GgufFile
from genai.models import wheels
from genai.tokenizer.gguf_tokenizer import tokenizer_from_gguf

pytestmark = pytest.mark.slow

ARCHIVE = "llama_cpp_python-0.3.36.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
NAMES = (
    *("command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe", "llama-spm", "mpt"),
    *("phi-3", "qwen2", "qwen35", "refact", "starcoder"),
)


@pytest.fixture(scope="session")
def vocabularies(pytestconfig: pytest.Config) -> Path:
    """A folder with these files, fetched once; it stays in pytest's cache."""
    assert pytestconfig.cache is not None
    folder = Path(pytestconfig.cache.mkdir("vocabularies"))
    if not all((folder / f"ggml-vocab-{name}.gguf.out").exists() for name in NAMES):
        versions = wheels._run_pip("index", "versions", "-vv", "llama-cpp-python")
        link = re.search(rf"Found link (https?://\S+/{re.escape(ARCHIVE)})", versions.stdout)
        if link is None:
            pytest.skip(f"pip does not tell where {ARCHIVE} is")
        archive, _ = urllib.request.urlretrieve(link[1])
        with open(archive, "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256
        with tarfile.open(archive) as members:
            for member in members:
                if re.search(r"/models/ggml-vocab-[^/]*\.gguf(\.inp|\.out)?$", member.name):
                    content = members.extractfile(member)
                    assert content is not None
                    (folder / Path(member.name).name).write_bytes(content.read())
        Path(archive).unlink()
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_the_originals(vocabularies: Path, name: str) -> None:
    file = vocabularies / f"ggml-vocab-{name}.gguf"
    written = file.with_name(f"{file.name}.inp").read_text(encoding="utf-8")
    texts = written.removesuffix("\n__ggml_vocab_test__\n").split("\n__ggml_vocab_test__\n")
    lines = file.with_name(f"{file.name}.out").read_text().splitlines()
    assert len(texts) == len(lines) > 40
    with GgufFile(file) as opened:
        tokenizer = tokenizer_from_gguf(opened.metadata).tokenizer
    wrong = {
        text
        for text, line in zip(texts, lines, strict=True)
        if tokenizer.encode(text, add_special_tokens=False).ids != [int(number) for number in line.split()]
    }
    # llama.cpp does not bring text into normal form C; Qwen 3.5's tokenizer.json does, and so do we.
    other = {text for text in texts if normalize("NFC", text) != text} if name == "qwen35" else set()
    assert wrong == other
