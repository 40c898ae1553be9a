"""Running a graph: the session (ONNX Runtime), the cache arena and its layout, and the runner that joins them."""
