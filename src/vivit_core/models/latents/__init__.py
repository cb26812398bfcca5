"""Latents: what units share beyond the stimulus and the behavior that a twin sees."""
