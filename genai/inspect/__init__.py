"""What is in a graph: operators, weights, memory, how far it follows the contract; as data, and as a page."""

from genai.inspect.report import PARTS, GraphReport, inspect

__all__ = ["PARTS", "GraphReport", "inspect"]
