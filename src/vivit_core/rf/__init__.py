"""Receptive fields from data. LN, initialization and task=inspect use them."""
