"""Modulators: how behavior acts on the features."""
