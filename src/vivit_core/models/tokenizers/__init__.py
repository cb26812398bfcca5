"""From frames to tokens."""
