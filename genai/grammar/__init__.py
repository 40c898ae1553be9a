"""Constraints on a text: JSON schemas, regular expressions, Lark grammars and choices, as masks over tokens."""
