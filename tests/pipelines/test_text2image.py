"""Pictures: the registry and the protocol's data; openvino-genai's adapter on a stand-in."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto

from genai.errors import ConfigError, GraphRunError
from genai.pipelines import Device, Tensor, Text2Image, Text2ImagePipelineFactory
from tests.pipelines import fake_openvino


class Painter:
    """Openvino-genai's pipeline: pictures that are as red as it took steps."""

    made: Painter

    def __init__(self, models_path: str, device: str, **properties: object) -> None:
        self.made_of = (models_path, device, properties)
        Painter.made = self

    def get_generation_config(self) -> SimpleNamespace:
        return SimpleNamespace(width=-1, height=-1, num_inference_steps=20, num_images_per_prompt=1)

    def generate(self, prompt: str, **options: object) -> SimpleNamespace:
        self.called = (prompt, dict(options))
        callback = options.pop("callback", None)
        steps = 0
        for steps in range(1, 21):
            if callback is not None and callback(steps - 1, 20, None):  # type: ignore[operator]
                break
        if prompt == "too large":
            raise RuntimeError("Check failed:\nno memory")
        data = np.zeros((options["num_images_per_prompt"], 4, 4, 3), np.uint8)  # type: ignore[arg-type]
        data[..., 0] = steps
        return SimpleNamespace(data=data)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Text2Image.Pipeline:
    modules: dict[str, ModuleType] = fake_openvino.modules()
    vars(modules["openvino_genai"])["Text2ImagePipeline"] = Painter
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return Text2ImagePipelineFactory().create("openvino-genai", "folder", [Device("GPU", {"CACHE_DIR": "here"})])


def test_openvino_genai(pipeline: Text2Image.Pipeline) -> None:
    assert Painter.made.made_of == ("folder", "GPU", {"CACHE_DIR": "here"})
    assert pipeline.get_generation_config() == Text2Image.GenerationConfig(num_inference_steps=20)
    pipeline.set_generation_config(pipeline.get_generation_config().updated(image_width=512, num_images_per_prompt=2))
    tensor = pipeline("a red square").tensor
    wanted = {"width": 512, "num_inference_steps": 20, "num_images_per_prompt": 2}
    assert Painter.made.called == ("a red square", wanted)
    assert (tensor.shape, tensor.type_id, tensor.framework_id) == ((2, 4, 4, 3), TensorProto.UINT8, "openvino-genai")
    assert tensor.numpy()[0, 0, 0].tolist() == [20, 0, 0]


def test_progress_and_errors(pipeline: Text2Image.Pipeline) -> None:
    told: list[tuple[int, int]] = []

    def enough(done: int, total: int) -> bool:
        told.append((done, total))
        return done == 3

    assert pipeline("x", enough).tensor.numpy()[0, 0, 0, 0] == 3
    assert told == [(1, 20), (2, 20), (3, 20)]

    def broken(done: int, total: int) -> None:
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        pipeline("x", broken)
    with pytest.raises(GraphRunError, match="openvino-genai: Check failed: no memory"):
        pipeline("too large")
    pipeline.close()
    with pytest.raises(ConfigError, match="closed"):
        pipeline("x")


def test_who_makes_pictures() -> None:
    factory = Text2ImagePipelineFactory()
    with pytest.raises(ConfigError, match="native makes no pictures; these do: openvino-genai"):
        factory.create("native", "model")
    with pytest.raises(ConfigError, match="Unregistered GenAI framework: nobody"):
        factory.create("nobody", "model")
    factory.register("mine", lambda path, devices: (path, devices))  # type: ignore[arg-type, return-value]
    assert [str(factory.create("mine", "model")[0])] == ["model"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_width": 0}, "image_width=0: must be a whole number above 0"),
        ({"num_images_per_prompt": None}, "num_images_per_prompt=None: must be"),
        ({"steps": 3}, "steps: no such option; there are image_width, "),
    ],
)
def test_refused(options: dict[str, int | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Text2Image.GenerationConfig().updated(**options)
    with pytest.raises(ConfigError, match="what is to be seen"):
        Text2Image.GenerationInput("")


def test_a_tensor_shares_memory() -> None:
    array = np.zeros((2, 3), np.float16)
    tensor = Tensor.of(array, "mine")
    array[1, 2] = 7
    assert tensor.numpy()[1, 2] == 7
    assert (tensor.shape, tensor.type_id, tensor.framework_id) == ((2, 3), TensorProto.FLOAT16, "mine")
    with pytest.raises(ConfigError, match="a type of ONNX's, not datetime64"):
        Tensor.of(np.zeros(1, "datetime64[s]"), "mine")
