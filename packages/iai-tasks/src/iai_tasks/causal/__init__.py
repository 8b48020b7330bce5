"""Structural causal models, their graphs, and orders of their variables."""
