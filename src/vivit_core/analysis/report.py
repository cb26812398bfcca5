"""One page for all that is known of a twin: ``report.html``, which needs no network, no script and no other file.

The page is its own store: each section stands between two comments that name its key, so that a later task can replace
its section, or add one, and leave the others as they are. No text can look like such a comment, because all text is
escaped.
"""

from __future__ import annotations

import base64
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vivit_core.checkpoint import in_a_line, read_checkpoint, read_plain
from vivit_core.files import remove_leftovers, whole
from vivit_core.locks import lock
from vivit_core.models.baselines import load_ln
from vivit_core.models.twin import load_twin
from vivit_core.names import command, html_text
from vivit_core.specs import RecordingSpec
from vivit_core.training.machine import precision_on_gpu

log = logging.getLogger(__name__)

ORDER = ("train", "inspect", "evaluate", "compare", "attention", "receptive_fields", "tuning")  # others come after
MEDIA = {".png": "image/png", ".gif": "image/gif"}
BLOCK = re.compile(r"<!-- section (\S+) -->\n(.*?)<!-- end of section \1 -->\n", flags=re.DOTALL)


@dataclass(frozen=True)
class Table:
    """A table of a section; None and NaN are shown as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells for {len(self.columns)} columns")


@dataclass(frozen=True)
class Section:
    """What one task found; a report has one section of a key, the newest."""

    key: str
    title: str
    text: Sequence[str]  # paragraphs, plain
    tables: Sequence[Table]
    pictures: Sequence[tuple[Path, str]]  # PNG or GIF, and its caption
    command: str  # the command line that does it again
    notes: Sequence[Table] = ()  # tables that stand below the pictures

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.key):
            raise ValueError(f"a section's key is letters, digits and underscores, not {self.key!r}")
        for path, _ in self.pictures:
            if path.suffix not in MEDIA:
                raise ValueError(f"{path}: a report shows {' and '.join(MEDIA)} files")


def publish(folder: Path, section: Section, checkpoint: Path | Sequence[Path] | None = None) -> Path:
    """Write a section into ``folder/report.html``, and into the report of the training that the checkpoint is from.

    Where the checkpoint lies in a training's run folder (…/checkpoints/x.ckpt beside environment.json), that training's
    report gets the section too, and both begin with what was trained on what. A training's folder that cannot be
    written to, or whose files are damaged, is left as it is, with a warning. Several processes may publish into one
    report at the same time.

    Parameters
    ----------
    folder : the task's own run folder.
    section : what was found.
    checkpoint : the twin it was found with; of several, each one's training gets the section, and the task's own report
        tells of no training.

    Returns
    -------
    Path
        Of the task's own report.
    """
    own = {section.key: block_of(section)}
    checkpoints = [checkpoint] if isinstance(checkpoint, Path) else list(checkpoint or ())
    sections: dict[Path, dict[str, str]] = {}
    for training in dict.fromkeys(map(training_of, checkpoints)):
        if training is None:
            continue
        try:
            told = {} if section.key == "train" else {"train": block_of(training_section(training))}
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:  # anybody may have written there
            log.warning(
                "the report does not tell of the training in %s, whose own is not changed: %s: %s",
                training, type(error).__name__, in_a_line(error),
            )  # fmt: skip
            continue
        sections[training] = {**own, **told}
    page = write(folder, next(iter(sections.values())) if len(checkpoints) == 1 and sections else own)
    for training, blocks in sections.items():
        if training == folder.resolve():
            continue
        try:
            write(training, blocks)
        except OSError as error:
            log.warning("the training's own report in %s is not changed: %s", training, error)
    return page


def training_of(checkpoint: Path) -> Path | None:
    """The run folder of the training that wrote a checkpoint; None where it lies elsewhere by now."""
    folder = checkpoint.resolve().parent
    there = folder.name == "checkpoints" and all(
        (folder.parent / name).is_file() for name in ("environment.json", "config.yaml")
    )
    return folder.parent if there else None


def write(folder: Path, blocks: Mapping[str, str]) -> Path:
    """Put sections into a folder's report, in one step for whoever reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    # Two tasks that publish at once take turns; a lock on the page itself would go with the page it replaces.
    with (folder / ".report.lock").open("w", encoding="utf-8") as handle:
        lock(handle, wait=True)
        before = dict(BLOCK.findall(page.read_text(encoding="utf-8", errors="replace"))) if page.is_file() else {}
        remove_leftovers(folder, page.name)
        with whole(page) as temporary:
            temporary.write_text(page_of(folder.resolve().name, {**before, **blocks}), encoding="utf-8")
    return page


# What was trained on what -------------------------------------------------------------------------------------------


def training_section(run: Path) -> Section:
    """The section "train": what was trained on what, read from a training's run folder."""
    settings, environment = read_plain(run / "config.yaml"), read_plain(run / "environment.json")
    best = run / "checkpoints" / "best.ckpt"
    best = best if best.is_file() else best.with_name("last.ckpt")
    content = read_checkpoint(best)
    specs = [RecordingSpec.from_dict(r) for r in content["twin"]["recordings"]]
    is_ln = "_target_" in content["twin"]
    model = load_ln(best, content) if is_ln else load_twin(best)
    assert model is not None
    parameters = sum(p.numel() for p in model.parameters())
    model_causal = bool(getattr(model, "causal", True))
    behavior_causal = all(spec.behavior_causal for spec in specs)
    name = str(settings["model"]["_target_"]).rsplit(".", 1)[-1]
    units = sum(spec.n_units for spec in specs)
    text = [
        f"A model ({name}, {parameters:,} parameters) was trained on {counted(len(specs), 'recording')} with "
        f"{counted(units, 'unit')} in all. "
        + (
            "It is causal: a prediction uses frames and behaviour up to its own bin and none that come later."
            if model_causal and behavior_causal
            else "It is not causal: "
            + " and ".join(
                ["the model looks ahead (model.causal=false)"] * (not model_causal)
                + ["a behaviour was made with a basis that looks ahead"] * (not behavior_causal)
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
        ("parameters", parameters),
        ("causal", "yes" if model_causal and behavior_causal else "no"),
        ("predict", str(settings.get("predict", "all"))),
        ("behaviour", ", ".join(settings["data"]["behavior"]) or "none"),
        ("clip", f"{settings['data']['clip_length']} bins, the first {settings['data']['burn_in']} not in the loss"),
        ("budget", budget_of(settings["trainer"], environment)),
        ("optimiser steps done", read_checkpoint(last).get("global_step") if last.is_file() else None),
        ("optimiser steps until the best", content.get("global_step")),
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
    columns = ("recording", "units", "frame (px)", "frames a second", "behaviour (numbers)", "mean rate (Hz)")
    curve = run / "pictures" / "learning_curve.png"
    caption = "Loss and validation score over the training; the ring marks the best, which was kept."
    return Section(
        "train",
        "What was trained on what",
        text,
        [Table("Recordings", columns, recordings), Table("Training", ("setting", "value"), facts)],
        [(curve, caption)] if curve.is_file() else [],
        command(environment.get("overrides", [])),
    )


def counted(n: int, word: str) -> str:
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def shown(value: Any) -> str:
    """A setting in one line: a part by its class and its numbers."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} {shown(v)}" for key, v in value.items() if key != "_target_")
        name = str(value.get("_target_", "")).rsplit(".", 1)[-1]
        return f"{name} ({inner})" if name and inner else name or inner
    if isinstance(value, list):
        return " × ".join(map(shown, value))
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


def budget_of(trainer: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The budget on the machine where it ran; runs of before ``gpu`` was noted say both."""
    if trainer["device"] != "auto":
        devices = [trainer["device"]]
    elif "gpu" in environment:
        devices = ["cuda" if environment["gpu"] else "cpu"]
    else:
        devices = ["cpu", "cuda"]
    words = []
    for device in devices:
        own = {key: value if trainer[key] is None else trainer[key] for key, value in trainer[device].items()}
        if device == "cuda":  # runs of before ``gpu_bf16`` was noted took what was set
            native = environment.get("gpu_bf16", True)
            own["precision"] = precision_on_gpu(trainer["precision"], own["precision"], native)
        limit = "" if math.isinf(own["max_minutes"]) else f", at most {own['max_minutes']:g} minutes"
        words.append(
            f"{own['epochs']} epochs of {own['steps_per_epoch']} steps of {own['accumulate'] * own['batch_size']} "
            f"clips, {own['precision']}{limit}, on {device}"
        )
    return "; or ".join(words)


def gpu_of(environment: Mapping[str, Any]) -> str:
    return f", {environment['gpu']}" if environment.get("gpu") else ""


# HTML ---------------------------------------------------------------------------------------------------------------


def page_of(name: str, blocks: Mapping[str, str]) -> str:
    """The page from its sections' HTML, in the order a reader wants them."""
    keys = sorted(blocks, key=lambda key: (ORDER.index(key) if key in ORDER else len(ORDER), key))
    titles = {key: re.search(r"<h2>(.*?)</h2>", blocks[key], flags=re.DOTALL) for key in keys}
    links = " ".join(f'<a href="#{key}">{found[1]}</a>' for key, found in titles.items() if found)
    body = "".join(f"<!-- section {key} -->\n{blocks[key]}<!-- end of section {key} -->\n" for key in keys)
    title = html_text(f"Digital twin {name}")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="vivit-core">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<nav>{links}</nav>
</header>
<main>
{body}</main>
</body>
</html>
"""


def block_of(section: Section) -> str:
    """A section's HTML; all its text is escaped."""
    made = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    parts = [f'<section id="{section.key}">', f"<h2>{html_text(section.title)}</h2>"]
    parts += [f"<p>{html_text(paragraph)}</p>" for paragraph in section.text]
    parts += [table_html(table) for table in section.tables]
    parts += [picture_html(path, caption) for path, caption in section.pictures]
    parts += [table_html(table) for table in section.notes]
    parts += [
        f'<footer><p>Made {html_text(made)}. To do it again:</p><pre tabindex="0"><code>'
        f"{html_text(section.command)}</code></pre></footer>",
        "</section>",
    ]
    return "\n".join(parts) + "\n"


def table_html(table: Table) -> str:
    numeric = [all(not isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))]
    kind = [' class="number"' if is_numeric else "" for is_numeric in numeric]
    head = "".join(
        f'<th scope="col"{k}>{html_text(column)}</th>' for k, column in zip(kind, table.columns, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(f"<td{k}>{html_text(cell(value))}</td>" for k, value in zip(kind, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="table"><table><caption>{html_text(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def cell(value: str | float | int | None) -> str:
    """A table's cell as a reader wants it: four digits, dashes for what is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def picture_html(path: Path, caption: str) -> str:
    words, content = html_text(caption), base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><img alt="{words}" src="data:{MEDIA[path.suffix]};base64,{content}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


STYLE = """:root {
  --ink: #1c2330; --soft: #5a6475; --paper: #ffffff; --raised: #f5f7fa; --line: #dde2ea; --accent: #1f6fb2;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ef; --soft: #9aa5b6; --paper: #14181f; --raised: #1d232c; --line: #323b48; --accent: #6cb2ee; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
header, main { max-width: 68rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 0.8rem; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 0.8rem; letter-spacing: -0.005em; }
nav { display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem; font-size: 0.92rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1.6rem; }
p { max-width: 46rem; margin: 0 0 0.9rem; }
.table { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.4rem; white-space: nowrap; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
figure {
  margin: 1.4rem 0; padding: 0.8rem; background: var(--raised); border-radius: 8px; width: fit-content; max-width: 100%;
}
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figcaption { color: var(--soft); font-size: 0.88rem; max-width: 46rem; padding-top: 0.6rem; }
footer { color: var(--soft); font-size: 0.85rem; margin-top: 1.2rem; }
footer p { margin: 0 0 0.3rem; }
pre {
  margin: 0; padding: 0.6rem 0.8rem; background: var(--raised); border-radius: 6px; color: var(--ink);
  white-space: pre-wrap; overflow-wrap: anywhere; font: 0.84rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace;
}
main { padding-bottom: 4rem; }
@media print {
  :root { --ink: #000000; --soft: #444444; --paper: #ffffff; --raised: #ffffff; --line: #bbbbbb; --accent: #000000; }
  body { font-size: 10pt; }
  header, main { max-width: none; padding-left: 0; padding-right: 0; }
  nav { display: none; }
  figure, tr, pre { break-inside: avoid; }
  h2, caption { break-after: avoid; }
  figure { padding: 0; }
  .table { overflow-x: visible; }
  img { max-height: 22cm; width: auto; }
}
"""
