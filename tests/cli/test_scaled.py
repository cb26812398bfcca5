"""task=scaling: sweeps' folders, written here without a training, become curves; what is no sweep is refused."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from fake_sweeps import job, sweep_of

from vivit_core.analysis.scaling.numbers import curves_of
from vivit_core.cli.scaled import curve_names, runs_of

ON_A_CORE = {"init_from": "core.ckpt", "optim": {"core_lr_scale": 0.0, "readouts_first": 0.0}}


def test_two_sweeps_are_drawn_together(command, tmp_path):
    """Few minutes on a trained core beside a training from nothing; one job runs yet, one failed, one is copied."""
    sweep_of(tmp_path / "new")
    few = sweep_of(tmp_path / "few", exponent=2.0, **ON_A_CORE)
    for number, outcome in ((4, {"status": "running"}), (5, {"status": "failed", "reason": "a fault"})):
        (few / "outcomes" / f"{number}.json").write_text(json.dumps(outcome))
    moved = json.loads((few / "outcomes" / "0.json").read_text()) | {"run": "/gone/0"}
    (few / "outcomes" / "0.json").write_text(json.dumps(moved))

    code, printed = command("task=scaling", "sweeps=[new,few]", "resamples=100", "hydra.run.dir=curves")
    assert code == 0, printed
    summary = json.loads((tmp_path / "curves" / "summary.json").read_text())
    assert {name: own["at"] for name, own in summary["curves"].items()} == {
        "from nothing": [0.5, 1, 2, 4],
        "frozen core": [0.5, 1, 2, 4],
    }
    exponents = [own["law"]["exponent"] for own in summary["curves"].values()]
    assert exponents == pytest.approx([1.0, 2.0], rel=1e-3)
    assert summary["left_out"] == [{"job": "few/4", "reason": "running"}, {"job": "few/5", "reason": "failed"}]
    assert summary["units"] == 2 and summary["oracle"] == 1.5
    with (tmp_path / "curves" / "scaling.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == [f"{name}/{i}" for name in ("new", "few") for i in range(4)]
    assert (tmp_path / "curves" / "pictures" / "scaling.png").is_file()
    assert "How more data would help" in (tmp_path / "curves" / "report.html").read_text(encoding="utf-8")
    assert "from nothing: twice the data (4 to 8) would add" in " ".join(printed.split())


def test_what_there_was_counts_and_not_what_was_asked_for(tmp_path):
    """A recording of 3.5 minutes has no 10."""
    sweep = tmp_path / "sweep"
    job(sweep, 0, 1.0, 0.1)
    job(sweep, 1, 3.5, 0.2, asked=10.0)
    runs, left_out, differ = runs_of([sweep], "minutes")
    assert [run.amounts["minutes"] for run in runs] == [1.0, 3.5] and left_out == [] and differ == []
    assert runs[0].amounts == {"minutes": 1.0, "recordings": 1, "units": 3, "parameters": 500}
    assert [run.units.loc[("a", "007"), "bps"] for run in runs] == [0.1, 0.2]  # an id may look like a number


def test_a_training_that_two_sweeps_found_counts_once(tmp_path):
    """A sweep that is started again finds what had finished."""
    first, again = sweep_of(tmp_path / "first"), sweep_of(tmp_path / "again")
    for file in (again / "outcomes").glob("*.json"):
        file.write_text((first / "outcomes" / file.name).read_text())
    runs, left_out, _ = runs_of([first, again], "minutes")
    assert [run.name for run in runs] == [f"first/{i}" for i in range(4)]
    assert left_out == [{"job": f"again/{i}", "reason": f"the same training as first/{i}"} for i in range(4)]


def flat(**changed: Any) -> dict[str, Any]:
    plain = {"seed": 0, "data.seed": 0, "init_from": None, "optim.core_lr_scale": 1.0, "optim.readouts_first": 0.0}
    return {**plain, "data.train_minutes": 1, "model.embedding_dim": 8, "optim.lr": 0.01, **changed}


def test_a_curve_is_how_its_core_came_to_be_and_what_else_differs():
    on_a_core = {"init_from": "a.ckpt", "optim.core_lr_scale": 0.1}
    names, differ = curve_names(
        [
            flat(),
            flat(seed=1, **{"data.seed": 1, "data.train_minutes": None}),
            flat(**on_a_core),
            flat(**on_a_core, **{"optim.lr": 0.02}),
            flat(**on_a_core, **{"optim.readouts_first": 0.3}),
            flat(**(on_a_core | {"optim.core_lr_scale": 0}), **{"model.embedding_dim": 16}),
        ],
        "minutes",
    )
    assert names[:2] == ["from nothing"] * 2
    assert names[2:4] == ["core learns at 0.1, lr=0.01", "core learns at 0.1, lr=0.02"]
    assert names[4:] == ["core learns at 0.1 after 30%", "frozen core"]
    assert differ == ["model.embedding_dim"]  # no name says it
    sizes = [flat(), flat(**{"model.embedding_dim": 16})]
    assert curve_names(sizes, "minutes") == (["from nothing, embedding_dim=8", "from nothing, embedding_dim=16"], [])
    assert curve_names(sizes, "parameters") == (["from nothing"] * 2, [])
    lists = [flat(**{"data.recordings": ["a.h5"][:n]}) for n in (0, 1)]
    assert curve_names(lists, "recordings") == (["from nothing"] * 2, [])


def test_curves_whose_shortened_names_coincide_stay_apart():
    """Two cores of one day differ where the name leaves out its middle."""
    core = "outputs/train/2026-11-27_08-00-00_{}/checkpoints/best.ckpt"
    cores = [flat(init_from=core.format(unique)) for unique in ("abcdef", "ghijkl", "abcdef")]
    names, _ = curve_names(cores, "minutes")
    assert names[0] == names[2] and names[0].endswith(" (1)") and names[1] == names[0].replace("(1)", "(2)")
    assert "…" in names[0]


def test_only_what_grows_is_drawn_along_a_curve():
    two = {"data.simulator.recordings": 2, "data.geometry.recordings": 2}
    runs = [flat(**grown, **few) for grown in ({}, two) for few in ({}, {"data.train_minutes": 5})]
    one, other = "from nothing, train_minutes=1", "from nothing, train_minutes=5"
    assert curve_names(runs, "recordings") == ([one, other] * 2, [])
    assert curve_names(runs, "units") == ([one, other] * 2, [])
    units = [flat(), flat(**{"data.most_units": 8})]
    assert curve_names(units, "units")[0] == ["from nothing"] * 2
    assert len(set(curve_names(units, "recordings")[0])) == 2


def test_settings_that_follow_the_recordings_grow_along_with_them(tmp_path):
    """More recordings make longer epochs. Where somebody has set them, runs differ nevertheless."""
    sweep = tmp_path / "sweep"
    for number, (steps, follows) in enumerate(((50, True), (100, True), (100, False), (70, None))):
        run = job(sweep, number, 1.0, 0.1, trainer={"cpu": {"steps_per_epoch": steps}})
        about = json.loads((run / "environment.json").read_text())
        about["trained_on"]["recordings"] |= {f"b{number}": {"minutes": 1.0, "units": 3}} if number else {}
        if follows is not None:
            about["trained_on"]["follows"] = ["trainer.cpu.steps_per_epoch"] if follows else []
        (run / "environment.json").write_text(json.dumps(about))
    for over in ("recordings", "units"):
        curves = [run.curve for run in runs_of([sweep], over)[0]]
        assert curves[0] == curves[1] == curves[3] != curves[2]  # the last one is from before runs said it
    runs, _, _ = runs_of([sweep], "minutes")
    assert len({run.curve for run in runs}) == 3
    with pytest.raises(ValueError, match=r"each of the 2 runs is a curve of its own, .*, steps_per_epoch=50;"):
        curves_of([runs_of([sweep], "minutes")[0][0], runs_of([sweep], "recordings")[0][2]], "recordings", 10, 0)


@pytest.mark.parametrize(
    ("sweeps", "said"),
    [
        ("[]", "name at least one folder"),
        ("[nothing]", "nothing is no sweep's folder, because it holds no outcomes/0.json"),
        ("[sweep/0]", "sweep/0 is no sweep's folder"),
        ("[sweep,./sweep]", "one is named twice"),
        ("[one]", "over=minutes: all 1 runs that finished have 1, so nothing grows"),
        ("[failed]", r"no training of them has finished with a score (failed/0: failed)"),
        ("[foreign]", "notes.json: a sweep writes outcomes/<number>.json"),
        ("[damaged]", "environment.json: its trained_on is damaged"),
        ("[old]", "does not say what it was trained on"),
        ("[evaluations]", "no training"),
        ("[torn]", "0.json: not readable"),
    ],
)
def test_what_makes_no_curve_is_refused_in_a_line(command, tmp_path, sweeps, said):
    sweep_of(tmp_path / "sweep")
    for name in ("one", "failed", "foreign", "damaged", "old", "evaluations", "torn"):
        job(tmp_path / name, 0, 1.0, 0.5)
    (tmp_path / "failed" / "outcomes" / "0.json").write_text(json.dumps({"status": "failed", "reason": "x"}))
    (tmp_path / "foreign" / "outcomes" / "notes.json").write_text("{}")
    (tmp_path / "damaged" / "0" / "environment.json").write_text(json.dumps({"trained_on": {"recordings": {"a": 3}}}))
    (tmp_path / "old" / "0" / "environment.json").write_text("{}")
    outcome = json.loads((tmp_path / "one" / "outcomes" / "0.json").read_text())
    (tmp_path / "evaluations" / "outcomes" / "0.json").write_text(json.dumps(outcome | {"trained": False}))
    (tmp_path / "torn" / "outcomes" / "0.json").write_text('{"status": ')
    code, printed = command("task=scaling", f"sweeps={sweeps}")
    assert code == 1 and said in " ".join(printed.split()), printed
    assert "Traceback" not in printed and not list((tmp_path / "outputs").rglob("*.csv"))


@pytest.mark.long
def test_a_real_sweep_becomes_a_curve(command, tiny, tmp_path):
    """Three trainings of a few steps, by the real command, and what they note of themselves."""
    words = [*tiny, "trainer=debug", "trainer.epochs=1", "baseline=null", "model.spatial_depth=1"]
    words += ["model.temporal_depth=1", "data.train_minutes=0.02,0.04,null", "hydra.sweep.dir=sweep"]
    code, printed = command("-m", *words)
    assert code == 0, printed
    code, printed = command("task=scaling", "sweeps=[sweep]", "resamples=50", "hydra.run.dir=curve")
    assert code == 0, printed
    summary = json.loads((tmp_path / "curve" / "summary.json").read_text())
    (own,) = summary["curves"].values()
    assert own["at"] == pytest.approx([0.02, 0.04, 4 / 60], rel=1e-3) and own["law"] is not None
    assert list(summary["curves"]) == ["from nothing"] and summary["oracle"] > 0
    about = json.loads((tmp_path / "sweep" / "0" / "environment.json").read_text())
    assert "trainer.cpu.steps_per_epoch" in about["trained_on"]["follows"]
