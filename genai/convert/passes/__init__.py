"""Passes over a graph that follows the contract."""
