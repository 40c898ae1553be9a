"""Tiny random checkpoints as transformers saves them, packages built from them, and both models' logits.

Every parameter is drawn anew, norms and biases included: at their initial values a forgotten one would not show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import tokenizers

from genai import contract
from genai.build.package import build_package
from genai.config import CONFIG_FILE, EngineConfig, ModelConfig
from genai.runtime.cache_shape import CacheShape
from genai.runtime.row_start import read_row_start

if TYPE_CHECKING:
    from genai.llm.llm import LLM

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]

VOCAB_SIZE = 300
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HYBRID = {
    "num_hidden_layers": 5, "head_dim": 16, "full_attention_interval": 2, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
}  # fmt: skip


def make_model(model_type: str, seed: int = 0, **options: Any) -> Any:
    """A transformers model of `SIZES` with these options on top, all parameters and buffers random."""
    import transformers

    return _random_model(transformers.AutoConfig.for_model(model_type, **(SIZES | options)), seed)


def make_hybrid() -> Any:
    """A Qwen3.5 of `HYBRID`: three layers have states, two have keys and values. Its package is `build(it, folder)`."""
    return make_model("qwen3_5_text", **HYBRID)


def make_tower(tower_type: str, outer: Mapping[str, Any], **options: Any) -> Any:
    """A model of several parts: `SIZES` and options are its text decoder's, outer those of the configuration around it.

    Tokens and the tied head stand in both.
    """
    import transformers

    text = {"tie_word_embeddings": False} | SIZES | options
    both = {key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")}
    return _random_model(transformers.AutoConfig.for_model(tower_type, text_config=text, **both, **outer), seed=0)


def _random_model(config: Any, seed: int) -> Any:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = _class_of(config).from_config(config).float().eval()
    randomise(model)
    return model


def randomise(model: Any) -> None:
    """Draw every number that a checkpoint holds anew: what begins as 0 or 1 would hide that it is forgotten.

    Products are scaled by what they sum over, so that activations keep their size; norms, biases, sinks and the like
    vary around where they begin.
    """
    import torch

    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    kept = model.state_dict(keep_vars=True)
    numbers = [kept[name] for name, _ in model.named_buffers() if name in kept and kept[name].is_floating_point()]
    fading = {id(tensor) for name, tensor in model.named_parameters() if name.endswith("A_log")}
    with torch.no_grad():
        for tensor in (*model.parameters(), *numbers):
            draw = torch.randn_like(tensor)
            if id(tensor) in fading:
                tensor.copy_(0.5 * draw - 2)  # a state forgets a tenth with a token, not all of it
            elif id(tensor) in tables:
                tensor.copy_(draw)
            elif tensor.dim() >= 2:
                tensor.copy_(draw * (1.5 / tensor.shape[-1] ** 0.5))
            else:
                tensor.add_(0.3 * draw)


def save(model: Any, folder: Path, **changes: Any) -> Path:
    """A Hugging Face folder of a model; changes: keys of `config.json` to set, or to remove where they are `...`."""
    model.save_pretrained(folder)
    write_tokenizer(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config = {key: value for key, value in (config | changes).items() if value is not ...}
    path.write_text(json.dumps(config))
    return folder


def write_tokenizer(folder: Path) -> None:
    vocabulary = {f"t{i}": i for i in range(3, VOCAB_SIZE)} | {"<pad>": 0, "<s>": 1, "</s>": 2}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


def load(folder: Path) -> Any:
    """The folder as transformers reads it."""
    import transformers

    kind = _class_of(transformers.AutoConfig.from_pretrained(folder))
    return kind.from_pretrained(folder, attn_implementation="eager").float().eval()


def _class_of(config: Any) -> Any:
    import transformers

    has_tower = config.get_text_config() is not config
    return transformers.AutoModelForImageTextToText if has_tower else transformers.AutoModelForCausalLM


def build(model: Any, folder: Path, **options: Any) -> Path:
    """A package of a model, by way of a Hugging Face folder; options: `build_package`'s."""
    source = save(model, folder / "checkpoint")
    return build_package(source, folder / "package", **({"precision": "f32"} | options))


class Graph:
    """A package's graph over caches held as NumPy arrays: [num_rows, capacity, width], every row with its own length.

    States lie beside them, [num_rows, …]. run: what runs it, feeds in and outputs out: ONNX Runtime unless something
    else is given.
    """

    def __init__(self, package: Path, num_rows: int = 1, capacity: int = 80, run: Run | None = None) -> None:
        model = onnx.load(package / "model.onnx", load_external_data=False)
        self.outputs = [output.name for output in model.graph.output]
        self.caches = {
            value.name: np.zeros((num_rows, capacity, value.type.tensor_type.shape.dim[2].dim_value), _dtype(value))
            for value in model.graph.input
            if contract.is_cache(value.name)
        }
        self.states = {
            value.name: np.zeros(
                (num_rows, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])), _dtype(value)
            )
            for value in model.graph.input
            if contract.is_state(value.name)
        }
        self._has_windows = any(value.name == contract.WINDOW_WRITE_INDICES for value in model.graph.input)
        self.valid = np.zeros(num_rows, np.int64)  # tokens
        self._reserved = self._begin(package)
        self._run = run or in_onnxruntime(package)

    def add(self, *rows: Sequence[int]) -> list[np.ndarray]:
        """Add new tokens to each row, or none; returns the logits that follow them, [T, V] for each row."""
        longest, counts = max(map(len, rows)), np.array([len(row) for row in rows], np.int64)
        padded = np.array([[*row, *[0] * (longest - len(row))] for row in rows], np.int64)
        places = np.arange(longest)
        logits, *updated = self._run(
            {
                contract.INPUT_IDS: padded,
                contract.POSITION_IDS: self.valid[:, None] + places,
                contract.WRITE_INDICES: self.valid + self._reserved,
                contract.NONPAD_KV_SEQLEN: self.valid + self._reserved + longest,
                contract.LOGITS_POSITIONS: np.tile(places, (len(rows), 1)),
                **self._of_windows(longest),
                **self.caches,
                **({contract.TOKEN_COUNTS: counts} | self.states if self.states else {}),
            }
        )
        held = dict(zip([*self.caches, *self.states], updated, strict=True))
        self.caches, self.states = ({name: held[name] for name in names} for names in (self.caches, self.states))
        self.valid = self.valid + counts
        return [row_logits[: len(row)] for row, row_logits in zip(rows, logits, strict=True)]

    def _of_windows(self, longest: int) -> dict[str, np.ndarray]:
        """For a graph whose layers with windows may keep less than the others: here they keep as much."""
        if not self._has_windows:
            return {}
        start = self.valid + self._reserved
        return {contract.WINDOW_WRITE_INDICES: start, contract.WINDOW_KV_SEQLEN: start + longest}

    def _begin(self, package: Path) -> int:
        """Write what rows begin with; returns how many slots that takes: none for a graph that is no package yet."""
        if not (package / CONFIG_FILE).exists():
            return 0
        config = ModelConfig.read(package)
        caches = tuple(contract.Cache(name, cache.shape[2]) for name, cache in self.caches.items())
        row_start = read_row_start(package, config, CacheShape(caches=caches, dtype=config.cache_dtype))
        for name, start in zip(self.caches if row_start else (), row_start, strict=True):
            self.caches[name][:, 0] = start.view(self.caches[name].dtype)
        return config.reserved_slots


def in_onnxruntime(package: Path) -> Run:
    session = load_session(package)
    return lambda feeds: session.run(None, feeds)


def in_place(package: Path) -> Run:
    """As when texts are generated: caches and states share their memory with what they become."""
    import onnxruntime

    session = load_session(package)

    def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        binding = session.io_binding()
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array.copy()) for name, array in feeds.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            value = next((values[name] for name in values if contract.updated(name) == output.name), None)
            if value is None:
                binding.bind_output(output.name, "cpu")
            else:
                binding.bind_ortvalue_output(output.name, value)
        session.run_with_iobinding(binding)
        return [value.numpy().copy() for value in binding.get_outputs()]

    return run


def load_session(package: Path, file: str = "model.onnx") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(package / file, options, providers=["CPUExecutionProvider"])


@contextmanager
def loaded(package: Path, **options: Any) -> Iterator[LLM]:
    """A package with a small cache; options: `EngineConfig`'s."""
    from genai.llm.llm import LLM

    limits = {"device": "cpu", "num_threads": 1, "max_batch": 3, "kv_cache_bytes": 4_000_000} | options
    with LLM(package, EngineConfig(**limits)) as llm:
        yield llm


def tokens(count: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, VOCAB_SIZE, count)]


def expected(model: Any, prompt: Sequence[int]) -> np.ndarray:
    """The original's logits after each token, [T, V]."""
    import torch

    # transformers 5.24 cannot run the whole of Llama 4 without images: it asks the text's output for theirs.
    decoder = model.language_model if model.config.model_type == "llama4" else model
    with torch.no_grad():
        return np.asarray(decoder(torch.tensor([list(prompt)])).logits[0].float())


def greedy(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """The original's most probable continuation."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(expected(model, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
