"""Pictures are drawn from plain arrays; what they show is checked on the figure before it is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from vivit_core.analysis import pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures in the order in which they were saved."""
    figures: list[Figure] = []
    save = pictures.save

    def keep(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return save(figure, path)

    monkeypatch.setattr(pictures, "save", keep)
    return figures


def is_picture(path: Path) -> bool:
    """Readable, of a sensible size, and not one flat colour."""
    pixels = imread(path)
    return pixels.shape[0] > 200 and pixels.shape[1] > 300 and float(pixels.std()) > 0.01


def test_learning_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text(
        "epoch,step,train/loss,val/loss,val/bps_mean\n0,10,0.5,,\n0,19,,0.4,0.1\n1,20,0.3,,\n1,39,,0.35,0.3\n2,59,,0.36,0.2\n"
    )
    assert is_picture(pictures.learning_curve(tmp_path / "new" / "curve.png", metrics))
    loss, bps = drawn[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[10, 0.5], [20, 0.3]]
    assert loss.lines[1].get_xydata().tolist() == [[19, 0.4], [39, 0.35], [59, 0.36]]
    assert bps.lines[0].get_xydata().tolist() == [[19, 0.1], [39, 0.3], [59, 0.2]]
    assert bps.texts[0].get_text() == "0.300"


def test_learning_curve_of_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,other\n0,1,2\n")
    with pytest.raises(ValueError, match=r"no train/loss"):
        pictures.learning_curve(tmp_path / "curve.png", tmp_path / "metrics.csv")


def test_rates(tmp_path: Path, drawn: list[Figure]) -> None:
    rng = np.random.default_rng(0)
    measured = rng.poisson(0.2, (200, 2)) * 100.0
    predicted, ln = np.full((200, 2), 20.0), np.full((200, 2), 10.0)
    path = pictures.rates(
        tmp_path / "rates.png",
        times_s=np.arange(200) / 100,
        measured_hz=measured,
        predicted_hz=predicted,
        ln_hz=ln,
        titles=["good", "poor"],
        title="clip",
    )
    assert is_picture(path)
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["good", "poor"]
    assert [line.get_ydata()[0] for line in drawn[0].axes[1].lines] == [10.0, 20.0]
    # Smoothing keeps the mean rate.
    band = drawn[0].axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].max() < measured[:, 0].max()


def test_receptive_fields(tmp_path: Path, drawn: list[Figure]) -> None:
    path = pictures.receptive_fields(
        tmp_path / "fields.png",
        frame=np.random.default_rng(0).integers(0, 255, (20, 30)),
        mean_px=np.array([[5.0, 6.0], [20.0, 10.0]]),
        std_px=np.array([[2.0, 1.0], [3.0, 3.0]]),
        angle_deg=np.array([30.0, 0.0]),
        title="r",
    )
    assert is_picture(path)
    first = drawn[0].axes[0].patches[0]
    assert (first.center, first.width, first.height, first.angle) == ((5.0, 6.0), 4.0, 2.0, 30.0)  # type: ignore[attr-defined]
    assert drawn[0].axes[0].get_ylim() == (19.5, -0.5)  # row 0 is at the top


def test_twin_against_ln(tmp_path: Path, drawn: list[Figure]) -> None:
    path = pictures.twin_against_ln(
        tmp_path / "against.png",
        twin_bps=np.array([1.0, 0.5, np.nan, 0.2]),
        ln_bps=np.array([0.8, 0.6, 0.1, 0.1]),
        recording=["a", "a", "a", "b"],
    )
    assert is_picture(path)
    axes = drawn[0].axes[0]
    assert axes.get_title() == "the twin is better for 2 of 3 units"
    assert axes.collections[0].get_offsets().tolist() == [[0.8, 1.0], [0.6, 0.5]]
