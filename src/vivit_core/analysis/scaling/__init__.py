"""How scores grow with data: a law through the runs of a sweep, and what they do not tell of it."""
