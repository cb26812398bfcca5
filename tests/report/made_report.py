"""A report of an evaluation of any size, from tables that were made up, for tests of the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vivit_core.analysis.evaluate.explore import unit_explorer
from vivit_core.analysis.tables import write_arrays
from vivit_core.names import key_name
from vivit_core.report.page import publish
from vivit_core.report.section import Section, Table
from vivit_core.system.tables import write_table

RATE_HZ = 120.0


def write_evaluation(
    folder: Path, units: dict[str, list[str]], *, bins: int = 600, repeats: int = 20, seed: int = 0
) -> list[dict[str, object]]:
    """``units.csv`` and ``responses.npz`` as an evaluation of these recordings' units would leave them; the rows."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    arrays: dict[str, np.ndarray] = {}
    for recording, names in units.items():
        count = len(names)
        truth = rng.gamma(2.0, 0.5, count)
        ln, twin = truth * rng.uniform(0.2, 0.6, count), truth * rng.uniform(0.3, 0.9, count)
        columns = {
            "bins": np.full(count, 4000),
            "spikes": rng.integers(20, 9000, count),
            "mean_rate_hz": rng.gamma(2.0, 4.0, count),
            "bps": twin,
            "ln_bps": ln,
            "truth_bps": truth,
            "knowable_fraction": twin / truth,
            "corr": rng.uniform(0, 0.8, count),
            "ln_corr": rng.uniform(0, 0.7, count),
            "normalized_corr": rng.uniform(0.1, 1, count),
            "readout_x_px": rng.uniform(0, 63, count),
            "readout_y_px": rng.uniform(0, 35, count),
            "bps_low": twin - 0.1,
            "bps_high": twin + 0.12,
        }
        if count:
            columns["ln_bps"][0] = np.nan  # no baseline for this one
        rows += [
            {"recording": recording, "unit": name, "context": "local" if i % 2 else "surround"}
            | {key: column[i].item() for key, column in columns.items()}
            for i, name in enumerate(names)
        ]
        time = np.linspace(0, 12 * np.pi, bins)[:, None]
        rate_TU = (
            12
            * np.exp(np.sin(time * rng.uniform(0.5, 2, count) + rng.uniform(0, 6, count)))
            * rng.uniform(0.2, 3, count)
        )
        counts = rng.poisson(rate_TU / RATE_HZ, (repeats, bins, count))
        key = key_name(recording)
        arrays |= {
            f"{key}/unit_ids": np.array(names),
            f"{key}/bin_s": np.array(1 / RATE_HZ),
            f"{key}/stimulus": np.array("film <b>7</b>"),
            f"{key}/repeats": np.array(repeats),
            f"{key}/counts": counts.astype(np.float16),
            f"{key}/measured": (rate_TU * rng.uniform(0.8, 1.2, (bins, count))).astype(np.float32),
            f"{key}/error": (0.1 * rate_TU).astype(np.float32),
            f"{key}/predicted": rate_TU.astype(np.float32),
            f"{key}/ln": (0.7 * rate_TU + 3).astype(np.float32),
            f"{key}/frame": rng.uniform(0, 255, (36, 64)).astype(np.float32),
            f"{key}/window": np.stack(
                [
                    columns["readout_x_px"], columns["readout_y_px"],
                    np.full(count, 3.0), np.full(count, 2.0), rng.uniform(0, 180, count),
                ],
                1,
            ).astype(np.float32),
        }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "units.csv", rows)
    write_arrays(folder / "responses.npz", arrays)
    return rows


def write_report(folder: Path) -> Path:
    """The report of what :func:`write_evaluation` has left in a folder."""
    table = Table("Means over units", ("recording", "bits per spike"), [("all", 0.5)])
    explore = unit_explorer(folder)
    section = Section(
        "evaluate", "How well it predicts", ["A sentence."], [table], [], "python run.py", explore=explore
    )
    return publish(folder, section)
