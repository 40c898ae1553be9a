from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from genai.build.gguf.file_names import form_of, is_beside, models_among, part_of, parts_of, quantization_of, stem_of
from genai.errors import WeightsError


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("m-Q4_K_M-00002-of-00003.gguf", ("m-Q4_K_M", 2, 3)),
        ("m-00001-of-00001.gguf", ("m", 1, 1)),
        ("m-00000-of-00003.gguf", None),
        ("m-00004-of-00003.gguf", None),
        ("m-1-of-3.gguf", None),
        ("m-00001-of-00003.safetensors", None),
        ("m.gguf", None),
    ],
)
def test_names_of_parts(name: str, part: tuple[str, int, int] | None) -> None:
    assert part_of(name) == part


def test_stems() -> None:
    assert stem_of(PurePath("a/m.v1-00002-of-00003.gguf")) == "m.v1"
    assert stem_of(PurePath("a/m.v1.gguf")) == "m.v1"


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def test_parts_beside_each_other(tmp_path: Path) -> None:
    parts = touch(tmp_path, *(f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)))
    touch(tmp_path, "m-00001-of-00002.gguf", "other-00001-of-00003.gguf")
    for part in parts:
        assert parts_of(part) == parts
    assert parts_of(tmp_path / "m.gguf") == [tmp_path / "m.gguf"]


def test_missing_parts_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "m-00002-of-00003.gguf")
    missing = r"is one of 3 parts, of which 2 are missing: m-00001-of-00003.gguf, m-00003-of-00003.gguf; put all into "
    with pytest.raises(WeightsError, match=missing):
        parts_of(tmp_path / "m-00002-of-00003.gguf")
    touch(tmp_path, "n-00001-of-99999.gguf")
    with pytest.raises(WeightsError, match=r"n-00009-of-99999.gguf and 99990 more"):
        parts_of(tmp_path / "n-00001-of-99999.gguf")


def test_models_of_a_folder(tmp_path: Path) -> None:
    names = ["b-00002-of-00002.gguf", "b-00001-of-00002.gguf", "b.gguf", "mmproj-b-F16.gguf", "b.MMPROJ.gguf", "c.bin",
             "b-imatrix.gguf", "b-imatrix-Q4_0.gguf"]  # fmt: skip
    found = [path.name for path in models_among(touch(tmp_path, *names))]
    assert found == ["b-00001-of-00002.gguf", "b-imatrix-Q4_0.gguf", "b.gguf"]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "Q4_K_M"),
        ("model.i1-IQ3_XXS.gguf", "I1-IQ3_XXS"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("UD-IQ1_S/DeepSeek-R1-UD-IQ1_S-00001-of-00004.gguf", "UD-IQ1_S"),
        ("Q8_0/model-00001-of-00002.gguf", "Q8_0"),
        ("Phi-3-mini-4k-instruct-fp16.gguf", "F16"),
        ("Phi-3-mini-4k-instruct-q4.gguf", "Q4"),
        ("F16-merged-Q5_K_S.gguf", "Q5_K_S"),
        ("x-BF16.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("x_Q4_0_4_8.gguf", "Q4_0_4_8"),
        ("x-Q4_K_M-imat.gguf", "Q4_K_M"),
        ("tinyllama.gguf", None),
        ("seq4-tq16.gguf", None),
    ],
)
def test_forms(name: str, form: str | None) -> None:
    assert quantization_of(name) == form


def test_spellings_of_forms() -> None:
    assert [form_of(text) for text in ("q4_k_m", "FP16", "ud-q2_k_xl", "Q4_K_M.gguf", "big", "")] == [
        "Q4_K_M", "F16", "UD-Q2_K_XL", None, None, None,
    ]  # fmt: skip


def test_what_lies_beside() -> None:
    assert is_beside("sub/mmproj-F16.gguf")
    assert is_beside("imatrix_unsloth.gguf")
    assert not is_beside("mmproj/model-Q4_0.gguf")
