"""A recording's stream for a rig: exported to files, and run from them."""
