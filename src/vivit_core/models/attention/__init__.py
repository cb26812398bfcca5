"""Attention, its positions, and the blocks that it stands in."""
