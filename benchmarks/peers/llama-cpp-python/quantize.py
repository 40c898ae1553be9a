"""llama.cpp's own quantisation of a GGUF file: `quantize.py SOURCE TARGET NUMBER`, a number of its `llama_ftype`."""

from __future__ import annotations

import ctypes
import sys

import llama_cpp


def main(source: str, target: str, form: str) -> None:
    """Write the file, or end with a message."""
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(form)
    params.allow_requantize = True
    params.nthread = 2
    params.max_buf_size = 1 << 28
    if code := llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
        sys.exit(f"llama_model_quantize returned {code}")


if __name__ == "__main__":
    main(*sys.argv[1:])
