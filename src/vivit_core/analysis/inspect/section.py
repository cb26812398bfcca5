"""The inspection's section of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vivit_core.report.section import Section, Table


# --- the report ------------------------------------------------------------------------------------------------------
def report_section(summary: dict[str, Any], command: str) -> Section:
    """The tables and pictures of an inspection."""
    known = {name: r for name, r in summary["recordings"].items() if "units" in r}
    overview = Table(
        "recordings",
        ["recording", "minutes", "units", "frames", "rate Hz", "spikes/s, median", "valid", "units with a field",
         "hidden from averages", "lag ms", "faults", "notes"],
        [
            [name, r["seconds"] / 60, r["units"], "×".join(map(str, r["frame_shape"])), r["frame_rate_hz"],
             r["rate_hz"]["median"], r["valid_share"], r["units_with_field"],
             r.get("units_with_variance_alone"),
             None if r.get("link_lag_s") is None else 1e3 * r["link_lag_s"],
             *(sum(f["level"] == level for f in r["findings"]) for level in ("fault", "note"))]
            for name, r in known.items()
        ],
    )  # fmt: skip
    splits = Table(
        "splits",
        ["recording", "split", "trials", "minutes", "stimuli", "of them repeated", "most repeats", "spikes"],
        [
            [
                name,
                split,
                s["trials"],
                s["seconds"] / 60,
                s["stimuli"],
                s["repeated_stimuli"],
                s["repeats"],
                s["spikes"],
            ]
            for name, r in known.items()
            for split, s in r["splits"].items()
        ],
    )
    behaviors = Table(
        "behavior",
        ["recording", "behavior", "numbers", "mean", "std", "missing", "looks ahead"],
        [
            [name, b, v["numbers"], v["mean"], v["std"], v["missing"], "no" if v["causal"] else "yes"]
            for name, r in known.items()
            for b, v in r["behavior"].items()
        ],
    )
    findings = Table(
        "findings",
        ["recording", "level", "check", "where", "what", "what to do"],
        [
            [name, f["level"], f["check"], f["where"], f["what"], f["remedy"]]
            for name, r in summary["recordings"].items()
            for f in r["findings"]
        ],
    )
    faults, n = summary["faults"], len(summary["recordings"])
    text = [
        f"{n} recording{'s' if n != 1 else ''}, {faults or 'no'} fault{'s' if faults != 1 else ''} found.",
        "A unit has a field where its map stands clearly above maps made with responses shifted in time. The lag is "
        "that at which responses go best with brightness, contrast and change of the stimulus; it must lie after 0.",
        "Units hidden from averages follow the variance of the stimulus, and not the stimulus itself: no linear model "
        "sees them.",
    ]
    pictures = [
        (Path(r["picture"]), f"{name}: frames, receptive fields of the clearest units, rates, lags")
        for name, r in known.items()
    ]
    tables = [table for table in (findings, overview, splits, behaviors) if table.rows]
    return Section("inspect", "What is in the recordings", text, tables, pictures, command)
