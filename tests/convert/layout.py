"""Folders as transformers.js has them: one graph in several forms, in `onnx`, beside configuration and tokenizer.

The forms are made as its `scripts/quantize.py` makes them (read in version 3), with onnxruntime 1.32's own quantizers.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.build import tiny
from tests.convert.sources.genai_folders import genai_folder, write_checkpoint

OPTIMUM = Path(__file__).parent / "data" / "optimum"


def of_optimum(name: str, folder: Path, forms: Collection[str]) -> Path:
    """An export of optimum-onnx (`make_optimum_data.py`) in these forms."""
    (folder / "onnx").mkdir(parents=True)
    shutil.copy(OPTIMUM / name / "config.json", folder)
    tiny.write_tokenizer(folder)
    write_forms(OPTIMUM / name / "model.onnx", folder, forms)
    return folder


def of_builder(model: Any, folder: Path, forms: Collection[str], **changes: Any) -> Path:
    """A model by onnxruntime-genai's builder, without its configuration, as newer repositories have it."""
    checkpoint = write_checkpoint(model, folder / "checkpoint", **changes)
    graph = genai_folder(checkpoint, folder / "builder") / "model.onnx"
    layout = folder / "layout"
    (layout / "onnx").mkdir(parents=True)
    for path in checkpoint.glob("*.json"):
        shutil.copy(path, layout)
    write_forms(graph, layout, forms)
    return layout


def write_forms(graph: Path, folder: Path, forms: Collection[str]) -> None:
    """Write `onnx/model_FORM.onnx`, each with its weights in a file of their own."""
    for form in forms:
        name = f"model_{form}.onnx" if form else "model.onnx"
        model = in_form(onnx.load(graph), form)
        onnx.save(
            model, folder / "onnx" / name, save_as_external_data=True, location=f"{name}_data", size_threshold=256
        )


def in_form(model: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """A float graph in a form of `genai.convert.files.FORMS`."""
    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)
    if "q4" in form:
        model = _blocks(model)
    if "16" in form:
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

        return convert_float_to_float16(model, keep_io_types=True, op_block_list=set(DEFAULT_OP_BLOCK_LIST))
    if form in ("int8", "uint8", "quantized"):
        return _integers(model, is_signed=form == "int8")
    if form == "bnb4":
        from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

        quantizer = MatMulBnb4Quantizer(model, block_size=64, quant_type=MatMulBnb4Quantizer.NF4)
        quantizer.process()
        return quantizer.model.model
    return model


def _blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, accuracy_level=None)
    quantizer.process()
    return quantizer.model.model


def _integers(model: onnx.ModelProto, *, is_signed: bool) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantizationMode, QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    quantizer = ONNXQuantizer(
        model,
        False,
        False,
        mode=QuantizationMode.IntegerOps,
        static=False,
        weight_qType=QuantType.QInt8 if is_signed else QuantType.QUInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=None,
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=list(IntegerOpsRegistry),
        extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def on_grid(model: Any, form: str) -> Any:
    """Round a transformers model's matrices so that the quantizers above change nothing; it is changed in place.

    In 4 bits each block of 32 inputs has -8 steps in it, which is what the scale is taken from; in 8 bits every matrix
    reaches the ends of the range.
    """
    import torch

    for name, parameter in model.named_parameters():
        if parameter.dim() != 2 or (form == "q4" and "embed" in name):
            continue
        weight = parameter.detach().numpy()
        if form == "q4":
            blocks = np.clip(np.rint(weight.reshape(len(weight), -1, 32) / 0.05), -8, 7)
            blocks[..., 0] = -8
            new = 0.05 * blocks.reshape(weight.shape)
        else:
            new = np.clip(np.rint(weight / 0.01), -127, 127)
            new[0, :2] = (-128, 127) if form != "int8" else (-127, 127)
            new = 0.01 * new
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(new.astype(np.float32)))
    return model


def merged(past: onnx.ModelProto) -> onnx.ModelProto:
    """A decoder with past as one branch of an If, and without as the other, whose pasts are empty.

    Branches share the graph's weights and call their outputs as the If does, as optimum's merge_decoders has it.
    """
    graph = past.graph
    caches = [value for value in graph.input if value.name.startswith("past_key_values")]
    empty = [onnx.helper.make_node("Shape", ["input_ids"], ["batch"], start=0, end=1)]
    for value in caches:
        _, heads, _, size = (dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for name, number in ((f"{value.name}.heads", [heads]), (f"{value.name}.rest", [0, size])):
            tensor = onnx.numpy_helper.from_array(np.array(number, np.int64))
            empty.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
        parts = ["batch", f"{value.name}.heads", f"{value.name}.rest"]
        empty.append(onnx.helper.make_node("Concat", parts, [f"{value.name}.shape"], axis=0))
        empty.append(onnx.helper.make_node("ConstantOfShape", [f"{value.name}.shape"], [f"{value.name}.empty"]))
    without = []
    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        renamed = [f"{name}.empty" if name.startswith("past_key_values") else name for name in copy.input]
        copy.input[:] = renamed
        without.append(copy)
    branches = {
        "then_branch": onnx.helper.make_graph(graph.node, "with_past", [], graph.output),
        "else_branch": onnx.helper.make_graph([*empty, *without], "without_past", [], graph.output),
    }
    choice = onnx.helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1])
    node = onnx.helper.make_node("If", [choice.name], [value.name for value in graph.output], **branches)
    whole = onnx.helper.make_graph([node], "merged", [*graph.input, choice], graph.output, graph.initializer)
    return onnx.helper.make_model(whole, opset_imports=past.opset_import, ir_version=past.ir_version)
