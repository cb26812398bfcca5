"""Front ends: what happens to the pixels' time courses before tokens are cut."""
