"""One page for all that is known of a twin: ``report.html``, which needs no network, no script and no other file.

The page is its own store: each section stands between two comments that name its key, so that a later task can replace
its section, or add one, and leave the others as they are. No text can look like such a comment, because all text is
escaped.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from vivit_core.models.checkpoint import in_a_line
from vivit_core.names import html_text
from vivit_core.report.section import MEDIA, Section, Table, cell
from vivit_core.report.style import STYLE
from vivit_core.report.training import training_of, training_section
from vivit_core.system.files import atomic_write, remove_leftovers
from vivit_core.system.locks import lock

log = logging.getLogger(__name__)


ORDER = ("train", "inspect", "evaluate", "compare", "attention", "receptive_fields", "tuning")  # others come after


BLOCK = re.compile(r"<!-- section (\S+) -->\n(.*?)<!-- end of section \1 -->\n", flags=re.DOTALL)


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


def write(folder: Path, blocks: Mapping[str, str]) -> Path:
    """Put sections into a folder's report, in one step for whoever reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    # Two tasks that publish at once take turns; a lock on the page itself would go with the page it replaces.
    with (folder / ".report.lock").open("w", encoding="utf-8") as handle:
        lock(handle, wait=True)
        before = dict(BLOCK.findall(page.read_text(encoding="utf-8", errors="replace"))) if page.is_file() else {}
        remove_leftovers(folder, page.name)
        with atomic_write(page) as temporary:
            temporary.write_text(page_of(folder.resolve().name, {**before, **blocks}), encoding="utf-8")
    return page


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


def picture_html(path: Path, caption: str) -> str:
    words, content = html_text(caption), base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><img alt="{words}" src="data:{MEDIA[path.suffix]};base64,{content}">'
        f"<figcaption>{words}</figcaption></figure>"
    )
