"""Foreign formats, each made into recording files."""
