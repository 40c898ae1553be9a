"""Packages: whole or not at all, whatever goes wrong; what is in them; and how much memory building one takes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

import genai.build.graph
import genai.build.weights
from genai.build.architectures import spec_of
from genai.build.architectures.config import ConfigReader
from genai.build.decoder import build_decoder
from genai.build.graph import ExternalData, GraphBuilder
from genai.build.package import BUILDER, build_package, package_key
from genai.build.precision import Plan
from genai.build.source import BlockWeight
from genai.build.weights import Weights
from genai.config import ModelConfig, Precision
from genai.errors import (
    ConfigError,
    GenAIError,
    ModelError,
    ModelNotFoundError,
    TokenizerError,
    UnsupportedModelError,
    WeightsError,
)
from tests.build import tiny
from tests.families.cases.gemma_gpt_oss import GEMMA4

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module", name="original")
def original_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder that no test changes."""
    return tiny.save(tiny.make_model("qwen2"), tmp_path_factory.mktemp("original"))


@pytest.fixture(name="source")
def source_fixture(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original, tmp_path / "source"))


@pytest.fixture(name="output")
def output_fixture(tmp_path: Path) -> Path:
    return tmp_path / "out" / "package"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_hugging_face_folder_end_to_end(source: Path, output: Path) -> None:
    (source / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert build_package(source, output, precision="f32") == output
    assert names(output) == {"model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja", "genai.json"}
    assert names(output.parent) == {"package"}
    assert output.stat().st_mode & 0o777 == 0o755
    config = ModelConfig.read(output)
    assert (config.model_type, config.num_layers, config.head_dim, config.max_position) == ("qwen2", 3, 16, 256)
    assert (config.eos_token_ids, config.bos_token_id, config.pad_token_id) == ((2,), 1, 0)
    assert (config.provenance.source, config.provenance.precision, config.provenance.builder) == (
        "source", "f32", BUILDER,
    )  # fmt: skip
    prompt = tiny.tokens(6)
    with tiny.loaded(output) as llm:
        from_text = llm.generate(" ".join(f"t{token}" for token in prompt), max_new_tokens=5, ignore_eos=True)
        from_message = llm.generate([{"role": "user", "content": "t5 t6"}], max_new_tokens=1)
    assert from_text.token_ids == tiny.greedy(tiny.load(source), prompt, 5)
    assert from_message.usage.prompt_tokens == 2


def test_building_twice_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    first, second = (build_package(source, tmp_path / name, precision="int8") for name in ("first", "second"))
    for name in names(first):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_package_keys_tell_builds_apart(source: Path) -> None:
    base: dict[str, Any] = {"precision": "auto", "device": "cpu", "max_seq_len": None, "sha256": "0" * 64}
    changes: list[dict[str, Any]] = [
        {"precision": "int8"}, {"device": "cuda"}, {"max_seq_len": 512}, {"sha256": "1" * 64}, {},
    ]  # fmt: skip
    keys = {package_key(source, **(base | change)) for change in changes}
    assert len(keys) == len(changes)
    assert all(len(key) == 12 and set(key) <= set("0123456789abcdef") for key in keys)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 9}, {"do_sample": True, "top_p": 0.9}),
        ({"temperature": 0.6, "top_k": 40}, {"do_sample": False, "top_k": 40}),
        ({"repetition_penalty": 1.1, "top_k": None}, {"do_sample": False, "repetition_penalty": 1.1}),
        ({"eos_token_id": [2, 5], "temperature": 0}, {"do_sample": False}),
        ({"suppress_tokens": [7, 9, 999_999]}, {"do_sample": False, "suppress_tokens": [7, 9]}),
        ({"do_sample": True, "top_p": 0.9, "suppress_tokens": None}, {"do_sample": True, "top_p": 0.9}),
    ],
)
def test_generation_defaults(source: Path, output: Path, written: dict[str, Any], kept: dict[str, Any]) -> None:
    (source / "generation_config.json").write_text(json.dumps(written))
    config = ModelConfig.read(build_package(source, output))
    assert dict(config.generation).items() >= kept.items()
    assert set(config.generation) <= {*kept, "temperature"}
    assert config.eos_token_ids == tuple(written.get("eos_token_id", [2]))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_suppressed_tokens_never_come_unless_a_request_says_so(source: Path, output: Path, num_beams: int) -> None:
    """As in transformers, which reads them from the same file."""
    prompt, options = tiny.tokens(12), {"max_new_tokens": 8, "num_beams": num_beams}
    model = tiny.load(source)
    free = tiny.greedy(model, prompt, 8)
    (source / "generation_config.json").write_text(json.dumps({"suppress_tokens": sorted({*free, 2})}))
    model = tiny.load(source)
    wanted = model.generate(torch.tensor([prompt]), do_sample=False, **options)[0, len(prompt) :].tolist()
    with tiny.loaded(build_package(source, output, precision="f32")) as llm:
        assert llm.generate(prompt, **options).token_ids == wanted
        assert not {*free} & {*wanted}
        if num_beams == 1:
            assert llm.generate(prompt, suppress_tokens=[], ignore_eos=True, **options).token_ids == free


def test_without_generation_config_there_are_no_defaults(source: Path, output: Path) -> None:
    (source / "generation_config.json").unlink(missing_ok=True)
    assert ModelConfig.read(build_package(source, output)).generation == {}


@contextmanager
def refused(source: Path, output: Path, error: type[GenAIError], match: str) -> Iterator[None]:
    """The block raises this in one line, and the output's parent is as it was."""
    before = {path: path.read_bytes() for path in output.parent.rglob("*") if path.is_file()}
    with pytest.raises(error, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in output.parent.rglob("*") if path.is_file()} == before
    assert not [name for name in names(output.parent) if name.startswith(".")]


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: change_tensors(folder, lambda tensors: tensors.pop(name))


def put(name: str, *shape: int) -> Callable[[Path], None]:
    array = np.zeros(shape, np.float32)
    return lambda folder: change_tensors(folder, lambda tensors: tensors.update({name: array}))


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 30_000)


ATTENTION = "model.layers.1.self_attn"
DAMAGE: dict[str, tuple[Callable[[Path], None], type[GenAIError], str]] = {
    "missing tensor": (drop(f"{ATTENTION}.o_proj.weight"), WeightsError, f"no tensor '{ATTENTION}.o_proj.weight'"),
    "missing norm": (drop("model.norm.weight"), WeightsError, r"no tensor 'model\.norm\.weight'"),
    "missing bias": (drop(f"{ATTENTION}.k_proj.bias"), WeightsError, f"no tensor '{ATTENTION}.k_proj.bias'"),
    "missing head": (drop("lm_head.weight"), WeightsError, r"no tensor 'lm_head\.weight'; .*tie_word"),
    "wrong shape": (put("model.norm.weight", 65), WeightsError, r"'model.norm.weight' has shape \[65\], .* \[64\]"),
    "transposed": (put("model.layers.0.mlp.up_proj.weight", 64, 96), WeightsError, r"has shape \[64, 96\]"),
    "wrong bias": (put(f"{ATTENTION}.v_proj.bias", 33), WeightsError, r"shape \[33\], its configuration says \[32\]"),
    "extra tensor": (put("model.layers.0.mlp.gate.weight", 4, 64), UnsupportedModelError,
                     r"has 1 tensors .* not use: model\.layers\.0\.mlp\.gate\.weight"),
    "extra layer": (lambda folder: set_config(folder, num_hidden_layers=2), UnsupportedModelError, "12 tensors .* …"),
    "unknown architecture": (lambda folder: set_config(folder, model_type="unheard-of"), UnsupportedModelError,
                             "'unheard-of' is not supported.* Supported: "),
    "bad configuration": (lambda folder: set_config(folder, hidden_size="64"), WeightsError, "hidden_size='64'"),
    "cut off": (cut, WeightsError, "damaged or cut off"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), ModelNotFoundError, "neither"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), ModelNotFoundError, "json is missing"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), TokenizerError, "holds no tokenizer"),
    "damaged tokenizer": (write("tokenizer.json", "{"), TokenizerError, "tokenizer.json"),
    "damaged settings": (write("generation_config.json", "[1]"), GenAIError, "generation_config.json"),
    "bad tokens": (write("generation_config.json", '{"suppress_tokens": ["x"]}'), ModelError, "suppress_tokens"),
    "bad settings": (write("generation_config.json", '{"top_p": -1}'), ModelError, "cannot be used: top_p=-1"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("precision", ["f32", "auto"])
def test_damage_is_one_clear_error(source: Path, output: Path, name: str, precision: Precision) -> None:
    damage, error, match = DAMAGE[name]
    damage(source)
    with refused(source, output, error, match):
        build_package(source, output, precision=precision)
    assert not output.parent.exists()


def test_bad_options_are_refused(source: Path, output: Path) -> None:
    with refused(source, output, ConfigError, "max_seq_len=0: must be at least 1"):
        build_package(source, output, max_seq_len=0)


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        build_package(tmp_path / "nothing", tmp_path / "package")
    assert names(tmp_path) == set()


def test_a_failed_build_keeps_the_package_that_was_there(source: Path, output: Path) -> None:
    build_package(source, output, precision="f32")
    drop("model.norm.weight")(source)
    with refused(source, output, WeightsError, "model.norm"):
        build_package(source, output, precision="int8")
    assert ModelConfig.read(output).provenance.precision == "f32"


def test_an_older_package_is_replaced(source: Path, output: Path) -> None:
    build_package(source, output, precision="f32")
    (output / "stray").write_text("")
    build_package(source, output, precision="int8")
    assert ModelConfig.read(output).provenance.precision == "int8"
    assert "stray" not in names(output)
    assert names(output.parent) == {"package"}


def test_an_empty_folder_is_used(source: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output.mkdir(parents=True)
    build_package(source, output)
    empty = output.with_name("empty")
    empty.mkdir()
    monkeypatch.chdir(empty)
    build_package(source, Path("deeper/still"))
    assert "genai.json" in names(empty / "deeper" / "still")


def test_other_peoples_folders_and_files_are_left_alone(source: Path, output: Path) -> None:
    output.mkdir(parents=True)
    (output / "thesis.txt").write_text("precious")
    with refused(source, output, ModelError, "exists and is not a model package; choose another"):
        build_package(source, output)
    file = output / "thesis.txt"
    with refused(source, file, ModelError, "exists and is not a model package"):
        build_package(source, file)
    with refused(source, source, ModelError, "exists and is not a model package"):
        build_package(source, source)
    with refused(source, file / "package", ModelError, "cannot write .*(Not a directory|File exists)"):
        build_package(source, file / "package")


def test_a_link_to_a_package_stays_a_link(source: Path, output: Path) -> None:
    build_package(source, output, precision="f32")
    link = output.with_name("link")
    link.symlink_to(output)
    build_package(source, link, precision="int8")
    assert link.is_symlink()
    assert ModelConfig.read(output).provenance.precision == "int8"


FULL_DISKS: dict[str, tuple[object, str]] = {
    "weights": (genai.build.graph.ExternalData, "write_stack"),
    "graph": (onnx, "save"),
    "tokenizer and configuration": (Path, "write_text"),
    "rename": (Path, "rename"),
}


@pytest.mark.parametrize("name", FULL_DISKS)
def test_a_full_disk_is_one_clear_error(source: Path, output: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    output.parent.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(*FULL_DISKS[name], fail)
        with refused(source, output, ModelError, "the disk is full: cannot write .*free some space"):
            build_package(source, output)
    build_package(source, output)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_fills_up_while_the_file_is_closed() -> None:
    """Small files fit the buffer: the error comes when it is flushed."""
    with pytest.raises(OSError, match="No space left"), ExternalData(Path("/dev/full")) as data:
        data.write("small", np.zeros(8, np.float32))


def test_a_failed_rename_brings_the_older_package_back(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_package(source, output, precision="f32")
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if target == output and not path.name.endswith(".old"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with refused(source, output, ModelError, "cannot write .*Permission denied"):
        build_package(source, output, precision="int8")
    assert ModelConfig.read(output).provenance.precision == "f32"


def test_an_interrupted_build_leaves_nothing(source: Path, output: Path) -> None:
    def interrupt(_: str, done: int, total: int) -> None:
        assert names(output.parent), "the build has not begun to write"
        if 2 * done > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_package(source, output, progress=interrupt)
    assert not output.parent.exists()


SLOW_BUILD = """
import sys
from pathlib import Path
from genai.build.package import build_package

paused = []

def pause(stage, done, total):
    if stage == "building" and 2 * done > total and not paused:
        paused.append(stage)
        print("paused", flush=True)
        sys.stdin.readline()

build_package(Path(sys.argv[1]), Path(sys.argv[2]), precision="f32", progress=pause)
"""


@contextmanager
def paused_build(source: Path, output: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a build; it goes on when a line is written to it."""
    command = [sys.executable, "-c", SLOW_BUILD, str(source), str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "paused\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_build_is_cleaned_up_by_the_next_one(source: Path, output: Path) -> None:
    with paused_build(source, output) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    (leftover,) = output.parent.iterdir()
    assert leftover.name.startswith(".package.")
    assert not output.exists()
    assert "genai.json" not in names(leftover)
    bystander = output.with_name(".package-of-mine")
    bystander.mkdir()
    build_package(source, output)
    assert names(output.parent) == {"package", bystander.name}


def test_two_builds_to_one_place_do_not_disturb_each_other(source: Path, output: Path) -> None:
    with paused_build(source, output) as process:
        build_package(source, output, precision="int8")
        assert ModelConfig.read(output).provenance.precision == "int8"
        process.communicate("go on\n", timeout=60)
        assert process.returncode == 0
    assert ModelConfig.read(output).provenance.precision == "f32"
    assert names(output.parent) == {"package"}


class LargeSource:
    """A checkpoint of 100 MB that is made while it is read: 8,000 × 512 at its ends, layers of 14 MB."""

    config: ClassVar[dict[str, Any]] = {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
        "num_attention_heads": 8, "vocab_size": 8000, "max_position_embeddings": 64,
    }  # fmt: skip
    LARGEST = 8000 * 512 * 4

    def __init__(self, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
        self._shapes = self._of_all_layers() if shapes is None else shapes

    def _of_all_layers(self) -> dict[str, tuple[int, ...]]:
        shapes = {"q_proj": (512, 512), "k_proj": (512, 512), "v_proj": (512, 512), "o_proj": (512, 512)}
        result: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (8000, 512), "lm_head.weight": (8000, 512), "model.norm.weight": (512,),
        }  # fmt: skip
        for layer in range(6):
            prefix = f"model.layers.{layer}"
            result |= {f"{prefix}.self_attn.{name}.weight": shape for name, shape in shapes.items()}
            result |= {f"{prefix}.mlp.{name}_proj.weight": (1536, 512) for name in ("gate", "up")}
            result |= {f"{prefix}.mlp.down_proj.weight": (512, 1536)}
            result |= {f"{prefix}.{name}_layernorm.weight": (512,) for name in ("input", "post_attention")}
        return result

    def names(self) -> set[str]:
        return set(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        shape = self._shapes[name]
        shape = shape if rows is None else (rows.stop - rows.start, *shape[1:])
        return np.full(shape, 0.01, np.float32)

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        return None


@pytest.mark.parametrize("precision", ["f32", "f16", "int8", "int4"])
def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path, precision: Precision) -> None:
    """Not by the model: a tensor as it is read, and what is made of it; then both are let go.

    1.0 × the largest tensor in f32, 1.5 in f16 (the rounded copy), 1.4 in 8 bits (values, scales, work space).
    """
    source = LargeSource()
    tracemalloc.start()
    try:
        with ExternalData(tmp_path / "model.onnx.data") as data:
            weights = Weights(GraphBuilder(data), source, Plan.of(precision, "cpu"))
            build_decoder(spec_of(ConfigReader(source.config)), weights, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * source.LARGEST
    if precision == "f32":
        assert (tmp_path / "model.onnx.data").stat().st_size > 6 * source.LARGEST


@pytest.mark.parametrize("precision", ["f32", "f16", "int8"])
def test_tables_are_read_in_pieces(tmp_path: Path, precision: Precision) -> None:
    """Gemma 4's table of all layers' embeddings has 9 GB in float32: here one of 134 MB, two pieces of which fit."""
    shape = (1 << 18, 128)
    source = LargeSource({"table.weight": shape})
    tracemalloc.start()
    try:
        with ExternalData(tmp_path / "model.onnx.data") as data:
            weights = Weights(GraphBuilder(data), source, Plan.of(precision, "cpu"))
            weights.embedding("ids", "table", *shape)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    scales = shape[0] * shape[1] // 64 * 4 if precision == "int8" else 0
    # Measured: 2.0 pieces of 4 M float32 (one is still there when the next is read), in 8 bits 1.9.
    assert peak - scales < 2.5 * 4 * (1 << 22)


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
def test_pieces_make_the_same_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], precision: Precision
) -> None:
    """Embedding, head and the table of all layers' embeddings, in more than one piece each, the last one shorter."""
    source = tiny.save(tiny.make_model("gemma4_text", **(GEMMA4 | options)), tmp_path / "checkpoint")
    wanted = build_package(source, tmp_path / "whole", precision=precision)
    monkeypatch.setattr(genai.build.weights, "_PIECE_ELEMENTS", 64 * 70)
    cut = build_package(source, tmp_path / "cut", precision=precision)
    for file in ("model.onnx", "model.onnx.data"):
        assert (cut / file).read_bytes() == (wanted / file).read_bytes()
