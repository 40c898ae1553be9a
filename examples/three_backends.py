"""The same prompt on several backends.

    python examples/three_backends.py "The three primary colours are" \\
        native=smollm2-135m-instruct onnxruntime-genai=FOLDER openvino-genai=SmolLM2-135M-Instruct.gguf

Each backend wants the model in a form of its own (docs/pipelines.md); one that is not installed says how to get it.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing

from genai.errors import GenAIError
from genai.pipelines import DeviceFactory, Text2TextPipelineFactory

MAX_NEW_TOKENS = 24


def continued(backend: str, model: str, prompt: str) -> tuple[str, float]:
    """What one backend makes of a prompt, greedy, and the seconds it took once the model was loaded."""
    devices = [each for each in DeviceFactory.get_instance().enumerate(backend) if each.identifier == "CPU"]
    pipeline = Text2TextPipelineFactory.get_instance().create(backend, model, devices)
    with closing(pipeline):
        config = pipeline.get_generation_config()
        pipeline.set_generation_config(config.updated(do_sample=False, max_new_tokens=MAX_NEW_TOKENS))
        started = time.perf_counter()
        return pipeline(prompt).text, time.perf_counter() - started


def main(arguments: list[str]) -> int:
    """Write what each backend says; the exit code is 1 if one of them cannot."""
    prompt, *pairs = arguments or [""]
    if not pairs or not all("=" in pair for pair in pairs):
        print("Usage: three_backends.py PROMPT BACKEND=MODEL …", file=sys.stderr)
        return 2
    code = 0
    for pair in pairs:
        backend, _, model = pair.partition("=")
        try:
            text, seconds = continued(backend, model, prompt)
            print(f"{backend} ({seconds:.2f} s)\n{prompt}{text}\n", flush=True)
        except GenAIError as error:
            print(f"{backend}: {error}\n", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
