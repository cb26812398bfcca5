"""Videos that a twin is shown: how they are read, and how they become its frames and its behavior."""
