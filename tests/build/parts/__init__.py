"""Tests of the parts of decoders."""
