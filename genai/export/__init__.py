"""From a Hugging Face checkpoint to ONNX through torch.export, with operators fused. Needs the extra `export`."""

from genai.errors import RuntimeUnavailableError

try:
    from genai.export.options import ExportOptions
    from genai.export.plain import Exported, export_plain
except ModuleNotFoundError as error:
    raise RuntimeUnavailableError(
        f"exporting needs {error.name}, which is not installed: pip install 'onnx-kv-runtime[export]'"
    ) from error

__all__ = ["ExportOptions", "Exported", "export_plain"]
