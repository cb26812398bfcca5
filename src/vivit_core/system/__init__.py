"""Files, locks, signals and terminals: what the operating system does to us, and we to it."""
