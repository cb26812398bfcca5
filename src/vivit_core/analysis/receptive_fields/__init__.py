"""Receptive fields of a model's units, against the data's and the truth."""
