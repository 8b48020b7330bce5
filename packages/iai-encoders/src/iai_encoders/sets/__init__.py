"""Encoders of sets: the order of the tokens does not matter."""
