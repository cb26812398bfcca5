"""What a start costs, beside `import torch` on the same machine at the same time.

    python benchmarks/startup.py

Prints CPU seconds of the child processes, medians of 5 rounds in which all take turns, and the ratios.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROUNDS = 5
RUN = [sys.executable, str(Path(__file__).resolve().parents[1] / "run.py")]


def cpu_s(words: list[str], folder: Path) -> float:
    """User and system seconds of a process and what it starts."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = spent()
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return spent() - before


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (600, 12, 16), dtype=np.uint8)
        np.savez(folder / "x.npz", frames=frames, counts=rng.poisson(0.3, (600, 5)))
        arrays = [
            "importer=arrays",
            "importer.recording_id=x",
            "importer.frame_rate_hz=30",
            "importer.trial_length=100",
        ]
        commands = {
            'python -c "import torch"': [sys.executable, "-c", "import torch"],
            "run.py --help": [*RUN, "--help"],
            "run.py task=plan --cfg job": [*RUN, "task=plan", "--cfg", "job"],
            "run.py task=import, a small file": [*RUN, "task=import", *arrays, "source=x.npz"],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for i in range(ROUNDS + 1):
            for name, words in commands.items():
                out = [f"out=x{i}.h5"] if "import" in name and "torch" not in name else []
                spent_s = cpu_s([*words, *out], folder)
                if i:  # the first round warms the caches
                    taken[name].append(spent_s)
    torch_s = statistics.median(taken['python -c "import torch"'])
    for name, seconds in taken.items():
        print(
            f"{name:36} {statistics.median(seconds):6.2f} s  {statistics.median(seconds) / torch_s:5.2f} × import torch"
        )


if __name__ == "__main__":
    main()
