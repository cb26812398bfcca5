"""Scores of neural prediction, one idea a module."""
