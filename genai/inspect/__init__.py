"""What is in a graph: operators, weights, memory, how far it follows the contract; as data, and as a page."""

from genai.inspect.gguf import GgufReport, inspect_gguf, is_gguf
from genai.inspect.report import PARTS, GraphReport, inspect

__all__ = ["PARTS", "GgufReport", "GraphReport", "inspect", "inspect_gguf", "is_gguf"]
