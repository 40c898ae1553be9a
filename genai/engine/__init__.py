"""Many sequences at once: what runs when (scheduler), what is remembered (prefix cache), and the loop (engine)."""
