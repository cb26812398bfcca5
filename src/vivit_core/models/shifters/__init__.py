"""Shifters: from eye position to where the units of a recording look."""
