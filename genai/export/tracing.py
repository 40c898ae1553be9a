"""From a transformers model to an ONNX graph with past and present caches, through torch.export."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import onnx_ir as ir
import torch

from genai import contract
from genai.errors import UnsupportedModelError
from genai.export.attention import Attentions, HeadShape, PastCache

_OPERATOR = re.compile(r"Error when translating node .*?target=torch\.ops\.([\w.]+?)(?:\.default)?\]", re.DOTALL)
_PREFIX = "decoder."  # the wrapper's attribute: what stands before the names that the checkpoint has
_SAMPLE_BATCH, _SAMPLE_LENGTH, _SAMPLE_PAST = 2, 3, 5  # different, and neither 0 nor 1, which would be taken for fixed


class _Wrapper(torch.nn.Module):  # type: ignore[misc]
    """The model with plain tensors as inputs and outputs."""

    def __init__(self, model: torch.nn.Module, *, softmax_in_f32: bool) -> None:
        super().__init__()
        self.decoder = model
        self._softmax_in_f32 = softmax_in_f32

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        attentions = Attentions(past=past, softmax_in_f32=self._softmax_in_f32)
        attentions.register()
        logits = _logits(self.decoder, input_ids, attention_mask, position_ids, past)
        present = [cache for layer in range(len(past) // 2) for cache in attentions.present[layer]]
        return (logits.float(), *present)


def head_shapes(model: torch.nn.Module) -> list[HeadShape]:
    """What each layer caches, found by running one token. Raises: UnsupportedModelError."""
    attentions = Attentions()
    attentions.register()
    one = torch.zeros(1, 1, dtype=torch.int64)
    try:
        with torch.no_grad():
            _logits(model, one, one + 1, one, [])
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{model.config.model_type}: {error}") from None
    except Exception as error:  # the model's own code, which meets a cache that it does not know
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        raise UnsupportedModelError(
            f"{model.config.model_type} does not run with the cache that exporting needs: {reason}"
        ) from error
    num_layers = model.config.get_text_config().num_hidden_layers
    missing = [layer for layer in range(num_layers) if layer not in attentions.shapes]
    if missing:
        raise UnsupportedModelError(
            f"{model.config.model_type}: layer {missing[0]} does not attend, or not through transformers' attention "
            "interface; decoders whose every layer does can be exported"
        )
    return [attentions.shapes[layer] for layer in range(num_layers)]


def trace(model: torch.nn.Module, *, softmax_in_f32: bool) -> ir.Model:
    """The graph as torch writes it; its weights share the model's memory.

    Inputs: input_ids, attention_mask, position_ids, past_key_values.{i}.key, .value; outputs: logits [B, T, V] float32,
    present.{i}.key, .value. Raises: UnsupportedModelError if torch.export cannot follow the model.
    """
    shapes = head_shapes(model)
    wrapper = _Wrapper(model, softmax_in_f32=softmax_in_f32).eval()
    caches = [(layer, kind) for layer in range(len(shapes)) for kind in ("key", "value")]
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                wrapper,
                _samples(shapes, model.dtype),
                dynamo=True,
                opset_version=contract.OPSET,
                dynamic_shapes=_dynamic_shapes(len(caches)),
                input_names=[
                    contract.INPUT_IDS,
                    "attention_mask",
                    contract.POSITION_IDS,
                    *(f"past_key_values.{layer}.{kind}" for layer, kind in caches),
                ],
                output_names=[contract.LOGITS, *(f"present.{layer}.{kind}" for layer, kind in caches)],
                optimize=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise UnsupportedModelError(f"{model.config.model_type} cannot be traced: {_reason(error)}") from error
    traced: ir.Model = program.model
    _name_weights(traced.graph, model)
    return traced


def _reason(error: Exception) -> str:
    """Why torch could not, in one line; of an operator without a form in ONNX, its name."""
    text = str(error.__cause__ or error).strip()
    operator = _OPERATOR.search(text)
    if operator is None:
        return text.splitlines()[0][:300]
    if "grouped_mm" in operator[1]:
        return (
            f"its layers choose among experts ({operator[1]}), which no ONNX operator does; "
            "genai build --builder mobius may know it"
        )
    return f"its operator {operator[1]} has no form in ONNX"


def _name_weights(graph: ir.Graph, model: torch.nn.Module) -> None:
    """The checkpoint's names for its tensors; of the two that a tied one has, the checkpoint's."""
    names = {id(parameter): name for name, parameter in reversed(list(model.named_parameters(remove_duplicate=False)))}
    stored = {name: names[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}
    for weight in list(graph.initializers.values()):
        if weight.name is not None and weight.name.startswith(_PREFIX):
            name = weight.name.removeprefix(_PREFIX)
            weight.name = stored.get(name, name)


def _logits(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    position_ids: torch.Tensor,
    past: list[torch.Tensor],
) -> torch.Tensor:
    result = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        cache=PastCache(past),
        use_cache=True,
    )
    logits: torch.Tensor = result.logits
    return logits


def _samples(shapes: list[HeadShape], dtype: torch.dtype) -> tuple[object, ...]:
    batch, length, past = _SAMPLE_BATCH, _SAMPLE_LENGTH, _SAMPLE_PAST
    caches = [
        torch.zeros(batch, shape.num_heads, past, size, dtype=dtype)
        for shape in shapes
        for size in (shape.key_size, shape.value_size)
    ]
    positions = torch.arange(past, past + length).expand(batch, length).contiguous()
    ones = torch.ones(batch, past + length, dtype=torch.int64)
    return torch.ones(batch, length, dtype=torch.int64), ones, positions, caches


def _dynamic_shapes(num_caches: int) -> tuple[object, ...]:
    batch, length, past = (torch.export.Dim(name) for name in ("batch", "length", "past"))
    # That the mask is as long as past and new tokens together follows from how it is used.
    tokens = {0: batch, 1: length}
    return tokens, {0: batch, 1: torch.export.Dim.DYNAMIC}, tokens, [{0: batch, 2: past}] * num_caches


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks and listings that torch prints on its own internals."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
