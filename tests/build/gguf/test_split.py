"""Split files, written by the gguf package: read as the whole file, whichever part is given; and damaged sets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from genai.build.gguf import file as file_module
from genai.build.gguf.file import GgufFile
from genai.build.gguf.source import GgufSource
from genai.build.open import files_digest, open_source, source_digest
from genai.errors import UnsupportedModelError, WeightsError
from tests.build.gguf.test_file import MUTATIONS

RNG = np.random.default_rng(23)
TENSORS = {f"t{number}": RNG.standard_normal((4, 32)).astype(np.float32) for number in range(5)}


def write(path: Path, tensors: dict[str, np.ndarray] = TENSORS, **options: Any) -> list[Path]:
    """A file, or the parts of one, of two tensors each; the first part has none if `small_first_shard`."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=2, **options)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    for name, tensor in tensors.items():
        raw = gguf.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}[-.]*"))


@pytest.mark.parametrize(("options", "count"), [({}, 3), ({"small_first_shard": True}, 4)])
def test_any_part_is_the_whole(tmp_path: Path, options: dict[str, Any], count: int) -> None:
    parts = write(tmp_path / "m.gguf", **options)
    assert [part.name for part in parts] == [f"m-0000{n}-of-0000{count}.gguf" for n in range(1, count + 1)]
    for part in parts:
        with GgufFile(part) as file:
            assert (file.path, file.parts) == (parts[0], parts)
            assert file.metadata["tokenizer.ggml.tokens"] == ["a", "b"]
            assert list(file.tensors) == list(TENSORS)
            for name, tensor in TENSORS.items():
                raw = gguf.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
                np.testing.assert_array_equal(file.read(name), gguf.dequantize(raw, gguf.GGMLQuantizationType.Q8_0))
                np.testing.assert_array_equal(file.raw(file.info(name).rows(1, 3)), raw[1:3])
    assert source_digest(tmp_path) == source_digest(parts[1]) == files_digest(parts)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    parts = write(tmp_path / "m.gguf")
    parts[1].unlink()
    with pytest.raises(WeightsError, match=r"1 are missing: m-00002-of-00003\.gguf"):
        GgufFile(parts[0])
    with pytest.raises(WeightsError, match=r"1 are missing: m-00002-of-00003\.gguf"):
        open_source(tmp_path)


def renamed(parts: list[Path]) -> Path:
    return parts[1].rename(parts[1].with_name("renamed.gguf"))


def swapped(parts: list[Path]) -> Path:
    parts[1].rename(parts[1].with_name("x"))
    parts[2].rename(parts[1])
    parts[1].with_name("x").rename(parts[2])
    return parts[0]


def of_another_model(parts: list[Path]) -> Path:
    folder = parts[0].parent / "other"
    folder.mkdir()
    other = write(folder / "m.gguf", {name + "x": tensor for name, tensor in TENSORS.items()} | {"y": TENSORS["t0"]})
    shutil.copy(other[1], parts[1])
    return parts[0]


def of_the_same_model(parts: list[Path]) -> Path:
    """A part of another way of splitting it, which has a tensor that is elsewhere too."""
    folder = parts[0].parent / "other"
    folder.mkdir()
    other = write(folder / "m.gguf", dict(reversed(TENSORS.items())))
    shutil.copy(other[2], parts[2])
    return parts[0]


def whole_in_disguise(parts: list[Path]) -> Path:
    folder = parts[0].parent / "other"
    folder.mkdir()
    [whole] = write(folder / "m.gguf", {"t": TENSORS["t0"]})
    shutil.copy(whole, parts[1])
    return parts[0]


MIXED: dict[str, tuple[Callable[[list[Path]], Path], str]] = {
    "renamed": (renamed, r"renamed.gguf is part 2 of 3: give it back its name, NAME-00002-of-00003\.gguf"),
    "swapped": (swapped, r"m-00002-of-00003.gguf is part 3 of 3 by its metadata, not 2 of 3: parts are mixed"),
    "another model": (of_another_model, r"00002-of-00003.gguf is of another file .*split.tensors.count is 6, there 5"),
    "the same model": (of_the_same_model, r"00003-of-00003.gguf is of another file .* both have the tensor 't0'"),
    "whole": (whole_in_disguise, r"00002-of-00003.gguf is named as part 2 of 3, but is none"),
}


@pytest.mark.parametrize("case", MIXED)
def test_parts_that_do_not_belong_together(tmp_path: Path, case: str) -> None:
    change, match = MIXED[case]
    with pytest.raises(WeightsError, match=match) as caught:
        GgufFile(change(write(tmp_path / "m.gguf")))
    assert "\n" not in str(caught.value)


def test_tensors_that_are_in_no_part(tmp_path: Path) -> None:
    parts = write(tmp_path / "m.gguf")
    for part in parts:
        content = part.read_bytes()
        key = b"split.tensors.count"
        assert content.count(key) == 1
        value = content.index(key) + len(key) + 4
        part.write_bytes(content[:value] + (7).to_bytes(4, "little") + content[value + 4 :])
    with pytest.raises(WeightsError, match="its 3 parts have 5 tensors, of 7: mixed or cut off"):
        GgufFile(parts[0])


def test_one_part_of_one_is_a_file(tmp_path: Path) -> None:
    [whole] = write(tmp_path / "m.gguf", {"t": TENSORS["t0"]})
    with GgufFile(whole.rename(tmp_path / "m-00001-of-00001.gguf")) as file:
        assert list(file.tensors) == ["t"]


def written(path: Path, **metadata: object) -> Path:
    """A file of one tensor, with numbers and lists of them as metadata."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        add: Any = writer.add_array if isinstance(value, list) else writer.add_uint16
        add(key, value)
    writer.add_tensor("t", TENSORS["t0"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_parts_that_were_merged_are_a_file(tmp_path: Path) -> None:
    """llama.cpp's `gguf-split --merge` leaves the keys there and says that there are 0 parts."""
    said = {"split.no": 0, "split.count": 0, "split.tensors.count": 1}
    with GgufFile(written(tmp_path / "m.gguf", **said)) as file:
        assert list(file.tensors) == ["t"]


@pytest.mark.parametrize("key", ["split.no", "split.count", "split.tensors.count"])
def test_what_is_no_number_of_a_part(tmp_path: Path, key: str) -> None:
    with pytest.raises(WeightsError, match=rf"damaged: {key} is .*, not a number"):
        GgufFile(written(tmp_path / "m.gguf", **{key: [1, 2]}))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=MUTATIONS)
def test_any_mutation_of_a_part_reads_or_is_refused(tmp_path: Path, mutations: list[tuple[int, bytes]]) -> None:
    original = tmp_path / "original"
    if not original.exists():
        original.mkdir()
        write(original / "m.gguf")
    shutil.copytree(original, tmp_path / "copy", dirs_exist_ok=True)
    part = tmp_path / "copy" / "m-00002-of-00003.gguf"
    content = bytearray(part.read_bytes())
    for position, patch in mutations:
        start = position % len(content)
        content[start : start + len(patch)] = patch
    part.write_bytes(content)
    try:
        with GgufFile(part) as file:
            for name, info in file.tensors.items():
                assert file.read(name).shape == info.shape
    except (WeightsError, UnsupportedModelError) as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("change", [
    lambda w: w.add_type("mmproj"),
    lambda w: None,
], ids=["type", "architecture"])  # fmt: skip
def test_what_sees_for_a_model_is_none(tmp_path: Path, change: Callable[[Any], None]) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "clip")
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match=r"sees or hears \(mmproj\), not the model: give the GGUF file"):
        GgufSource(tmp_path / "m.gguf")


@pytest.mark.parametrize("key", ["general.type", "general.architecture"])
def test_what_is_said_of_a_file_is_text(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "m.gguf")
    parse = file_module._parse

    def changed(*given: Any) -> Any:
        metadata, tensors = parse(*given)
        return metadata | {key: np.array([1, 2])}, tensors

    monkeypatch.setattr(file_module, "_parse", changed)
    with pytest.raises((UnsupportedModelError, WeightsError), match=r"holds no model|is missing"):
        GgufSource(path)


def test_a_folder_with_what_sees_beside_the_model(tmp_path: Path) -> None:
    write(tmp_path / "mmproj-m.gguf", {"t": TENSORS["t0"]})
    parts = write(tmp_path / "m.gguf")
    assert source_digest(tmp_path) == files_digest(parts)
    write(tmp_path / "n.gguf", {"t": TENSORS["t0"]})
    with pytest.raises(WeightsError, match=r"has 2 models; give one of them: m-00001-of-00003\.gguf, n\.gguf"):
        source_digest(tmp_path)
