"""``python -m vivit_core …`` is ``vivit-core …``, and ``python run.py …`` of a checkout."""

from vivit_core.cli.main import main

if __name__ == "__main__":
    main()
