"""Compose the configuration, run one task, return one number: ``python run.py task=train model=vivit_small …``."""

from vivit_core.cli.main import main

if __name__ == "__main__":
    main()
