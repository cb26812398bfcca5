"""The report's section on the training behind a checkpoint: budget, time, machine, learning curve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.load import predictor_in
from vivit_core.names import command
from vivit_core.report.section import Section, Table, counted
from vivit_core.system.plain import read_plain
from vivit_core.system.tables import read_table


def training_of(checkpoint: Path) -> Path | None:
    """The run folder of the training that wrote a checkpoint; None where it lies elsewhere by now."""
    folder = checkpoint.resolve().parent
    there = (
        checkpoint.is_file()
        and folder.name == "checkpoints"
        and all((folder.parent / name).is_file() for name in ("environment.json", "config.yaml"))
    )
    return folder.parent if there else None


def training_section(run: Path) -> Section:
    """The section "train": what was trained on what, read from a training's run folder."""
    settings, environment = read_plain(run / "config.yaml"), read_plain(run / "environment.json")
    best = run / "checkpoints" / "best.ckpt"
    best = best if best.is_file() else best.with_name("last.ckpt")
    content = read_checkpoint(best)
    model = predictor_in(best, content)
    specs = list(model.specs.values())
    parameters = sum(p.numel() for p in model.parameters())
    behavior_causal = all(spec.behavior_causal for spec in specs)
    name = str(settings["model"]["_target_"]).rsplit(".", 1)[-1]
    units = sum(spec.n_units for spec in specs)
    text = [
        f"A model ({name}, {parameters:,} parameters) was trained on {counted(len(specs), 'recording')} with "
        f"{counted(units, 'unit')} in all. "
        + (
            "It is causal: a prediction uses frames and behavior up to its own bin and none that come later."
            if model.causal and behavior_causal
            else "It is not causal: "
            + " and ".join(
                ["the model looks ahead (model.causal=false)"] * (not model.causal)
                + ["a behavior was made with a basis that looks ahead"] * (not behavior_causal)
            )
            + "."
        ),
    ]
    own = {key: value for key, value in settings["model"].items() if key != "_target_"}
    parts = {key: value for key, value in own.items() if isinstance(value, Mapping)}
    plain = {key: value for key, value in own.items() if key not in parts}
    last = run / "checkpoints" / "last.ckpt"
    facts: list[tuple[str, str | float | int | None]] = [
        ("model", f"{name}: " + ", ".join(f"{key} {shown(value)}" for key, value in plain.items())),
        *((f"model.{key}", shown(value)) for key, value in parts.items()),
        ("readout", shown(settings["readout"])),
        ("likelihood", shown(settings["likelihood"])),
        ("parameters", parameters),
        ("causal", "yes" if model.causal and behavior_causal else "no"),
        ("predict", str(settings.get("predict", "all"))),
        ("behavior", ", ".join(dict.fromkeys(name for spec in specs for name in spec.behavior)) or "none"),
        ("clip", f"{settings['data']['clip_length']} bins, the first {settings['data']['burn_in']} not in the loss"),
        ("budget", budget_of(environment["budget"])),
        ("optimizer steps done", read_checkpoint(last).get("global_step") if last.is_file() else None),
        ("optimizer steps until the best", content.get("global_step")),
        ("seed", settings["seed"]),
    ]
    if environment.get("ended") is not None:
        facts.append(("ended", environment["ended"]))
    git = environment.get("git")
    facts += [
        ("commit", "not in a git checkout" if git is None else git["commit"]),
        ("changes beside the commit", "" if git is None else ", ".join(git["changed"]) or "none"),
        ("started", environment["started"]),
        ("machine", f"{environment['host']}, {environment['machine']}" + gpu_of(environment)),
        ("python, torch", f"{environment['python']}, {environment['versions'].get('torch')}"),
    ]
    recordings = [
        (
            spec.recording_id,
            spec.n_units,
            " × ".join(map(str, spec.frame_shape[1:])),
            spec.frame_rate_hz,
            ", ".join(f"{n} ({width})" for n, width in spec.behavior.items()) or "none",
            sum(spec.unit_mean_counts) / max(spec.n_units, 1) * spec.frame_rate_hz,
        )
        for spec in specs
    ]
    columns = ("recording", "units", "frame (px)", "frames a second", "behavior (numbers)", "mean rate (Hz)")
    curve = run / "pictures" / "learning_curve.png"
    caption = "Loss and validation score over the training; the ring marks the checkpoint that was kept."
    return Section(
        "train",
        "What was trained on what",
        text,
        [Table("Recordings", columns, recordings), Table("Training", ("setting", "value"), facts)],
        [(curve, caption)] if curve.is_file() else [],
        command(environment.get("overrides", [])),
    )


RISING = 0.01  # bits per spike that the last third of the validations must gain


def still_improving(run: Path) -> bool | None:
    """Whether the validation score still rose when a training ended: whether the best of the last third of its
    validations stands clearly above the best before; None where fewer than two scores were numbers. Two are enough,
    because a training that had time for no more is the one that wants it most.

    The readouts' last fit raises the last score whether the training improved or not, so that score does not count.
    """
    path = run / "metrics.csv"
    metrics = read_table(path) if path.is_file() else None
    if metrics is None or "val/bps_mean" not in metrics:
        return None
    scores = metrics["val/bps_mean"].dropna().astype(float).tolist()
    if has_last_fit(run):
        scores = scores[:-1]
    if len(scores) < 2:
        return None
    last = max(1, len(scores) // 3)
    return max(scores[-last:]) > max(scores[:-last]) + RISING


def has_last_fit(run: Path) -> bool:
    """Whether the last validation of a training followed a fit of its readouts (``callbacks/readouts.py``)."""
    settings = read_plain(run / "config.yaml") if (run / "config.yaml").is_file() else {}
    ended = read_plain(run / "environment.json").get("ended") if (run / "environment.json").is_file() else None
    fitted, teacher = settings.get("callbacks", {}).get("readouts"), settings.get("teacher")
    return ended is None and fitted is not None and teacher is None


def shown(value: Any) -> str:
    """A setting in one line: a part by its class and its numbers."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} {shown(v)}" for key, v in value.items() if key != "_target_")
        name = str(value.get("_target_", "")).rsplit(".", 1)[-1]
        return f"{name} ({inner})" if name and inner else name or inner
    if isinstance(value, list):
        return " × ".join(map(shown, value))
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


def budget_of(budget: Mapping[str, Any]) -> str:
    """The budget that the training had on its machine."""
    limit = "" if budget["max_minutes"] is None else f", as many as fit into {budget['max_minutes']:g} minutes"
    return (
        f"{budget['epochs']} epochs of {budget['steps_per_epoch']} steps of "
        f"{budget['accumulate'] * budget['batch_size']} clips, {budget['precision']}{limit}, on {budget['device']}"
    )


def gpu_of(environment: Mapping[str, Any]) -> str:
    return f", {environment['gpu']}" if environment.get("gpu") else ""
