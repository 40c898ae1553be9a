"""Measurements of the runtime: alone (`genai bench`), side by side with its peers, and as proofs of single claims."""
