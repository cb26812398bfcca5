"""Scores of a model on trials that it has not seen."""
