"""The optional packages: which extra brings what, and what to say when one of them is not there."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from genai.errors import RuntimeUnavailableError

MODULES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime",),
    "gpu": ("onnxruntime",),
    "server": ("fastapi", "uvicorn"),
    "ray": ("ray",),
    "events": ("zmq", "msgpack"),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "convert": ("onnx_ir", "onnx_shape_inference"),
    "export": ("onnx_ir", "onnx_shape_inference", "onnxscript", "torch"),
    "mobius": ("onnx_ir", "onnx_shape_inference", "mobius"),
}
"""What is imported of each extra of `pyproject.toml`."""


def require(extra: str, what: str) -> None:
    """Look whether all of an extra is there, before some of it is imported. what: the thing that needs it.

    Raises: RuntimeUnavailableError that says what is missing and how to install it.
    """
    if absent := [module for module in MODULES[extra] if not _is_there(module)]:
        raise unavailable(extra, what, absent)


def unavailable(extra: str, what: str, modules: list[str]) -> RuntimeUnavailableError:
    """The error for something that needs an extra of which these modules are missing."""
    missing = f"{', '.join(modules)}, which {'is' if len(modules) == 1 else 'are'} not installed"
    return RuntimeUnavailableError(f"{what} needs {missing}: {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """The command for an extra; no index has this project, so that it works where its sources are."""
    return f"pip install '.[{extra}]' in this project's folder"


def extra_of(module: str | None) -> str | None:
    """The smallest extra that brings a module, as an import that fails names it."""
    found = [extra for extra, modules in MODULES.items() if module and module.split(".")[0] in _tops(modules)]
    return min(found, key=lambda extra: len(MODULES[extra]), default=None)


def _tops(modules: tuple[str, ...]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False
