"""From feature maps to each unit's rate."""
