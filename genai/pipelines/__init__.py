"""The ONNX generative-AI working group's preview interface in Python: one program, several backends.

    from genai.pipelines import DeviceFactory, Text2TextPipelineFactory

    devices = DeviceFactory.get_instance().enumerate("native")
    pipeline = Text2TextPipelineFactory.get_instance().create("native", "smollm2-135m-instruct", devices[:1])
    print(pipeline("The three primary colours are").text)

`Text2Text` is the preview's namespace of that name; its members stand here too. `Text2Image` is the other one.
docs/pipelines.md has the whole table. What the interface means is tested by `genai.pipelines.conformance`.
"""

from genai.pipelines import text2image as Text2Image
from genai.pipelines import text2text as Text2Text
from genai.pipelines.data import Tensor
from genai.pipelines.device import Device
from genai.pipelines.registry import (
    Backend,
    DeviceFactory,
    Text2ImagePipelineFactory,
    Text2TextPipelineFactory,
)
from genai.pipelines.text2text import (
    BeamSearchConfig,
    GenerationConfig,
    GenerationInput,
    GenerationResult,
    Generator,
    Message,
    Pipeline,
    SamplingConfig,
    Streamer,
)

__all__ = [
    "Backend",
    "BeamSearchConfig",
    "Device",
    "DeviceFactory",
    "GenerationConfig",
    "GenerationInput",
    "GenerationResult",
    "Generator",
    "Message",
    "Pipeline",
    "SamplingConfig",
    "Streamer",
    "Tensor",
    "Text2Image",
    "Text2ImagePipelineFactory",
    "Text2Text",
    "Text2TextPipelineFactory",
]
