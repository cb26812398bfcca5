"""Styles and pictures that several analyses use."""
