"""Decoders that take past keys and values and return longer ones, as most exporters write them."""
