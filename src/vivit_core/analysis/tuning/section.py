"""Tuning's section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_core.analysis.bootstrap import FEWEST
from vivit_core.analysis.truth import ORIENTED_DEG
from vivit_core.analysis.tuning.explore import unit_explorer
from vivit_core.analysis.tuning.laboratory import OF_GRATINGS, PREFERRED
from vivit_core.analysis.tuning.numbers import DRIVEN_HZ, DRIVEN_SHARE, FAR
from vivit_core.analysis.tuning.protocols.base import COVERAGE, FEWEST_DRAWS, MOST_UNDEFINED
from vivit_core.names import file_name
from vivit_core.report.section import Section, Table, captioned, definitions


def report_section(summary: Mapping[str, Any], folder: Path, command: str) -> Section:
    """What tuning adds to a twin's report, from its summary and the pictures in ``folder``."""
    protocols = summary["protocols"]
    preferred = {
        "units": "number",
        "undriven": "undriven",
        "osi_median": "OSI",
        "dsi_median": "DSI",
        "orientation_bandwidth_deg_median": "half width (°)",
        "modulated_share": "F1/F0 > 1",
        "spatial_frequency_median": "cycles/px",
        "temporal_frequency_hz_median": "Hz",
        "contrast_c50_median": "c50",
        "suppression_index_median": "suppression",
    }
    errors = {
        "units": "number",
        "orientation_error_deg_median": "orientation (°)",
        f"orientation_within_{ORIENTED_DEG:g}deg": f"within {ORIENTED_DEG:g}°",
        "direction_within_45deg": "direction within 45°",
        "spatial_frequency_error_octaves_median": "spatial (oct)",
        "temporal_frequency_error_octaves_median": "temporal (oct)",
        "kind_right_share": "kind right",
    }
    tables = []
    for title, columns in (("Tuning: medians over units", preferred), ("Tuning against the truth", errors)):
        rows = [(group, *(of[name] for name in columns)) for group, of in summary["groups"].items()]
        if any(value is not None for row in rows for value in row[2:]):
            tables.append(Table(title, ("units", *columns.values()), rows))
    text = [
        "Drifting gratings were shown to the twin, with behavior at its mean. The response is F1 (the amplitude at "
        "the grating's temporal frequency) of units whose F1 exceeds F0 less the rate at gray, and F0 less that rate "
        "of all others. A twin was trained on natural films; gratings lie outside of them, and rates far above those "
        "of the training are extrapolation.",
    ]
    everyone = summary["groups"]["all"]
    if everyone["undriven"]:
        text.append(
            f"Of {everyone['units']} units, {everyone['undriven']} respond to no grating by more than "
            f"{DRIVEN_SHARE:.0%} of their rate at gray and {DRIVEN_HZ:g} Hz. These are undriven: they have no "
            "preferences, and are left out of all medians and shares."
        )
    laboratory(summary, tables, text)
    if excited := summary["most_exciting"]:
        text.append(
            "Most exciting images and clips were sought by gradient ascent under a budget of contrast, in which "
            "frequencies that the training trials' frames have little of cost more (mei.naturalness). They are "
            "compared with the most exciting of the natural ones of the test split, shown in the same way: after gray, "
            "an image for as long as a clip. Natural ones keep their own contrast."
        )
        if far := sum(e["far"] for e in excited):
            text.append(
                f"Of {len(excited)} most exciting pictures, {far} drive their unit to more than {FAR:g} times the rate "
                "of the best natural one: such rates lie far outside what the model was trained on, and are no "
                "prediction of a neuron's firing."
            )
        names = {"mei_hz": "most exciting (Hz)", "natural_hz": "best natural (Hz)", "gain": "ratio"}
        names |= {"mei_rms": "its rms contrast", "natural_rms": "the natural one's"}
        if any(e["truth_mei_hz"] is not None for e in excited):
            text.append("The true neurons of the simulated recordings were shown the same pictures.")
            names |= {"truth_mei_hz": "truly (Hz)", "truth_natural_hz": "the natural one truly (Hz)"}
        shown = [(e["recording"], e["unit"], e["kind"], *(e[name] for name in names)) for e in excited]
        tables.append(Table("Most exciting pictures", ("recording", "unit", "kind", *names.values()), shown))
    if more := summary["more_exciting"]:
        text.append(
            "Further pictures were sought in the same way. The least exciting and the diverse exciting ones are "
            "compared with the most exciting image or clip; a suppressing surround with its center, the most exciting "
            "image in the unit's disc, alone."
        )
        names = {"hz": "rate (Hz)", "compared_hz": "compared with (Hz)", "ratio": "ratio", "truth_ratio": "true ratio"}
        shown = [(e["recording"], e["unit"], e["sort"], e["kind"], *(e[name] for name in names)) for e in more]
        tables.append(Table("Further pictures", ("recording", "unit", "sort", "kind", *names.values()), shown))
    captions = {
        "population": "Tuning of all units",
        "tuning": "Tuning of a few units",
        "against_truth": "What gratings tell of the twin, and of the true neurons",
        "exciting": "Most exciting images, beside the best natural ones",
        "more": "Least exciting and diverse exciting images, and suppressing surrounds",
        "clips": "Most exciting clips (above) and the best natural ones (below)",
        "further_clips": "Most exciting clips, and the least exciting and diverse exciting ones below",
    }
    drawn = captioned(folder, captions, summary["recordings"])
    drawn += [
        (
            folder / "pictures" / f"protocol_{file_name(name)}.png",
            f"{name.replace('_', ' ')}: what was shown, and found.",
        )
        for name in protocols
    ]
    notes = [definitions(summary["methods"])]
    explore = unit_explorer(folder, protocols)
    return Section("tuning", "In-silico tuning", text, tables, drawn, command, notes, explore)


def laboratory(summary: Mapping[str, Any], tables: list[Table], text: list[str]) -> None:
    """What the protocols found, and how the twin's numbers compare with the true neurons', added to tables and text."""
    protocols = summary["protocols"]
    if any(of["units"] for of in summary["gratings"].values()):
        text.append(
            "Gratings along the curves of some units were shown again in other phases, and apertures in other places; "
            "the intervals of their numbers are where 95 % of resamplings of these draws lie."
        )
    of_each = [("gratings", summary["draws"], of) for of in summary["gratings"].values() if of["units"]]
    of_each += [
        (name.replace("_", " "), protocol["draws"], of)
        for name, protocol in protocols.items()
        for of in protocol["numbers"].values()
    ]
    found = [
        (where, of["title"], of["units"], told(of, "median", "beyond"), told(of, "interval_width", "open_intervals"))
        for where, _, of in of_each
    ]
    if found:
        titles = ("protocol", "number", "units", "median", "width of the interval")
        tables.append(Table("The laboratory: medians over units", titles, found))
    if protocols:
        over = "; ".join(f"{name.replace('_', ' ')}: over {protocol['over']}" for name, protocol in protocols.items())
        text.append(
            "Protocols of the laboratory were run at the places of the units that gratings drive most. Each condition "
            "was shown in several draws, the same for all conditions, and an interval is where 95 % of resamplings of "
            f"the draws lie ({over})."
        )
    beyond = [f"{where}, {of['title']}: {of['beyond']} of {of['units']}" for where, _, of in of_each if of["beyond"]]
    if beyond:
        text.append(
            "A number is beyond what was shown where, for example, the whole frame is preferred to every disc. Medians "
            f"count such units as above all others: {'; '.join(beyond)}."
        )
    without = [
        f"{where}, {of['title']}: {of['without_interval']} of {of['units']}"
        for where, draws, of in of_each
        if draws >= FEWEST_DRAWS and of["without_interval"]
    ]
    if without:
        text.append(
            f"Where over {100 * MOST_UNDEFINED:g} % of the resamplings do not define a number, a unit has no interval "
            f"of it: {'; '.join(without)}."
        )
    if any(FEWEST_DRAWS <= draws < FEWEST for _, draws, _ in of_each):
        held = ", ".join(f"{share:.2f} of {draws} draws" for draws, share in COVERAGE.items())
        text.append(
            f"Intervals of fewer than {FEWEST} draws are too narrow. Of normally distributed draws, this share of them "
            f"holds the mean of endlessly many, in the place of .95: {held}."
        )
    named = PREFERRED | OF_GRATINGS
    compared = [("gratings", named[name], of) for name, of in summary["against_truth"].items()]
    compared += [
        (name.replace("_", " "), of["title"], of["against_truth"])
        for name, protocol in protocols.items()
        for of in protocol["numbers"].values()
    ]
    if any(of["units"] for _, _, of in compared):
        text.append(
            "The recordings are simulated, so the true neurons were shown the same stimuli. An error is the median of "
            "the absolute difference between a unit of the twin and its true neuron; that of preferred frequencies is "
            "in octaves."
        )
        columns = ("protocol", "number", "units", "twin's median", "true median", "error", "correlation")
        medians = ("twin_median", "truth_median", "error_median")
        rows = [
            (where, title, of["units"], *(told(of, key, "beyond") for key in medians), of["correlation"])
            for where, title, of in compared
        ]
        tables.append(Table("The twin against the true neurons, under the same stimuli", columns, rows))
        beyond = [f"{where}, {title}: {of['beyond']} of {of['units']}" for where, title, of in compared if of["beyond"]]
        if beyond:
            text.append(
                "Where the number of a unit of the twin, of its true neuron or of both is beyond what was shown, the "
                f"error is without bound, or 0 where both are. Correlations leave such units out: {'; '.join(beyond)}."
            )


def told(of: Mapping[str, Any], key: str, counted: str) -> float | str | None:
    """A median for a cell; a summary has None for an infinite one too."""
    value: float | None = of[key]
    return "beyond" if value is None and of[counted] else value
