"""llama.cpp in a newer release, prebuilt: xllamacpp's module has its C functions."""

from __future__ import annotations

import ctypes
from importlib.metadata import version

from xllamacpp import xllamacpp

from benchmarks.llama_library import LlamaLibrary
from benchmarks.protocol import serve

if __name__ == "__main__":
    serve(LlamaLibrary(ctypes.CDLL(xllamacpp.__file__), version("xllamacpp")))
