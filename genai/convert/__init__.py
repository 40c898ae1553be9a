"""Bringing other people's ONNX models onto the decoder contract."""
