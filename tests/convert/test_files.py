"""Which of several ONNX files is meant."""

from __future__ import annotations

import pytest

from genai.convert.files import choose_graph, form_of, weights_of
from genai.errors import ModelNotFoundError

FORMS = [
    "onnx/model.onnx",
    *(f"onnx/model_{form}.onnx" for form in ("fp16", "q4", "q4f16", "int8", "quantized", "uint8")),
]
OLD = [
    "onnx/decoder_model_merged.onnx",
    "onnx/decoder_model_merged_quantized.onnx",
    "onnx/decoder_model_quantized.onnx",
]


@pytest.mark.parametrize(
    ("names", "precision", "asked", "chosen"),
    [
        (FORMS, None, None, "onnx/model.onnx"),
        (FORMS, "auto", None, "onnx/model_q4.onnx"),
        (FORMS, "f16", None, "onnx/model_fp16.onnx"),
        (FORMS, "bf16", None, "onnx/model.onnx"),
        (FORMS, "int8", None, "onnx/model_int8.onnx"),
        (FORMS[4:], None, None, "onnx/model_int8.onnx"),
        (FORMS, "auto", "Q4F16", "onnx/model_q4f16.onnx"),
        (FORMS, None, "model_uint8", "onnx/model_uint8.onnx"),
        (FORMS, None, "onnx/model_uint8.onnx", "onnx/model_uint8.onnx"),
        (OLD, "auto", None, "onnx/decoder_model_merged_quantized.onnx"),
        (OLD, "int4", None, "onnx/decoder_model_merged.onnx"),
        (["model.onnx", *FORMS], "auto", None, "model.onnx"),
        (["mine.onnx"], "f32", None, "mine.onnx"),
        (["model_v2.onnx", "model.onnx"], None, None, "model.onnx"),
    ],
)
def test_the_file_that_is_meant(names: list[str], precision: str | None, asked: str | None, chosen: str) -> None:
    assert choose_graph("here", names, precision, asked) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "precision", "asked", "message"),
    [
        (["onnx/model_q4.onnx"], "f16", None, "here has no ONNX file for precision f16, only onnx/model_q4.onnx"),
        (FORMS, None, "q5", "here has no ONNX file 'q5'; it has onnx/model.onnx, onnx/model_fp16.onnx"),
        (["a.onnx", "b.onnx"], None, None, "which ONNX file of here is the model.* a.onnx, b.onnx"),
    ],
)
def test_no_such_file(names: list[str], precision: str | None, asked: str | None, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        choose_graph("here", names, precision, asked)  # type: ignore[arg-type]


def test_weights_beside_a_graph() -> None:
    names = ["model_q4.onnx_data_1", "model_q4.onnx_data", "model_q4.onnx", "model.onnx_data", "model_q4f16.onnx_data"]
    assert weights_of("model_q4.onnx", names) == ["model_q4.onnx_data", "model_q4.onnx_data_1"]
    assert form_of("model_q4.onnx") == "q4"
    assert form_of("decoder_model.onnx") == ""
    assert form_of("encoder_model.onnx") is None
