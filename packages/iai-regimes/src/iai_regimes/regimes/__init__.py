"""Regimes: what the state is, and how it answers queries."""
