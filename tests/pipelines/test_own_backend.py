"""The interface's rules on a fourth backend, which knows nothing of ours: the example's, over transformers."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from genai.pipelines.conformance import RULES, Subject, check
from tests.pipelines.alphabet import table
from tests.tiny_package import BEGIN, BEGIN_ID, END, END_ID, TEMPLATE, VOCAB_SIZE, byte_tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_backend.py"
REFUSED = {
    "beams_give_as_many_texts_as_asked",
    "a_streamer_reads_one_text",
    "token_ids_are_taken_as_they_are",
    "a_generator_writes_the_calls_text",
    "a_generator_says_when_it_is_done",
    "generators_go_on_beside_each_other",
    "a_generator_keeps_its_configuration",
}
"""By name: it has no beams, and goes to a text's end at once."""


def alphabet_model(folder: Path) -> Path:
    """A checkpoint whose next letter depends on the last alone: one-hot embeddings, and layers that add nothing."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=VOCAB_SIZE, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        head_dim=8, max_position_embeddings=512, bos_token_id=BEGIN_ID, eos_token_id=END_ID, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.copy_(torch.eye(VOCAB_SIZE))
        model.lm_head.weight.copy_(torch.from_numpy(table().T / VOCAB_SIZE**0.5))
    model.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    special = {"eos_token": END, "bos_token": BEGIN, "pad_token": END, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    return folder


def test_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = alphabet_model(tmp_path)
    spec = importlib.util.spec_from_file_location("own_backend", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "own_backend", module)
    spec.loader.exec_module(module)
    with_model = Subject(create=lambda: module.TransformersPipeline(folder), prompt="ba")
    assert with_model.run(max_new_tokens=4).text == "bcde"
    found = {finding.rule.name: (finding.outcome, finding.seen) for finding in check(with_model)}
    wanted = {rule.name: ("refused" if rule.name in REFUSED else "kept", "") for rule in RULES}
    assert found == wanted
