"""The ONNX generative-AI working group's preview interface in Python: one program, several backends.

    from genai.pipelines import DeviceFactory, Text2TextPipelineFactory

    devices = DeviceFactory.get_instance().enumerate("native")
    pipeline = Text2TextPipelineFactory.get_instance().create("native", "smollm2-135m-instruct", devices[:1])
    print(pipeline("The three primary colours are").text)

`Text2Text` is the preview's namespace of that name; its members stand here too. docs/pipelines.md has the whole table.
"""

from genai.pipelines import text2text as Text2Text
from genai.pipelines.device import Device
from genai.pipelines.registry import Backend, DeviceFactory, Text2TextPipelineFactory
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
    "Text2Text",
    "Text2TextPipelineFactory",
]
