"""Labelled images as tasks, and the loaders that read them."""
