"""The HTTP server: OpenAI's API over models in this process.

`genai serve MODEL`, `python -m server MODEL`, or `uvicorn server.app:create_app --factory`; see `docs/server.md`.
"""
