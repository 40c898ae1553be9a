"""Models by hub id, through the real client and a small hub on loopback."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from genai.errors import ModelNotFoundError, UnsupportedModelError
from genai.models.hub import HubId, choose_files
from tests.models.loopback import HubServer

FOLDER = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model-00001-of-00002.safetensors": b"one",
    "model-00002-of-00002.safetensors": b"two",
    "model.safetensors.index.json": b"{}",
    "consolidated.safetensors": b"twice",
    "pytorch_model.bin": b"pickle",
    "original/params.json": b"{}",
    "README.md": b"read me",
}
GGUF = random.Random(0).randbytes(200_000)

# The client reads its settings when it is imported, so each call is a process of its own.
FETCH = """
import json, sys
from genai import models
from genai.errors import GenAIError
from genai.models import library
seen = []
try:
    for name in sys.argv[1:]:
        path = str(models.pull(name, progress=lambda *what: seen.append(what)))
        source, label = library._source(name, lambda *what: None)
        assert str(source) == path, source
    print(json.dumps({"path": path, "label": label, "progress": seen}))
except GenAIError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A hub on loopback, and the client's settings for it."""

    server: HubServer
    environment: dict[str, str]

    def fetch(self, *names: str, **environment: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-c", FETCH, *names],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, object] = json.loads(done.stdout) | {"said": done.stderr}
        assert "\n" not in str(answer.get("message"))
        return answer


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = HubServer()
    server.repos["org/model"] = dict(FOLDER)
    server.repos["org/quants"] = {"a.Q4_0.gguf": GGUF, "a.Q8_0.gguf": b"GGUF 8"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "GENAI_HOME": str(tmp_path / "home"),
    }
    yield Hub(server=server, environment=environment)
    server.close()


def test_folder_and_what_is_here_stays(hub: Hub) -> None:
    answer = hub.fetch("org/model")
    assert answer["label"] == "org--model"
    names = {path.name for path in Path(str(answer["path"])).iterdir()}
    assert names == FOLDER.keys() - {
        "consolidated.safetensors",
        "pytorch_model.bin",
        "original/params.json",
        "README.md",
    }
    assert answer["progress"][0][0] == "asking the hub for org/model"  # type: ignore[index]
    hub.server.repos["org/model"]["config.json"] = b'{"changed": true}'
    assert hub.fetch("org/model@main")["path"] == answer["path"]


def test_one_gguf_by_name_or_part_of_it(hub: Hub) -> None:
    answer = hub.fetch("org/quants:a.Q4_0.gguf")
    assert Path(str(answer["path"])).read_bytes() == GGUF
    assert answer["label"] == "org--quants-a.Q4_0"
    assert answer["progress"][-1] == ["org/quants", len(GGUF), len(GGUF)]  # type: ignore[index]
    assert Path(str(hub.fetch("org/quants:q8_0")["path"])).name == "a.Q8_0.gguf"


def test_the_best_of_four_bits_is_taken_and_said(hub: Hub) -> None:
    answer = hub.fetch("org/quants")
    assert Path(str(answer["path"])).name == "a.Q4_0.gguf"
    line = "org/quants: taking a.Q4_0.gguf; name another as org/quants:FORM, of Q4_0, Q8_0\n"
    assert str(answer["said"]).endswith(line)
    assert ["org/quants: a.Q4_0.gguf", 0, 0] in answer["progress"]  # type: ignore[operator]
    assert hub.fetch("hf.co/org/quants:latest")["path"] == answer["path"]


def test_a_split_file_is_fetched_whole(hub: Hub) -> None:
    names = [f"Q4_K_M/m-Q4_K_M-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
    hub.server.repos["org/big"] = dict.fromkeys([*names, "mmproj-F16.gguf", "Q8_0/m-Q8_0.gguf"], GGUF)
    answer = hub.fetch("hf.co/org/big:q4_k_m")
    first = Path(str(answer["path"]))
    assert [f"Q4_K_M/{path.name}" for path in sorted(first.parent.iterdir())] == names
    assert first.name == "m-Q4_K_M-00001-of-00003.gguf"
    assert answer["label"] == "org--big-Q4_K_M"
    assert [f"org/big: {names[0]} and 2 more parts", 0, 0] in answer["progress"]  # type: ignore[operator]
    assert hub.fetch("org/big:Q4_K_M")["label"] == answer["label"]
    assert "mmproj-F16.gguf is no model" in str(hub.fetch("org/big:mmproj-F16.gguf")["message"])


def test_dropped_connection_is_tried_again(hub: Hub) -> None:
    hub.server.cut_at, hub.server.cuts = len(GGUF) // 2, 1
    answer = hub.fetch("org/quants:Q4_0")
    assert Path(str(answer["path"])).read_bytes() == GGUF
    assert hub.server.cuts == 0


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("org/absent", "ModelNotFoundError", "the hub has no model 'org/absent', or it is private"),
        ("org/model@v9", "ModelNotFoundError", "has not what was asked for at revision 'v9'"),
        ("org/model:x.gguf", "ModelNotFoundError", "org/model has no file 'x.gguf'; its GGUF files: none"),
        ("org/quants:Q5_0", "ModelNotFoundError", "org/quants has no file 'Q5_0'; its GGUF files: Q4_0, Q8_0"),
        ("gate/d", "DownloadError", "gate/d is gated: accept its terms"),
    ],
)
def test_what_is_not_to_be_had(hub: Hub, name: str, error: str, message: str) -> None:
    hub.server.repos["gate/d"] = dict(FOLDER)
    hub.server.gated.add("gate/d")
    answer = hub.fetch(name)
    assert answer["error"] == error
    assert message in str(answer["message"])


def test_no_network(hub: Hub) -> None:
    answer = hub.fetch("org/model", HF_ENDPOINT="http://127.0.0.1:1")
    assert answer["error"] == "DownloadError"
    assert "cannot fetch org/model from the hub" in str(answer["message"])
    answer = hub.fetch("org/model", HF_HUB_OFFLINE="1")
    assert answer["error"] == "DownloadError"
    assert "HF_HUB_OFFLINE" in str(answer["message"])


@pytest.mark.parametrize(
    ("text", "repo", "revision", "file"),
    [
        ("org/name", "org/name", None, None),
        ("org/name.v1@main", "org/name.v1", "main", None),
        ("org/name:f.gguf", "org/name", None, "f.gguf"),
        ("org/name:q4_k_m", "org/name", None, "Q4_K_M"),
        ("hf.co/org/name:fp16", "org/name", None, "F16"),
        ("https://huggingface.co/org/name", "org/name", None, None),
        ("org/name:latest", "org/name", None, None),
        ("org/na-me@refs/pr/1:sub/f.gguf", "org/na-me", "refs/pr/1", "sub/f.gguf"),
    ],
)
def test_hub_ids(text: str, repo: str, revision: str | None, file: str | None) -> None:
    hub_id = HubId.parse(text)
    assert hub_id == HubId(repo=repo, revision=revision, file=file)
    assert HubId.parse(str(hub_id)) == hub_id


@pytest.mark.parametrize(
    "text", ["name", "/org/name", "./name", "../name", "a/b/c", "org/", "org/name@", "org/name:", ""]
)
def test_no_hub_ids(text: str) -> None:
    assert HubId.parse(text) is None


def test_choose_files() -> None:
    names = ["config.json", "weights.safetensors", "a.gguf"]
    assert choose_files(HubId(repo="o/n"), names) == ["config.json", "weights.safetensors"]
    assert choose_files(HubId(repo="o/n"), ["config.json", "a.gguf"]) == ["a.gguf"]
    embeds = ["modules.json", "1_Pooling/config.json", "config_sentence_transformers.json", "onnx/config.json"]
    assert set(choose_files(HubId(repo="o/n"), [*names, *embeds])) == {*names, *embeds} - {"a.gguf", "onnx/config.json"}
    with pytest.raises(UnsupportedModelError, match="no safetensors weights"):
        choose_files(HubId(repo="o/n"), ["config.json", "pytorch_model.bin"])
    with pytest.raises(ModelNotFoundError, match=r"has several files 'a\.Q4'"):
        choose_files(HubId(repo="o/n", file="a.Q4"), ["a.Q4_0.gguf", "a.Q4_1.gguf"])
