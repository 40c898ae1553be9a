"""From weights to a graph, without torch: readers, quantization, architectures, and the decoder builder."""
