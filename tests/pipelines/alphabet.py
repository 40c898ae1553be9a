"""A model folder for onnxruntime-genai whose texts are known: a letter is followed by the next, z by the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_package import BEGIN, END, END_ID, TEMPLATE, VOCAB_SIZE, byte_tokenizer

CONTEXT = 200
FIRST, SECOND = 12.0, 10.0  # logits of the next letter and of the one after it; of all others 0


def table() -> np.ndarray:
    """Logits after each token: [V, V] float32."""
    logits = np.zeros((VOCAB_SIZE, VOCAB_SIZE), np.float32)
    for token in range(VOCAB_SIZE):
        first, second = followers(token)
        logits[token, second], logits[token, first] = SECOND, FIRST
    return logits


def followers(token: int) -> tuple[int, int]:
    """The most probable token after one, and the next to it; a text begins with a."""
    if not ord("a") <= token <= ord("z"):
        return ord("a"), ord("b")
    return tuple(after if after <= ord("z") else END_ID for after in (token + 1, token + 3))  # type: ignore[return-value]


def write_alphabet(folder: Path, **search: object) -> Path:
    """Write graph, tokenizer and configuration, with search options of its own; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(), folder / "model.onnx")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    special = {"eos_token": END, "bos_token": BEGIN, "pad_token": END, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    names = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    past = {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    present = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    decoder = {
        "session_options": {"provider_options": []},
        "filename": "model.onnx",
        "inputs": names | past,
        "outputs": {"logits": "logits", **present},
        "head_size": 1,
        "hidden_size": 1,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
    }
    tokens = {"bos_token_id": 256, "eos_token_id": END_ID, "pad_token_id": END_ID, "vocab_size": VOCAB_SIZE}
    model = {"type": "llama", "context_length": CONTEXT, "decoder": decoder, **tokens}
    search = {"max_length": CONTEXT, "past_present_share_buffer": False, "top_k": 50, "temperature": 0.8} | search
    (folder / "genai_config.json").write_text(json.dumps({"model": model, "search": search}))
    return folder


def _graph() -> onnx.ModelProto:
    """Logits by table; the cache, which nothing reads, grows by a number a token."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["logits"]),
        helper.make_node("Unsqueeze", ["input_ids", "axes"], ["new_ids"]),
        helper.make_node("Cast", ["new_ids"], ["new"], to=TensorProto.FLOAT),
    ]
    cache = []
    for kind in ("key", "value"):
        past, present = f"past_key_values.0.{kind}", f"present.0.{kind}"
        nodes.append(helper.make_node("Concat", [past, "new"], [present], axis=2))
        cache.append((past, present))
    shape = ["batch", 1, "past", 1]
    ids = [("input_ids", ["batch", "length"]), ("attention_mask", ["batch", "total"])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, size) for name, size in ids]
    inputs += [helper.make_tensor_value_info(past, TensorProto.FLOAT, shape) for past, _ in cache]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", VOCAB_SIZE])]
    outputs += [
        helper.make_tensor_value_info(present, TensorProto.FLOAT, ["batch", 1, "total", 1]) for _, present in cache
    ]
    constants = [numpy_helper.from_array(table(), "table"), numpy_helper.from_array(np.asarray([1, 3]), "axes")]
    graph = helper.make_graph(nodes, "alphabet", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
