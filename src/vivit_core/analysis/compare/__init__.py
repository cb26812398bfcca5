"""Several models on the same bins."""
