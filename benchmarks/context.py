"""The information of context in the simulated recordings: what no local observer can know.

    python benchmarks/context.py                  # the default population, with context
    python benchmarks/context.py --recordings 1 --seed 3

Prints for each recording and kind of unit the bits per spike of the true rate and of the best local observer, on the
test trials' true rates, and the share between them; then the CPU time, memory and file size of the simulation.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from vivit_core.cli.schema import conf_dir
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate import Simulator
from vivit_core.parts.build import build


def information(path: Path) -> pd.DataFrame:
    """A row a unit: its kind, and bits per spike of the truth and of the best local observer on the test trials."""
    # With torch, which the simulation's memory is without.
    from vivit_core.metrics.unit_scores import Scorer
    from vivit_core.models.likelihoods.poisson import Poisson

    recording = Recording(path)
    test = recording.info.trials.of("test")

    def shown(name: str) -> np.ndarray:
        return np.concatenate([recording.truth(name, a, b) for a, b in zip(test.start, test.stop, strict=True)])

    rate, local = shown("rate"), shown("rate_local")
    every = np.ones(rate.shape, bool)
    scorer = Scorer(Poisson((), "exp"))
    bits = {name: scorer.scores_of(x, rate, every).by_name["bps"] for name, x in (("truth", rate), ("local", local))}
    return pd.DataFrame({"recording": path.stem, "kind": recording.unit_column("context"), **bits})


def share(of: pd.DataFrame) -> float:
    """The part of the truth's bits per spike that is context's."""
    return float(1 - of["local"].sum() / of["truth"].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recordings", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    node: dict[str, Any] = yaml.safe_load((conf_dir() / "data/simulator/backimage.yaml").read_text())
    del node["defaults"]
    node["eye_tracker"] = None
    node["context"] = yaml.safe_load((conf_dir() / "data/simulator/context/default.yaml").read_text())
    simulator: Simulator = build("data.simulator", node | {"recordings": asked.recordings, "seed": asked.seed})
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        paths = simulator.make(Path(folder))
        took_s = time.process_time() - began
        memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        size_mb = sum(path.stat().st_size for path in paths) / 1e6
        units = pd.concat([information(path) for path in paths], ignore_index=True)
    groups = [*units.groupby("recording"), *units.groupby("kind"), ("all", units)]
    rows = [(name, len(of), of["truth"].mean(), of["local"].mean(), share(of)) for name, of in groups]
    table = pd.DataFrame(rows, columns=["of", "units", "truth, bits/spike", "best local", "share of context"])
    print(table.to_string(index=False, float_format="%.3f"))
    print(f"simulated in {took_s:.0f} s of CPU, at most {memory_mb:.0f} MB of memory, {size_mb:.0f} MB of files")


if __name__ == "__main__":
    main()
