"""What is in recordings, and what may be wrong with them."""
