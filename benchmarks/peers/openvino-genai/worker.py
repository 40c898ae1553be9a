"""openvino-genai as a peer: the GGUF itself through its continuous-batching pipeline, without its prefix cache."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
import openvino
import openvino_genai

from benchmarks.protocol import LoadOptions, Request, serve


class OpenVinoGenai:
    """Requests added to its pipeline, and its steps."""

    def load(self, options: LoadOptions) -> str:
        self._gguf = Path(options.work) / "model.gguf"  # it writes the converted model beside its source
        if not self._gguf.exists():
            self._gguf.parent.mkdir(parents=True, exist_ok=True)
            self._gguf.symlink_to(options.gguf)
        self._properties = {"INFERENCE_NUM_THREADS": options.threads, "PERFORMANCE_HINT": "LATENCY"}
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_seqs = options.max_batch
        scheduler.max_num_batched_tokens = options.max_length
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(self._gguf), scheduler, "CPU", dict(self._properties)
        )
        self._config = openvino_genai.GenerationConfig()
        self._config.ignore_eos = True
        self._config.do_sample = False
        self._config.max_new_tokens = options.max_length
        self._max_length = options.max_length
        self._requests = 0
        self._held: list[openvino_genai.GenerationHandle] = []
        return version("openvino-genai")

    def prefill(self, tokens: list[int]) -> float:
        started = perf_counter()
        self.start([tokens])
        seconds = perf_counter() - started
        self.stop()
        return seconds

    def start(self, prompts: list[list[int]]) -> None:
        for prompt in prompts:
            tokens = openvino.Tensor(np.asarray([prompt], np.int64))
            self._held.append(self._pipeline.add_request(self._requests, tokens, self._config))
            self._requests += 1
        waiting = set(range(len(prompts)))
        while waiting:  # a step in which a prompt is not finished brings it no token
            self._pipeline.step()
            waiting -= {index for index in waiting if self._held[index].can_read() and self._held[index].read()}

    def decode(self, steps: int) -> list[float]:
        seconds = []
        for _ in range(steps):
            started = perf_counter()
            self._pipeline.step()
            for handle in self._held:
                handle.read()
            seconds.append(perf_counter() - started)
        return seconds

    def stop(self) -> None:
        for handle in self._held:
            handle.cancel()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        self._held.clear()

    def ragged(self, requests: list[Request]) -> float:
        """One by one, each with its own limit: ending one from outside would cost a step."""
        started = perf_counter()
        for prompt, count in requests:
            self._config.max_new_tokens = count
            self.start([prompt])
            self.decode(count - 1)
            self.stop()
        self._config.max_new_tokens = self._max_length
        return perf_counter() - started

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """From the model that it makes of the GGUF, run by OpenVINO: its pipelines give no logits."""
        converted = self._gguf.with_name("openvino_model.xml")
        if not converted.is_file():
            openvino_genai.LLMPipeline(str(self._gguf), "CPU", enable_save_ov_model=True)
        request = openvino.Core().compile_model(str(converted), "CPU", self._properties).create_infer_request()
        inputs = {
            "input_ids": np.asarray([tokens], np.int64),
            "attention_mask": np.ones((1, len(tokens)), np.int64),
            "position_ids": np.arange(len(tokens), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        request.infer(inputs)
        logits: npt.NDArray[np.float32] = np.array(request.get_tensor("logits").data[0], np.float32)
        return logits


if __name__ == "__main__":
    serve(OpenVinoGenai())
