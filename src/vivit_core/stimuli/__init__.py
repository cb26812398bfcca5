"""Stimuli for experiments in a model."""
