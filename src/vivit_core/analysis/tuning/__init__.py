"""Tuning to gratings, and most exciting images."""
