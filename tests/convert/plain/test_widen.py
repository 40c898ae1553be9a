"""Files in bfloat16, for which CPUs have few kernels: read as float32, with the weights that they hold."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from genai.config import ModelConfig
from genai.convert import ConvertOptions, convert
from genai.errors import ModelError
from genai.runtime.session import Session
from tests.build import tiny
from tests.convert import value_sizes
from tests.convert.test_recurrent import write
from tests.runtime.test_load import CPU


def in_bfloat16(model: onnx.ModelProto, *, is_wide: bool = False) -> onnx.ModelProto:
    """A graph with its weights rounded; is_wide: stored, and computed with, in float32."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
            kind = TensorProto.FLOAT if is_wide else TensorProto.BFLOAT16
            data = (array.astype(np.float32) if is_wide else array).tobytes()
            tensor.CopyFrom(helper.make_tensor(tensor.name, kind, tensor.dims, data, raw=True))
    for value in [] if is_wide else [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    return model


@pytest.mark.parametrize("options", [None, ConvertOptions(dtype="f32")], ids=str)
def test_bfloat16_is_read_as_float32(tmp_path: Path, options: ConvertOptions | None) -> None:
    source = write(in_bfloat16(value_sizes.decoder()), tmp_path / "source")
    with pytest.raises(ModelError, match="cannot load"):
        Session(source / "model.onnx", CPU)
    report = convert(source, tmp_path / "package", options)
    assert report.agreement.is_exact
    assert any("bfloat16 was read as float32" in note for note in report.notes)
    assert ModelConfig.read(tmp_path / "package").cache_dtype == "float32"
    prompt, model = tiny.tokens(15), in_bfloat16(value_sizes.decoder(), is_wide=True)
    (wanted,) = ReferenceEvaluator(model).run(["logits"], {"input_ids": np.array([prompt])} | value_sizes.empty())
    with tiny.loaded(tmp_path / "package") as llm:
        np.testing.assert_allclose(llm.logits(prompt), wanted[0], atol=1e-5, rtol=0)


def test_bfloat16_that_was_asked_for_stays(tmp_path: Path) -> None:
    """Products are rounded again, to the same numbers; there are no kernels for it here."""
    source = write(in_bfloat16(value_sizes.decoder()), tmp_path / "source")
    convert(source, tmp_path / "package", ConvertOptions(dtype="bf16"))
    assert ModelConfig.read(tmp_path / "package").cache_dtype == "bfloat16"
    given, kept = (numbers(folder / "model.onnx") for folder in (source, tmp_path / "package"))
    assert len(given) == 10
    assert given <= kept


def numbers(path: Path) -> set[bytes]:
    """Each stored bfloat16 matrix's numbers, whichever way it lies."""
    tensors = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == TensorProto.BFLOAT16]
    return {np.sort(numpy_helper.to_array(tensor), axis=None).tobytes() for tensor in tensors if len(tensor.dims) == 2}
