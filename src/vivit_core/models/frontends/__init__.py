"""What frames pass through before the core."""
