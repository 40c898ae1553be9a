"""Text generation from ONNX decoder models, with a KV cache that standard operators update in place."""
