"""Gradient modes: how a meta-gradient crosses the steps, one a file."""
