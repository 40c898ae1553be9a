"""The backends that come with this package; `pyproject.toml` names them in the entry-point group `genai.backends`."""
