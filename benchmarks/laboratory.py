"""The laboratory on true neurons: does each protocol tell which neurons use which context?

    python benchmarks/laboratory.py                  # 32 units with context, on two cores in some minutes
    python benchmarks/laboratory.py --protocols surround adaptation --units 16 --seed 1

Simulates one recording with context, makes its neurons again from the file, runs protocols of ``task=tuning`` with
their shipped settings on them, and prints the median of each number by kind of unit. No model is involved, so this says
what a protocol can tell, and what a perfect twin would show.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from vivit_core.analysis.screen import natural_pictures
from vivit_core.analysis.tuning.laboratory import TrueScreen, sites_of
from vivit_core.analysis.tuning.measure import measure
from vivit_core.analysis.tuning.protocols.base import Bench
from vivit_core.cli.schema import conf_dir
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate import Simulator
from vivit_core.data.simulate.neurons import true_neurons
from vivit_core.parts.build import build, build_all

SHORT = {  # of the simulator, so that it takes seconds
    "recordings": 1, "train_trials": 12, "val_trials": 1, "test_trials": 1, "repeated_stimuli": 0, "trial_s": 3.0,
    "eye_tracker": None,
}  # fmt: skip


def settings(option: str) -> dict[str, Any]:
    """What a file of conf says, without what its defaults list brings."""
    node: dict[str, Any] = yaml.safe_load((conf_dir() / f"{option}.yaml").read_text(encoding="utf-8"))
    node.pop("defaults", None)
    return node


def by_kind(names: list[str], units: int, seed: int, cache: Path) -> pd.DataFrame:
    """The median of each number of some protocols, a column for each kind of unit."""
    node = settings("data/simulator/backimage") | SHORT | {"units": units, "seed": seed}
    simulator: Simulator = build("data.simulator", node | {"context": settings("data/simulator/context/default")})
    (path,) = simulator.make(cache)
    neurons = true_neurons(path)
    assert neurons is not None and neurons.contexts is not None  # it was just made, with context
    tuning = settings("task/tuning")
    screen = TrueScreen.alone(neurons)
    centers_U2 = neurons.population.center_px.astype(float)
    gratings = build("gratings", tuning["gratings"] | {"directions": 8, "contrasts": [0.25]})
    sites = sites_of(measure(screen, gratings, centers_U2, progress=True), centers_U2, range(units))
    natural_BHW, film_B = natural_pictures(screen, Recording(path), 48)
    bench = Bench(screen, natural_BHW, gratings.settle_s, gratings.common_s(neurons.frame_rate_hz), film_B=film_B)
    kind_U, rows = neurons.contexts.kind_U, {}
    for name, protocol in build_all("lab", {name: tuning["lab"][name] for name in names}).items():
        for number, values_S3 in protocol.run(bench, sites, name).numbers.items():
            of = {kind: values_S3[kind_U == kind, 0] for kind in np.unique(kind_U).tolist()}
            known = {kind: values[~np.isnan(values)] for kind, values in of.items()}
            rows[name, number] = {k: float(np.median(v)) if len(v) else np.nan for k, v in known.items()}
    return pd.DataFrame(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--protocols", nargs="+", default=["surround", "motion", "adaptation", "natural_surround"])
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        print(by_kind(asked.protocols, asked.units, asked.seed, Path(folder)).round(3).to_string())


if __name__ == "__main__":
    main()
