"""What of a base model an adapter is read by: how its modules are called, and how its rows lie."""

from __future__ import annotations

from collections.abc import Mapping

from genai.build import towers
from genai.build.architectures import stored_form_of
from genai.build.architectures.config import ConfigReader
from genai.build.architectures.falcon_h1 import FOLDED
from genai.build.architectures.qwen3_5 import TILED
from genai.build.source import JSON, FloatArray
from genai.errors import AdapterError


class Base:
    """A base model by its configuration: the keys of Hugging Face's `config.json`, the text decoder's."""

    def __init__(self, config: Mapping[str, JSON]) -> None:
        self.config = config
        self._form = stored_form_of(ConfigReader(config))

    def product(self, module: str) -> str:
        """Our name of a module as transformers has it. Raises: AdapterError for one that is no single product."""
        name = towers.text_name(f"{module}.weight")
        name = name if not name.startswith("layers.") else f"model.{name}"  # trained without the head's class
        ours = self._form.our_name(name)
        if ours is None or "*" in ours:
            raise AdapterError(f"the adapter changes {module}, which is no product by itself here")
        return ours.removesuffix(".weight")

    def check_tiles(self, product: str, *, is_tiled: bool) -> None:
        """Whether a recurrence's value heads lie in the adapter as in the base. Raises: AdapterError if they do not."""
        keys, values = (self.config.get(f"linear_num_{kind}_heads") for kind in ("key", "value"))
        if ".linear_attn." not in product or bool(self.config.get(TILED)) == is_tiled or (keys and keys == values):
            return
        ours, theirs = ("a folder", "a GGUF file") if is_tiled else ("a GGUF file", "a folder")
        raise AdapterError(
            f"the adapter changes {product}, whose value heads lie in another order in {theirs} than in the base, "
            f"which was read from {ours}: take both from GGUF files, or both from folders"
        )

    def in_our_order(self, product: str, b: FloatArray) -> FloatArray:
        """A second matrix [out, rank] as its module's rows lie in ours, with their factors. Raises: AdapterError."""
        if self.config.get(FOLDED) and self._form.is_multiplied(f"{product}.weight"):
            raise AdapterError(
                f"the adapter changes {product}, which in the base's GGUF file is multiplied by numbers that the file "
                "does not tell: take the base from its folder, or the adapter from a GGUF file, too"
            )
        rows = self._form.rows_of(f"{product}.weight")
        if rows is not None and len(rows) != len(b):
            raise AdapterError(f"the adapter's matrix for {product} has {len(b)} rows, the base {len(rows)}")
        return self._form.multiplied(f"{product}.weight", b if rows is None else b[rows])
