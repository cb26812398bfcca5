"""What the runs of sweeps say of more data, in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_core.report.section import Section, Table, counted, definitions, with_interval

WORD = {  # over -> what grows, how an axis calls it
    "minutes": ("data", "training minutes of a recording"),
    "recordings": ("recordings", "recordings that are trained on"),
    "units": ("units", "units that are trained on"),
    "parameters": ("parameters", "parameters of the core"),
}


def report_section(summary: Mapping[str, Any], picture: Path, command: str) -> Section:
    """The section of a report.

    Parameters
    ----------
    summary : the content of ``summary.json``.
    picture : the drawn curves.
    command : the command line that does it again.
    """
    curves, over = summary["curves"], summary["over"]
    runs = sum(own["runs"] for own in curves.values())
    text = [
        f"{counted(runs, 'run')} of {counted(len(curves), 'curve')}, scored on the same "
        f"{counted(summary['units'], 'unit')} of {counted(len(summary['recordings']), 'recording')} and the same test "
        "trials. Through each curve goes the law "
        "score = ceiling - amount / x^exponent. Bands and intervals hold 95 % of "
        f"{summary['resamples']:,} resamplings of units and of what the law leaves. They trust the law beyond the "
        "largest amount, and do not know of other test stimuli.",
        *(sentence(name, own, over) for name, own in curves.items()),
    ]
    if summary["oracle"] is not None:
        text.append(f"The true rates have {summary['oracle']:.3f} bits per spike on these units.")
    if summary["differ"]:
        text.append(f"The curves also differ in {', '.join(summary['differ'])}.")
    if summary["units_left_out"]:
        text.append(f"{counted(summary['units_left_out'], 'unit')} left out: silent, or not scored by all runs.")
    if summary["left_out"]:
        reasons = [f"{job['job']}: {job['reason']}" for job in summary["left_out"]]
        text.append(f"{counted(len(reasons), 'job')} left out ({'; '.join(reasons[:6])}{'; …' * (len(reasons) > 6)}).")
    points = [(name, x, bps) for name, own in curves.items() for x, bps in zip(own["at"], own["bps_mean"], strict=True)]
    lawful = {name: own["law"] for name, own in curves.items() if own["law"] is not None}
    laws = [
        (
            name,
            with_interval(law["gain_of_twice"], law["gain_of_twice_interval"]),
            with_interval(law["ceiling"], law["ceiling_interval"]) if law["ceiling_known"] else "not told",
            with_interval(law["left"], law["left_interval"]) if law["ceiling_known"] else "not told",
            with_interval(law["exponent"], law["exponent_interval"]) if law["rises"] else "–",
            law["residual"],
        )
        for name, law in lawful.items()
    ]
    tests = [
        (name, test["at"], with_interval(test["foretold"], test["foretold_interval"]), test["measured"])
        for name, law in lawful.items()
        if (test := law["test"]) is not None
    ]
    tables = [Table("Bits per spike, mean over units and runs", ("curve", over, "bits per spike"), points)]
    if laws:
        tables.append(Table("Laws", ("curve", "gain of twice", "ceiling", "left to it", "exponent", "residual"), laws))
    if tests:
        columns = ("curve", over, "foretold", "measured")
        tables.append(Table("The largest amount, foretold by the law of the others", columns, tests))
    if summary["worth"]:
        worth = [(own["curve"], own["at"], as_minutes(own)) for own in summary["worth"]]
        tables.append(Table("As many minutes from nothing score as much", ("curve", over, "from nothing"), worth))
    caption = (
        f"Bits per spike over {WORD[over][1]}: a ring a run, a point their mean, a line the law, dashed up to twice "
        "the largest amount. Right: what twice as much is expected to add."
    )
    notes = [definitions(summary["methods"])]
    return Section("scaling", "How more data would help", text, tables, [(picture, caption)], command, notes)


def as_minutes(own: Mapping[str, Any]) -> str:
    end = {"over": own["most"], "under": own["least"]}
    said = [
        f"{x:.3g}" if where is None else f"{where} {end[where]:.3g}"
        for x, where in zip((own["as"], *own["as_interval"]), own["outside"], strict=True)
    ]
    return f"{said[0]} [{said[1]}, {said[2]}]"


def sentence(name: str, own: Mapping[str, Any], over: str) -> str:
    """What a curve says, as far as it says it."""
    law, most, what = own["law"], own["at"][-1], WORD[over][0]
    if law is None:
        return f"{name}: {counted(len(own['at']), 'different amount')} of {what}. A law takes at least three."
    gain = with_interval(law["gain_of_twice"], law["gain_of_twice_interval"])
    said = [f"{name}: twice the {what} ({most:g} to {2 * most:g}) would add {gain} bits per spike."]
    if not law["rises"]:
        said.append("Scores do not rise with it.")
    elif law["ceiling_known"]:
        said.append(
            f"The curve ends at {with_interval(law['ceiling'], law['ceiling_interval'])}, "
            f"{with_interval(law['left'], law['left_interval'])} above {most:g}."
        )
    else:
        low = law["ceiling_interval"][0]
        above = "" if low is None else f"; it is above {low:.3f} where the law holds"
        few = " (at least four amounts can)" if len(own["at"]) < 4 else ""
        said.append(f"Where it ends, these runs do not tell{few}{above}.")
    if (test := law["test"]) is not None:
        foretold = with_interval(test["foretold"], test["foretold_interval"])
        verdict = {
            True: "as was measured ({:.3f})",
            False: "which is not what was measured ({:.3f})",
            None: "where {:.3f} was measured; three runs do not tell what luck may do to that",
        }[test["held"]].format(test["measured"])
        said.append(f"The law of the smaller amounts foretells {foretold} of these units at {test['at']:g}, {verdict}.")
    if not law["trainings_drawn"]:
        said.append("With three runs, intervals know of other units alone, and not of other seeds.")
    return " ".join(said)
