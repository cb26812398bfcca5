"""The learning curve of a training."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from vivit_core.plotting.style import MEASURED, TWIN, save
from vivit_core.system.tables import read_table


def learning_curve(path: Path, metrics_csv: Path, kept: int) -> Path:
    """Training loss, validation loss and validation bits per spike over optimizer steps, from a run's ``metrics.csv``.

    Parameters
    ----------
    path : of the picture.
    metrics_csv : whose steps count from zero, as Lightning's do.
    kept : optimizer steps of the checkpoint that was kept; a ring marks its validation.

    Raises
    ------
    ValueError
        Where the file holds none of them.
    """
    metrics = read_table(metrics_csv)

    def column(name: str) -> tuple[list[float], list[float]]:
        known = metrics.dropna(subset=name) if name in metrics else metrics[:0].assign(**{name: 0.0})
        return (known["step"] + 1).astype(float).tolist(), known[name].astype(float).tolist()

    curves = {name: column(name) for name in ("train/loss", "val/loss", "val/bps_mean")}
    if not any(steps for steps, _ in curves.values()):
        raise ValueError(
            f"{metrics_csv}: no train/loss, val/loss or val/bps_mean in it; give the metrics.csv of a training run"
        )
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, bps_axes = figure.subplots(1, 2)
    for name, color in (("train/loss", MEASURED), ("val/loss", TWIN)):
        steps, values = curves[name]
        if steps:
            loss_axes.plot(
                steps, values, color=color, label=name.split("/")[0], marker="." if name.startswith("val") else None
            )
    loss_axes.set(xlabel="optimizer step", ylabel="loss (nats a bin and unit)", title="loss")
    if loss_axes.lines:
        loss_axes.legend(frameon=False)
    steps, values = curves["val/bps_mean"]
    bps_axes.plot(steps, values, color=TWIN, marker=".")
    if kept in steps:
        value = values[steps.index(kept)]
        bps_axes.plot(kept, value, "o", color=TWIN, fillstyle="none", markersize=10)
        bps_axes.annotate(f"{value:.3f}", (kept, value), (0, -18), textcoords="offset points", ha="center")
    bps_axes.set(xlabel="optimizer step", ylabel="bits per spike, mean over units", title="validation")
    return save(figure, path)
