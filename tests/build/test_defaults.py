"""A model's own sampling settings, from GGUF files; those of folders are in `test_package.py`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from genai.build.defaults import defaults_of_gguf
from genai.build.package import build_package
from genai.config import ModelConfig
from genai.errors import ModelError
from tests.build.gguf.test_names import make_model, write_gguf
from tests.build.tiny import VOCAB_SIZE
from tests.families.gguf_writer import write_vocabulary

KEYS = gguf.Keys.General
FILE = Path("m.gguf")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ({}, {}),
        ({KEYS.NAME: "x"}, {}),
        (
            {KEYS.SAMPLING_TEMP: 0.6, KEYS.SAMPLING_TOP_K: 20, KEYS.SAMPLING_TOP_P: float(np.float32(0.95))},
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95},
        ),
        (
            {KEYS.SAMPLING_MIN_P: 0.05, KEYS.SAMPLING_XTC_PROBABILITY: 0.5, KEYS.SAMPLING_XTC_THRESHOLD: 0.2},
            {"do_sample": True, "min_p": 0.05, "xtc_probability": 0.5, "xtc_threshold": 0.2},
        ),
        ({KEYS.SAMPLING_TEMP: 0.0, KEYS.SAMPLING_TOP_K: 20}, {}),
        ({KEYS.SAMPLING_PENALTY_REPEAT: 1.1}, {"do_sample": True, "repetition_penalty": 1.1}),
        (
            {KEYS.SAMPLING_TOP_K: 9, KEYS.SAMPLING_PENALTY_REPEAT: 1.1, KEYS.SAMPLING_PENALTY_LAST_N: 0},
            {"do_sample": True, "top_k": 9},
        ),
    ],
)
def test_settings_are_read(written: dict[str, Any], kept: dict[str, Any]) -> None:
    assert defaults_of_gguf(written, FILE) == kept


def test_what_is_not_supported_is_named(caplog: pytest.LogCaptureFixture) -> None:
    written = {KEYS.SAMPLING_MIROSTAT: 2, KEYS.SAMPLING_SEQUENCE: "top_k;temperature", KEYS.SAMPLING_TOP_K: 9}
    with caplog.at_level(logging.WARNING):
        assert defaults_of_gguf(written, FILE) == {"do_sample": True, "top_k": 9}
    assert "general.sampling.mirostat, general.sampling.sequence: not supported" in caplog.text
    caplog.clear()
    defaults_of_gguf({KEYS.SAMPLING_MIROSTAT: 0}, FILE)
    assert not caplog.text


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ModelError, match=r"m\.gguf: general\.sampling\.\* has settings .*top_p=7"):
        defaults_of_gguf({KEYS.SAMPLING_TOP_P: 7.0}, FILE)


def test_a_package_has_its_files_settings(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        write_vocabulary(writer, VOCAB_SIZE)
        writer.add_sampling_temp(0.7)
        writer.add_sampling_top_k(40)

    file = write_gguf(make_model("llama"), "llama", tmp_path / "m.gguf", change)
    config = ModelConfig.read(build_package(file, tmp_path / "package"))
    assert dict(config.generation) == {"do_sample": True, "temperature": 0.7, "top_k": 40}
