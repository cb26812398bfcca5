"""Histories: what units answered before acts on what they answer now."""
