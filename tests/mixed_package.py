"""A tiny package of contract 2 whose layers all differ, and the same model in NumPy without a cache.

    layer 0   keys of 4 + 4 and values of 3 + 3 elements, two query heads to each pair
    layer 1   reads layer 0's caches, has none
    layer 2   no attention; with states, half of the input before is added to each, and then what a decaying sum holds
    layer 3   one cache of 10 elements: keys whose first 6 are the values, too (as in latent attention)

With sinks, every query of the layers 0 and 1 has a logit of its own in its softmax that takes its share and gives
nothing, and so has layer 3, of 0. In the graph it is a reserved slot's key: for each pair there are as many further
elements of keys as it has queries, of which a query reads its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from genai import contract
from genai.build.graph import ExternalData, GraphBuilder
from genai.build.row_start import write_contract
from genai.config import CONTRACT_VERSION, MODEL_FILE, ModelConfig, Provenance
from genai.contract import Cache, State
from tests.tiny_package import END_ID, TEMPLATE, VOCAB_SIZE, byte_tokenizer

HIDDEN, HEADS, PAIRS = 32, 4, 2
KEY_DIM, VALUE_DIM, LATENT, LATENT_KEY = 4, 3, 6, 10
DECAY = 0.9
FREQUENCIES = 0.7 / 1.4 ** np.arange(HIDDEN)

FloatArray = npt.NDArray[np.float64]


class MixedModel:
    """The weights, and what they compute."""

    def __init__(self, *, has_sinks: bool, has_states: bool = False, vocab_size: int = VOCAB_SIZE) -> None:
        self.has_sinks, self.has_states, self.vocab_size = has_sinks, has_states, vocab_size
        self._rng = np.random.default_rng(7)
        self.embedding = self._drawn(vocab_size, HIDDEN) * HIDDEN**0.5
        self.queries = [self._drawn(HIDDEN, HEADS * KEY_DIM), self._drawn(HIDDEN, HEADS * KEY_DIM)]
        self.keys, self.values = self._drawn(HIDDEN, PAIRS * KEY_DIM), self._drawn(HIDDEN, PAIRS * VALUE_DIM)
        self.outputs = [self._drawn(HEADS * VALUE_DIM, HIDDEN), self._drawn(HEADS * VALUE_DIM, HIDDEN)]
        self.up, self.down = self._drawn(HIDDEN, 48), self._drawn(48, HIDDEN)
        self.latent_queries, self.latent = self._drawn(HIDDEN, HEADS * LATENT_KEY), self._drawn(HIDDEN, LATENT_KEY)
        self.latent_output = self._drawn(HEADS * LATENT, HIDDEN)
        self.head = self._drawn(HIDDEN, vocab_size)
        self.sinks = np.array([0.5, 2.0, -1.0, 1.5])
        self.mixed = self._drawn(HIDDEN, HIDDEN)

    @property
    def states(self) -> tuple[State, ...]:
        """As the graph declares them: the last input, and the sum."""
        if not self.has_states:
            return ()
        return (State("conv_state.2", (1, HIDDEN), "float32"), State("recurrent_state.2", (HIDDEN,), "float32"))

    @property
    def caches(self) -> tuple[Cache, ...]:
        """As the graph declares them."""
        width = PAIRS * (KEY_DIM + self.num_extra)
        return (
            Cache("key_cache.0", width),
            Cache("value_cache.0", PAIRS * VALUE_DIM),
            Cache("key_cache.3", LATENT_KEY),
        )

    @property
    def num_extra(self) -> int:
        """Elements that keys have for sinks."""
        return HEADS // PAIRS if self.has_sinks else 0

    def logits(self, tokens: list[int]) -> FloatArray:
        """[T, V]: all tokens at once, in float64, with sinks written into the softmax."""
        places = np.arange(len(tokens))
        x = self.embedding[tokens] + np.sin(places[:, None] * FREQUENCIES)
        normed = _normed(x)
        keys = np.repeat((normed @ self.keys).reshape(-1, PAIRS, KEY_DIM), HEADS // PAIRS, axis=1)
        values = np.repeat((normed @ self.values).reshape(-1, PAIRS, VALUE_DIM), HEADS // PAIRS, axis=1)
        for queries, output in zip(self.queries, self.outputs, strict=True):
            q = (_normed(x) @ queries).reshape(-1, HEADS, KEY_DIM)
            x = x + self._attended(q, keys, values, self.sinks, KEY_DIM**-0.5) @ output
        if self.has_states:
            x = x + self._summed(_normed(x)) @ self.mixed
        x = x + np.maximum(_normed(x) @ self.up, 0) @ self.down
        q = (_normed(x) @ self.latent_queries).reshape(-1, HEADS, LATENT_KEY)
        keys = np.repeat((_normed(x) @ self.latent)[:, None], HEADS, axis=1)
        sinks = np.zeros(HEADS)
        x = x + self._attended(q, keys, keys[:, :, :LATENT], sinks, LATENT_KEY**-0.5) @ self.latent_output
        result: FloatArray = _normed(x) @ self.head
        return result

    def _summed(self, inputs: FloatArray) -> FloatArray:
        """What the decaying sum holds after each of the inputs [T, hidden]."""
        before, total, sums = np.zeros(HIDDEN), np.zeros(HIDDEN), []
        for each in inputs:
            total = DECAY * total + each + 0.5 * before
            before = each
            sums.append(total)
        return np.stack(sums)

    def _attended(
        self, queries: FloatArray, keys: FloatArray, values: FloatArray, sinks: FloatArray, scale: float
    ) -> FloatArray:
        """Causal attention, [T, heads, size] each; returns [T, heads * size of values]."""
        count = len(queries)
        scores = np.einsum("thd,shd->hts", queries, keys) * scale
        weights = np.where(np.tri(count, dtype=bool), np.exp(scores), 0)
        total = weights.sum(axis=-1) + (np.exp(sinks)[:, None] if self.has_sinks else 0)
        return np.einsum("hts,shd->thd", weights / total[..., None], values).reshape(count, -1)

    def _drawn(self, num_inputs: int, num_outputs: int) -> FloatArray:
        return self._rng.standard_normal((num_inputs, num_outputs)) * 1.5 / num_inputs**0.5


def mixed_package(
    folder: Path,
    *,
    has_sinks: bool,
    has_states: bool = False,
    vocab_size: int = VOCAB_SIZE,
    max_position: int = 4096,
) -> Path:
    """Build the model as a package."""
    folder.mkdir(parents=True, exist_ok=True)
    model = MixedModel(has_sinks=has_sinks, has_states=has_states, vocab_size=vocab_size)
    with ExternalData(folder / f"{MODEL_FILE}.data") as data:
        graph = GraphBuilder(data)
        written = _Writer(graph, model).model()
    onnx.save(written, folder / MODEL_FILE)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    config = ModelConfig(
        contract_version=CONTRACT_VERSION,
        model_type="mixed",
        num_layers=4,
        hidden_size=HIDDEN,
        vocab_size=vocab_size,
        num_heads=HEADS,
        num_kv_heads=PAIRS,
        head_dim=KEY_DIM,
        max_position=max_position,
        cache_dtype="float32",
        eos_token_ids=(END_ID,),
        provenance=Provenance(source=f"mixed {has_sinks} {has_states}", sha256="", precision="f32", builder="tests"),
    )
    write_contract(folder, config, written, graph.row_start)
    return folder


class _Writer:
    """Writes the graph."""

    def __init__(self, graph: GraphBuilder, model: MixedModel) -> None:
        self._graph = graph
        self._model = model

    def model(self) -> onnx.ModelProto:
        graph, model = self._graph, self._model
        places = graph.op("Unsqueeze", contract.POSITION_IDS, self._integers(2))
        angles = graph.op("Mul", graph.op("Cast", places, to=onnx.TensorProto.FLOAT), self._floats(FREQUENCIES))
        x = graph.op(
            "Add", graph.op("Gather", self._floats(model.embedding), contract.INPUT_IDS), graph.op("Sin", angles)
        )
        normed = self._normed(x)
        keys = self._write("key_cache.0", self._with_sinks(self._product(normed, model.keys), PAIRS, is_query=False))
        values = self._write("value_cache.0", self._product(normed, model.values))
        for queries, output in zip(model.queries, model.outputs, strict=True):
            q = self._with_sinks(self._product(self._normed(x), queries), HEADS, is_query=True)
            attended = self._attention(q, keys, values, PAIRS, KEY_DIM**-0.5)
            x = graph.op("Add", x, self._product(attended, output))
        if model.has_states:
            x = graph.op("Add", x, self._product(self._summed(self._normed(x)), model.mixed))
        x = graph.op("Add", x, self._product(graph.op("Relu", self._product(self._normed(x), model.up)), model.down))
        normed = self._normed(x)
        keys = self._write("key_cache.3", self._product(normed, model.latent))
        q = self._product(normed, model.latent_queries)
        attended = self._split(self._attention(q, keys, keys, 1, LATENT_KEY**-0.5), HEADS, LATENT_KEY)
        attended = graph.op("Slice", attended, self._integers(0), self._integers(LATENT), self._integers(3))
        x = graph.op("Add", x, self._product(self._joined(attended, HEADS * LATENT), model.latent_output))
        chosen = graph.op("Unsqueeze", contract.LOGITS_POSITIONS, self._integers(2))
        x = graph.op("GatherND", self._normed(x), chosen, batch_dims=1)
        graph.op_into(contract.LOGITS, "Identity", self._product(x, model.head))
        self._reserve()
        inputs = contract.inputs(model.caches, "float32", model.states)
        output = contract.Output(contract.LOGITS, model.vocab_size)
        return graph.model(inputs, contract.outputs(model.caches, "float32", output, model.states), {})

    def _summed(self, x: str) -> str:
        """The layer of the states, [B, T, hidden]: each state has one reader, and padding leaves no trace in them."""
        graph, (last, total) = self._graph, self._model.states
        count = graph.op("Unsqueeze", contract.TOKEN_COUNTS, self._integers(1))
        inputs = graph.op("Concat", last.name, x, axis=1)  # [B, 1 + T, hidden]
        kept = graph.op("GatherND", inputs, count, batch_dims=1)
        graph.op_into(contract.updated(last.name), "Unsqueeze", kept, self._integers(1))
        before = graph.op("Slice", inputs, self._integers(0), self._integers(-1), self._integers(1))
        mixed = graph.op("Add", x, graph.op("Mul", before, self._floats(np.array([0.5]))))
        terms = graph.op("Concat", graph.op("Unsqueeze", total.name, self._integers(1)), mixed, axis=1)
        sums = graph.op("MatMul", self._decays(inputs), terms)
        graph.op_into(contract.updated(total.name), "GatherND", sums, count, batch_dims=1)
        return graph.op("Slice", sums, self._integers(1), self._integers(2**31), self._integers(1))

    def _decays(self, inputs: str) -> str:
        """How much of each term is left in each sum, [1 + T, 1 + T], for inputs [B, 1 + T, hidden]."""
        graph = self._graph
        length = graph.op("Squeeze", graph.op("Shape", inputs, start=1, end=2))
        places = graph.op("Range", graph.constant(0, np.int64), length, graph.constant(1, np.int64))
        column = graph.op("Unsqueeze", places, self._integers(1))
        ages = graph.op("Sub", column, places)
        decays = graph.op("Pow", self._floats(np.array([DECAY])), graph.op("Cast", ages, to=onnx.TensorProto.FLOAT))
        return graph.op("Where", graph.op("Less", column, places), self._floats(np.zeros(1)), decays)

    def _reserve(self) -> None:
        """The sinks as a slot's key, which scale makes smaller; layer 3's is 0 by itself."""
        if self._model.has_sinks:
            sinks = self._model.sinks.reshape(PAIRS, -1) * KEY_DIM**0.5
            start = np.concatenate([np.zeros((PAIRS, KEY_DIM)), sinks], axis=1)
            self._graph.row_start["key_cache.0"] = start.reshape(-1).astype(np.float32)

    def _with_sinks(self, x: str, num_heads: int, *, is_query: bool) -> str:
        """Queries with ones where their own sink is, keys with zeros."""
        count = self._model.num_extra
        if not count:
            return x
        ones = np.eye(count)[np.arange(num_heads) % count] if is_query else np.zeros((num_heads, count))
        split = self._split(x, num_heads, KEY_DIM)
        first = self._graph.op("Slice", split, self._integers(0), self._integers(1), self._integers(3))
        further = self._graph.op("Add", self._graph.op("Mul", first, self._floats(np.zeros(1))), self._floats(ones))
        return self._joined(self._graph.op("Concat", split, further, axis=3), num_heads * (KEY_DIM + count))

    def _attention(self, q: str, keys: str, values: str, num_pairs: int, scale: float) -> str:
        return self._graph.op(
            "Attention", q, keys, values, None, None, None, contract.NONPAD_KV_SEQLEN,
            is_causal=1, q_num_heads=HEADS, kv_num_heads=num_pairs, scale=scale,
        )  # fmt: skip

    def _write(self, cache: str, new: str) -> str:
        return self._graph.op_into(
            contract.updated(cache), "TensorScatter", cache, new, contract.WRITE_INDICES, axis=1, mode="linear"
        )

    def _normed(self, x: str) -> str:
        return self._graph.op("RMSNormalization", x, self._floats(np.ones(HIDDEN)), axis=-1, epsilon=1e-5)

    def _product(self, x: str, weight: FloatArray) -> str:
        return self._graph.op("MatMul", x, self._floats(weight))

    def _split(self, x: str, num_heads: int, size: int) -> str:
        return self._graph.op("Reshape", x, self._graph.constant([0, 0, num_heads, size], np.int64))

    def _joined(self, x: str, size: int) -> str:
        return self._graph.op("Reshape", x, self._graph.constant([0, 0, size], np.int64))

    def _floats(self, values: FloatArray) -> str:
        return self._graph.constant(values, np.float32)

    def _integers(self, *values: int) -> str:
        return self._graph.constant(values, np.int64)


def _normed(x: FloatArray) -> FloatArray:
    result: FloatArray = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    return result
