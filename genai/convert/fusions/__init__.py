"""Fusing what exporters decompose back into standard operators, and saying where that was not possible."""
