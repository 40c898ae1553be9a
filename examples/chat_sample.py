"""The ONNX generative-AI working group's chat sample: one program, any backend.

    python examples/chat_sample.py native smollm2-135m-instruct
    python examples/chat_sample.py onnxruntime-genai path/to/its/folder CPU

Answers stream as they come, and every question is asked with the conversation so far. A line with `quit()`, or the end
of the input, leaves.
"""

from __future__ import annotations

import sys
from contextlib import closing

from genai.errors import ConfigError, GenAIError
from genai.pipelines import Device, DeviceFactory, GenerationInput, Message, Pipeline, Text2TextPipelineFactory


def main(arguments: list[str]) -> int:
    """Chat until the input ends; the exit code."""
    if len(arguments) not in {2, 3}:
        print("Usage: chat_sample.py BACKEND MODEL_DIR [DEVICE]", file=sys.stderr)
        return 1
    backend, models_path, *device = arguments
    try:
        devices = chosen_devices(backend, *device)
        pipeline = Text2TextPipelineFactory.get_instance().create(backend, models_path, devices)
        print(f"Successfully created '{backend}' backend.")
        with closing(pipeline):
            chat(pipeline)
    except GenAIError as error:
        print("\n".join([f"Error: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return 1
    return 0


def chosen_devices(backend: str, identifier: str = "CPU") -> list[Device]:
    """The device of that name. Raises: ConfigError if the backend has none."""
    devices = DeviceFactory.get_instance().enumerate(backend)
    chosen = [device for device in devices if device.identifier == identifier]
    if not chosen:
        raise ConfigError(f"{backend} has no {identifier}; it has {', '.join(each.identifier for each in devices)}")
    return chosen


def chat(pipeline: Pipeline) -> None:
    """Answer each line of the input, streaming."""
    config = pipeline.get_generation_config()
    pipeline.set_generation_config(
        config.updated(do_sample=True, temperature=0.7, top_k=40, rng_seed=42, max_new_tokens=256)
    )
    messages: list[Message] = []
    print("Question:", flush=True)
    for line in sys.stdin:
        question = line.rstrip("\n")
        if question == "quit()":
            break
        messages.append({"role": "user", "content": question})
        result = pipeline(GenerationInput(messages=messages), show)
        messages.append({"role": "assistant", "content": result.text})
        print("\n\n----------\nQuestion:", flush=True)


def show(piece: str) -> None:
    """Print a piece of the answer at once."""
    print(piece, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
