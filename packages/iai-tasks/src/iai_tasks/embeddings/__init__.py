"""Frozen networks that embed images, and stores of what they gave."""
