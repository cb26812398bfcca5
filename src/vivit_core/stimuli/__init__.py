"""Stimuli for experiments in a model: each a small description that makes its frames, in contrast."""
