"""The options of a generation: what there is, what each may be, and the configuration they make."""
