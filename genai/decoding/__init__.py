"""From logits to a token: processors and the sampler. Pure functions and small objects over NumPy arrays."""
