"""The time of a bin in a stream."""
