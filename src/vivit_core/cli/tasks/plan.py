"""task=plan: shapes, parameters, FLOPs and memory, before anything runs."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table

from vivit_core.cli.context import RunContext
from vivit_core.cli.recordings import expected_sizes, make_datamodule
from vivit_core.cli.refusal import check_positions, refuse_settings
from vivit_core.cli.trained import is_fitted_alone
from vivit_core.models.plan import plan as plan_twin
from vivit_core.models.predictor import Predict
from vivit_core.parts.schema import Node

FOLLOWS_RECORDINGS = True


def plan(
    context: RunContext,
    *,
    predict: Predict,
    model: Node,
    readout: Node,
    likelihood: Node,
    data: Node,
) -> None:
    """Print shapes, tokens, parameters, FLOPs and memory of a training step, without reading any frames.

    Of recordings that are named it reads the headers; of simulated ones ``data.geometry`` knows the sizes.

    Parameters
    ----------
    context : the run, which is planned for its own device and budget.
    predict : which bins of a clip are predicted.
    model, readout, likelihood, data : what would be trained, and on what.

    Raises
    ------
    ValueError
        Where no such model can be made or trained, or it is one that has no training step.
    """
    if is_fitted_alone(model):
        raise ValueError(
            "model=ln is fitted in one go and has no training step to plan; plan a ViViT, for example model=vivit_small"
        )
    refuse_settings(predict, model, data)
    sizes, recordings, units = expected_recordings(context, model, readout, data)
    device, budget, console = context.device, context.budget, context.console
    planned = plan_twin(
        model,
        readout,
        likelihood,
        **sizes,
        recordings=recordings,
        units=units,
        batch_size=budget.batch_size,
        predict=predict,
        precision=budget.precision,
        device=device,
    )
    table = Table(
        "stage", "shape that leaves it", title=f"{budget.batch_size} clips of {sizes['clip_length']} bins, on {device}"
    )
    table.add_column("tokens a clip", justify="right")
    table.add_column("parameters", justify="right")
    for stage in planned.stages:
        table.add_row(stage.name, stage.shape, f"{stage.tokens:,}" if stage.tokens else "", f"{stage.parameters:,}")
    console.print(table)
    console.print(f"parameters            {planned.parameters:,}")
    console.print(
        f"FLOPs of a step       {planned.flops * budget.accumulate:.3g} "
        f"({budget.accumulate} forward and backward passes of {planned.flops:.3g})"
    )
    console.print(
        f"memory to expect      {planned.memory_bytes / 2**30:.2f} GiB: {planned.weight_bytes / 2**30:.2f} for "
        f"weights, gradients and moments, {planned.activation_bytes / 2**30:.2f} for what a pass of "
        f"{budget.batch_size} clips keeps"
    )


def expected_recordings(context: RunContext, model: Node, readout: Node, data: Node) -> tuple[dict[str, Any], int, int]:
    """The sizes of clips, the number of recordings, and of units in each: the mean where they differ."""
    datamodule = None
    if data["recordings"] is not None or data["root"] is not None:
        datamodule = make_datamodule(data)
        try:
            datamodule.paths()
        except ValueError as error:
            if context.overridden & {"data.recordings", "data.root"}:
                raise
            context.console.print(f"{error}\nThe plan is of what data.geometry expects of them.")
            datamodule = None
    if datamodule is None:
        expected = data["geometry"]
        sizes = expected_sizes(data)
        rate_hz = sizes["frame_rate_hz"]
        units = min(expected["units"], data["most_units"] or expected["units"])
        context.console.print(
            f"of data.geometry: {expected['recordings']} recordings of {units} units, frames "
            f"{tuple(expected['frame_shape'])} (channels, height, width) at {rate_hz:g} Hz; a clip lasts "
            f"{data['clip_length'] / rate_hz:.3g} s"
        )
        return sizes, expected["recordings"], units
    infos, widths_of = datamodule.headers()
    check_positions(readout, infos)
    shapes = sorted({info.frame_shape for info in infos})
    if len(shapes) > 1 and model.get("frame_size") is None:
        raise ValueError(
            f"recordings have frames of different shapes {shapes}; set model.frame_size=[height,width] to bring them "
            "to one"
        )
    units = math.ceil(sum(info.n_units for info in infos) / len(infos))
    rate_hz = data["frame_rate_hz"] or min(info.frame_rate_hz for info in infos)
    context.console.print(
        f"of {len(infos)} recordings: frames {shapes[-1]} (channels, height, width) at {rate_hz:g} Hz, "
        f"{units} units each in the mean"
    )
    sizes = {
        "frame_shape": shapes[-1],
        "behavior": widths_of,
        "position_dim": min(info.position_dim for info in infos),
        "clip_length": data["clip_length"],
        "frame_rate_hz": rate_hz,
    }
    return sizes, len(infos), units
