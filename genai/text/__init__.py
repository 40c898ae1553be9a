"""Strings: tokenizers, chat templates, detokenizing piece by piece, stop strings. Nothing here knows about graphs."""
