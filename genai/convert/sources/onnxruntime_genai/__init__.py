"""onnxruntime-genai's model folders."""
