"""Pictures that several analyses share; what they show is checked on the figure before it is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from picture_files import is_picture

from vivit_core.data.video.files import open_video
from vivit_core.plotting import film, learning_curve
from vivit_core.plotting import rates as plotting_rates

pytestmark = pytest.mark.pictures


def test_learning_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text(
        "epoch,step,train/loss,val/loss,val/bps_mean\n0,10,0.5,,\n0,19,,0.4,0.1\n1,20,0.3,,\n1,39,,0.35,0.3\n2,59,,0.36,0.2\n"
    )
    assert is_picture(learning_curve.learning_curve(tmp_path / "new" / "curve.png", metrics, kept=60))
    loss, bps = drawn[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[11, 0.5], [21, 0.3]]  # steps count from one
    assert loss.lines[1].get_xydata().tolist() == [[20, 0.4], [40, 0.35], [60, 0.36]]
    assert bps.lines[0].get_xydata().tolist() == [[20, 0.1], [40, 0.3], [60, 0.2]]
    assert bps.lines[1].get_xydata().tolist() == [[60, 0.2]] and bps.texts[0].get_text() == "0.200"  # not the best


def test_learning_curve_of_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,other\n0,1,2\n")
    with pytest.raises(ValueError, match=r"no train/loss"):
        learning_curve.learning_curve(tmp_path / "curve.png", tmp_path / "metrics.csv", kept=2)


def test_rates(tmp_path: Path, drawn: list[Figure]) -> None:
    rng = np.random.default_rng(0)
    measured = rng.poisson(0.2, (200, 2)) * 100.0
    predicted, ln = np.full((200, 2), 20.0), np.full((200, 2), 10.0)
    path = plotting_rates.rates(
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


def test_one_function_writes_films() -> None:
    root = Path(film.__file__).parents[1]
    assert [path for path in root.rglob("*.py") if "save_all" in path.read_text()] == [Path(film.__file__)]


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("kind", [".gif", ".mp4"])
def test_a_film_holds_its_pictures(kind: str, gray: bool, tmp_path: Path) -> None:
    if kind == ".mp4":
        pytest.importorskip("av")
    pictures = [np.full((32, 48) if gray else (32, 48, 3), 60 * i, np.uint8) for i in range(4)]
    colors = None if gray else np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    path = film.write_film(tmp_path / f"film{kind}", pictures, 10.0, colors)
    frames = np.concatenate(list(open_video(path).frames(0, 4, 1)))
    assert np.abs(frames.reshape(4, -1).mean(1) - [0, 60, 120, 180]).max() < 3
