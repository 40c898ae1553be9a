"""Drafts: what is expected to follow a text, so that several tokens are verified in one run."""
