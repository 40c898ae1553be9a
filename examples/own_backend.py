"""A backend of one's own behind the working group's interface, here transformers', and the rules that it keeps.

    python examples/own_backend.py MODEL_DIR

MODEL_DIR is any causal model that transformers reads (pip install torch transformers). What this backend has not it
refuses by name.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList

from genai.errors import CapacityError, ConfigError, TokenizerError
from genai.pipelines import GenerationConfig, GenerationInput, GenerationResult, Streamer
from genai.pipelines.backends.options import in_force, refusal, refuse_others, refuse_streaming_several
from genai.pipelines.conformance import Subject, check

SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")
KNOWN = {
    *("max_new_tokens", "max_length", "min_new_tokens", "eos_token_ids", "stop_strings"),
    *(f"sampling_config.{name}" for name in ("do_sample", "rng_seed", *SAMPLING)),
}


class TransformersPipeline:
    """A pipeline over one of its models, greedy until another configuration is set."""

    def __init__(self, models_path: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(models_path, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(models_path)
        own = self._model.generation_config.eos_token_id
        self._ends = own if isinstance(own, list) else [] if own is None else [own]
        self._config = GenerationConfig().updated(do_sample=False, rng_seed=0)

    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        """Continue one input."""
        if self._model is None:
            raise ConfigError("this pipeline is closed; create another")
        config = in_force(self._config)
        refuse_streaming_several(config, streamer)
        prompt = self._encode(GenerationInput.of(source))
        most = min(config.max_length or sys.maxsize, self._model.config.max_position_embeddings)
        if len(prompt) >= most:
            raise CapacityError(f"{most} tokens leave nothing: the prompt has {len(prompt)}")
        limit = min(config.max_new_tokens or most, most - len(prompt))
        sampling, ends = config.sampling_config, list(config.eos_token_ids or self._ends)
        torch.manual_seed(secrets.randbits(32) if sampling.rng_seed is None else sampling.rng_seed)
        follower = Follower(self._tokenizer, len(prompt), ends, config.stop_strings, streamer)
        found = self._model.generate(
            torch.tensor([prompt]), do_sample=sampling.do_sample, max_new_tokens=limit,
            min_new_tokens=config.min_new_tokens or None, eos_token_id=ends or None, pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([follower]),
            **({name: getattr(sampling, name) for name in SAMPLING} if sampling.do_sample else {}),
        )  # fmt: skip
        follower.finish()
        tokens = tuple(found[0, len(prompt) :].tolist())
        is_over = tokens[-1] in ends or follower.is_stopped
        reason = "cancelled" if follower.had_enough else "stop" if is_over else "length"
        return GenerationResult(text=follower.text, token_ids=tokens, finish_reason=reason, texts=(follower.text,))

    def get_generation_config(self) -> GenerationConfig:
        """The configuration in force."""
        return self._config

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Use another from now on."""
        refuse_others("transformers", config, KNOWN)
        if config.max_new_tokens == 0:
            raise refusal("transformers", "max_new_tokens", 0)
        self._config = config

    def generator(self) -> None:  # type: ignore[override]
        """Not here: this backend calls `generate`, which goes to the end."""
        raise ConfigError("transformers cannot do generator(); call the pipeline")

    def close(self) -> None:
        """Free the model."""
        self._model = None

    def _encode(self, source: GenerationInput) -> list[int]:
        if source.token_ids is not None:
            return list(source.token_ids)
        if source.messages is None:
            return list(self._tokenizer(source.text).input_ids)
        if not self._tokenizer.chat_template:
            raise TokenizerError("this model has no chat template")
        messages = [dict(message) for message in source.messages]
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)


class Follower(StoppingCriteria):
    """Told after each token: keeps the text, tells the streamer what is new, and sees stop strings."""

    def __init__(
        self, tokenizer: AutoTokenizer, start: int, ends: Sequence[int], stops: Sequence[str], streamer: Streamer | None
    ) -> None:
        self._tokenizer, self._start, self._ends, self._stops, self._streamer = tokenizer, start, ends, stops, streamer
        self._num_told = 0
        self.text = ""
        self.is_stopped = self.had_enough = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:
        """After each token: whether that is enough."""
        tokens = input_ids[0, self._start :].tolist()
        whole = self._tokenizer.decode([token for token in tokens if token not in self._ends])
        places = [place for stop in self._stops if (place := whole.find(stop)) >= 0]
        self.is_stopped = bool(places)
        self.text = whole[: min(places)] if places else whole
        self._tell(self.text[: len(self.text) - self._num_held()])
        return torch.tensor([self.is_stopped or self.had_enough])

    def finish(self) -> None:
        """Tell what was held back."""
        self._tell(self.text)

    def _num_held(self) -> int:
        """How much of the text's end may become something else: half a letter, before it a stop string's beginning."""
        known = self.text.removesuffix("\ufffd")
        begun = [size for stop in self._stops for size in range(1, len(stop)) if known.endswith(stop[:size])]
        return 0 if self.is_stopped else len(self.text) - len(known) + max([0, *begun])

    def _tell(self, text: str) -> None:
        piece = text[self._num_told :]
        if self._streamer is not None and piece and not self.had_enough:
            self._num_told = len(text)
            self.had_enough = self._streamer(piece) is True
            self.text = text if self.had_enough else self.text


def main(arguments: list[str]) -> int:
    """Print a line for each rule; the exit code is 1 if one is broken."""
    if len(arguments) != 1:
        print("Usage: own_backend.py MODEL_DIR", file=sys.stderr)
        return 2
    findings = list(check(Subject(create=lambda: TransformersPipeline(Path(arguments[0])))))
    for finding in findings:
        print(f"{finding.outcome:<10} {finding.rule.says} {finding.seen}".rstrip())
    return int(any(finding.outcome == "broken" for finding in findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
