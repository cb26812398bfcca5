"""Protocols of the laboratory: each shows its stimuli at units' places, and says what the responses mean."""
