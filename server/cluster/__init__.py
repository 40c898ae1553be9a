"""Several replicas as one server: where a request goes, what stands before them, what they tell together."""
