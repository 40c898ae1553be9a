"""llama.cpp as llama-cpp-python compiles it here."""

from __future__ import annotations

import ctypes

import llama_cpp

from benchmarks.llama_library import LlamaLibrary
from benchmarks.protocol import serve

if __name__ == "__main__":
    serve(LlamaLibrary(ctypes.CDLL(llama_cpp.llama_cpp._lib._name), str(llama_cpp.__version__)))
