"""task=tuning: in-silico gratings, the laboratory's protocols, and most exciting images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vivit_core.analysis.truth import known_fractions
from vivit_core.analysis.tuning.most_exciting import Ascent, More
from vivit_core.analysis.tuning.protocols.base import Protocol
from vivit_core.analysis.tuning.section import report_section
from vivit_core.analysis.tuning.tuning import tune
from vivit_core.cli.context import RunContext
from vivit_core.cli.schema import CountOrZero
from vivit_core.cli.trained import load_trained
from vivit_core.names import nearest
from vivit_core.parts.build import build_all
from vivit_core.parts.schema import Count, Node
from vivit_core.report.training import training_of
from vivit_core.stimuli.gratings import Gratings
from vivit_core.training.machine import keep_freed_memory

WORD = re.compile(r"[A-Za-z0-9_]+")


def tuning(
    context: RunContext,
    *,
    checkpoint: Path,
    data: Node,
    units: list[str] | Count | None,
    gratings: Gratings,
    protocols: list[str],
    lab: dict[str, Node | None],
    lab_units: Count,
    mei: Ascent | None,
    mei_units: CountOrZero,
    mei_more: list[More],
    natural: Count,
) -> None:
    """Tuning of every unit to gratings, and the pictures that excite a few units most.

    Parameters
    ----------
    context : the run.
    checkpoint : of a twin or of an LN model.
    data : recordings for its natural pictures, where they are not the training's.
    units : which are measured: ids, or a number of each recording's, those with most spikes; None: all.
    gratings : what is shown.
    protocols : names in ``lab`` of those that are run.
    lab : the laboratory's protocols, by name.
    lab_units : units of each recording at which they are run.
    mei : how most exciting pictures are sought; None leaves them out.
    mei_units : units of each recording for which they are sought.
    mei_more : sorts of further pictures that are sought for the same units.
    natural : natural pictures of the test split with which they are compared, and that protocols show.

    Raises
    ------
    ValueError
        Where a protocol is not in ``lab`` or needs more pictures, the checkpoint or a recording cannot be used, or a
        grating does not fit the model's frame rate.
    """
    if mei_more and (mei is None or mei_units == 0):
        raise ValueError(
            f"mei_more={list(mei_more)} goes with most exciting pictures, of which there are none; give mei its "
            "settings and mei_units above 0, or mei_more=[]"
        )
    chosen = chosen_protocols(protocols, lab, natural)
    if context.device == "cpu":
        keep_freed_memory()
    trained = load_trained(checkpoint)
    recordings = trained.recordings(context, data)
    summary = tune(
        trained.model,
        recordings,
        units=units,
        gratings=gratings,
        protocols=chosen,
        lab_units=lab_units,
        mei=mei,
        mei_units=mei_units,
        mei_more=list(dict.fromkeys(mei_more)),
        natural=natural,
        out=context.run.path,
        known=known_fractions(training_of(checkpoint)),
        device=context.device,
    )
    context.announce(report_section(summary, context.run.path, context.command_line), checkpoint)


def chosen_protocols(names: Sequence[str], lab: Mapping[str, Node | None], natural: int) -> dict[str, Protocol]:
    """The protocols that are run, made, before anything is read."""
    there = [name for name, node in lab.items() if node is not None]
    problems = []
    for name in dict.fromkeys(names):
        if name not in there:
            close = nearest(name, there)
            hint = f"did you mean {close}?" if close else f"there are {', '.join(there) or 'none'}"
            problems.append(f"protocols: lab has no {name!r}; {hint}")
        elif not WORD.fullmatch(name):
            problems.append(f"protocols: {name!r} names columns and files; use letters, digits and underscores alone")
    if problems:
        raise ValueError("; ".join(problems))
    found: dict[str, Protocol] = build_all("lab", {name: lab[name] for name in dict.fromkeys(names)})
    for name, protocol in found.items():
        if protocol.pictures > natural:
            raise ValueError(
                f"lab.{name} shows {protocol.pictures} natural pictures, and natural={natural}; set "
                f"natural={protocol.pictures} or more"
            )
    return found
