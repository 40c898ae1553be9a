"""openvino-genai's pictures as a backend of Text2Image: a folder of its exporter's. Written against version 2026.4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genai.errors import ConfigError, GraphRunError, ModelError
from genai.pipelines.backends.options import import_peer, peer_errors
from genai.pipelines.data import Tensor
from genai.pipelines.device import Device, only_device
from genai.pipelines.text2image import GenerationConfig, GenerationInput, GenerationResult, Progress

if TYPE_CHECKING:
    import openvino_genai as ov

NAME = "openvino-genai"


class OpenVinoImagePipeline:
    """A pipeline over one of its Text2Image pipelines."""

    def __init__(self, models_path: Path, device: Device | None) -> None:
        """Raises: RuntimeUnavailableError, ModelError."""
        genai = import_peer("openvino_genai", NAME)
        name, properties = ("CPU", {}) if device is None else (device.identifier, dict(device.config))
        with peer_errors(NAME, ModelError):
            pipeline = genai.Text2ImagePipeline(str(models_path), name, **properties)
            own = pipeline.get_generation_config()
        self._loaded: ov.Text2ImagePipeline | None = pipeline
        self._config = GenerationConfig(
            image_width=_known(own.width),
            image_height=_known(own.height),
            num_inference_steps=_known(own.num_inference_steps),
            num_images_per_prompt=_known(own.num_images_per_prompt) or 1,
        )

    def __call__(self, source: GenerationInput | str, progress: Progress | None = None) -> GenerationResult:
        """Make pictures of one text. Raises: GraphRunError; what `progress` raises."""
        if self._loaded is None:
            raise ConfigError("this pipeline is closed; create another")
        config, raised = self._config, list[Exception]()
        options: dict[str, object] = {
            "width": config.image_width,
            "height": config.image_height,
            "num_inference_steps": config.num_inference_steps,
            "num_images_per_prompt": config.num_images_per_prompt,
        }
        options = {name: value for name, value in options.items() if value is not None}
        if progress is not None:

            def step(number: int, total: int, _: object) -> bool:
                try:
                    return progress(number + 1, total) is True
                except Exception as error:  # it would come back as an error of theirs
                    raised.append(error)
                    return True

            options["callback"] = step
        with peer_errors(NAME, GraphRunError):
            made = self._loaded.generate(GenerationInput.of(source).text, **options)
        if raised:
            raise raised[0]
        return GenerationResult(tensor=Tensor.of(np.asarray(made.data), NAME))

    def get_generation_config(self) -> GenerationConfig:
        """The configuration in force."""
        return self._config

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Use another from now on; sizes that the model cannot make are refused when it is called."""
        self._config = config

    def close(self) -> None:
        """Let go of the model."""
        self._loaded = None


def create(models_path: Path, devices: Sequence[Device]) -> OpenVinoImagePipeline:
    """Load a folder of its exporter's. Raises: RuntimeUnavailableError, ModelError, ConfigError."""
    return OpenVinoImagePipeline(models_path, only_device(NAME, devices))


def _known(number: int) -> int | None:
    """A size, or None for its sign of the model's own."""
    return number if number > 0 else None
