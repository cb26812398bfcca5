"""A trained twin as a folder that can be shared."""
