"""Requests for text in OpenAI's form, described once: for the server and for batch files."""
