"""A graph loaded on a device, and run on what is bound to it.

Every device takes the same path: small inputs and the logits live in host arrays, the caches in the device's own memory
and are bound by pointer. What differs is the provider's (`providers/`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

from genai.config import EngineConfig
from genai.contract import TensorType
from genai.errors import ModelError, RuntimeUnavailableError
from genai.runtime.host import default_threads
from genai.runtime.ort import Array, Binding, SessionOptions, first_line, import_onnxruntime, wrapped_errors
from genai.runtime.providers import provider_for
from genai.runtime.weight_files import WeightFiles

_log = logging.getLogger(__name__)

_DEFAULT_OPTIONS = {
    "session.prepack.enable_parallel": "1",  # of 1.6 s of a 1 GB package a third goes to the second thread
    "session.use_external_initializer_file_buffers_directly": "1",  # or the weights that it is given would be copied
}

_NUMPY_NAMES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"}


class Session:
    """A graph loaded on a device.

    Raises: ModelError if ONNX Runtime refuses the graph, ConfigError for a missing provider.
    """

    def __init__(self, model: Path | bytes, config: EngineConfig) -> None:
        ort = import_onnxruntime()
        self.provider = provider_for(config)
        name, options = self.provider.execution_provider, dict(self.provider.options)
        source = str(model) if isinstance(model, Path) else model
        self._weights = WeightFiles.of(model) if isinstance(model, Path) else WeightFiles({})
        session_options = _session_options(ort, config)
        self._weights.give(session_options)
        try:
            with self._weights.given_back():
                self._session = ort.InferenceSession(source, session_options, providers=[(name, options)])
        except Exception as error:
            what = model if isinstance(model, Path) else "the graph"
            raise ModelError(f"ONNX Runtime cannot load {what}: {first_line(error)}") from error
        if name not in self._session.get_providers():
            installed = self.provider.name.upper()
            raise RuntimeUnavailableError(f"ONNX Runtime could not start {name}; is {installed} installed?")
        self.inputs = [_tensor_type(arg) for arg in self._session.get_inputs()]
        self.optional_inputs = [_tensor_type(arg) for arg in self._session.get_overridable_initializers()]
        self.outputs = [_tensor_type(arg) for arg in self._session.get_outputs()]
        _log.debug("loaded %s on %s with %s", model if isinstance(model, Path) else "graph", name, options)

    def call(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on whole arrays, for graphs that are not decoded with; returns all outputs by name.

        Raises: GraphRunError.
        """
        names = [output.name for output in self.outputs]
        options = import_onnxruntime().RunOptions()
        options.log_severity_level = 4  # what fails is raised
        with wrapped_errors():
            return dict(zip(names, self._session.run(names, dict(feeds), options), strict=True))

    def binding(self) -> Binding:
        """An empty set of bindings for this graph."""
        return self.provider.binding(self._session)

    def run(self, binding: Binding) -> None:
        """Run the graph on what is bound. Raises: GraphRunError."""
        with wrapped_errors():
            self._session.run_with_iobinding(binding.handle)


class _NodeArg(Protocol):
    """The part of onnxruntime.NodeArg that is used."""

    name: str
    type: str
    shape: list[int | str | None]


def _session_options(ort: ModuleType, config: EngineConfig) -> SessionOptions:
    options: SessionOptions = ort.SessionOptions()
    options.intra_op_num_threads = config.num_threads or default_threads()
    options.log_severity_level = _severity()
    for key, value in {**_DEFAULT_OPTIONS, **config.session_options}.items():
        options.add_session_config_entry(key, value)
    return options


def _severity() -> int:
    """ONNX Runtime logs to stderr by itself: as loudly as this module's logger is set."""
    level = _log.getEffectiveLevel()
    return 0 if level <= logging.DEBUG else 1 if level <= logging.INFO else 3


def _tensor_type(arg: _NodeArg) -> TensorType:
    dtype = _NUMPY_NAMES.get(arg.type, arg.type.removeprefix("tensor(").removesuffix(")"))
    return TensorType(name=arg.name, dtype=dtype, shape=tuple(arg.shape))
