"""Readouts: from feature maps to each unit's drive."""
