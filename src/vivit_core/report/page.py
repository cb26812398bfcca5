"""One page for all that is known of a twin: ``report.html``, which needs no network and no other file.

Where a section has something to explore, the page carries one script of ours, and its policy lets no other run. With
script switched off the tables and pictures tell the same.

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
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vivit_core.names import page_text
from vivit_core.report.explore import part, script_hash
from vivit_core.report.section import MEDIA, Section, cell
from vivit_core.report.training import training_of, training_section
from vivit_core.system.files import atomic_write, remove_leftovers
from vivit_core.system.locks import locked
from vivit_core.system.plain import in_a_line

if TYPE_CHECKING:
    import jinja2

log = logging.getLogger(__name__)

ORDER = ("train", "inspect", "evaluate", "compare", "attention", "receptive_fields", "tuning")  # others come after
EXPLORED = '<script type="application/json" class="explore">'  # no text can look like it, because all is escaped
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
    with locked(folder / ".report.lock"):
        before = dict(BLOCK.findall(page.read_text(encoding="utf-8", errors="replace"))) if page.is_file() else {}
        remove_leftovers(folder, page.name)
        with atomic_write(page) as temporary:
            temporary.write_text(page_of(folder.resolve().name, {**before, **blocks}), encoding="utf-8")
    return page


def page_of(name: str, blocks: Mapping[str, str]) -> str:
    """The page from its sections' HTML, in the order a reader wants them."""
    from markupsafe import Markup

    keys = sorted(blocks, key=lambda key: (ORDER.index(key) if key in ORDER else len(ORDER), key))
    explored = any(EXPLORED in block for block in blocks.values())
    titles = {key: re.search(r"<h2>(.*?)</h2>", blocks[key], flags=re.DOTALL) for key in keys}
    return (
        templates()
        .get_template("page.html")
        .render(
            title=f"Digital twin {name}",
            links=[(key, Markup(found[1])) for key, found in titles.items() if found],
            blocks=[(key, Markup(blocks[key])) for key in keys],
            script=Markup(part("explore.js")) if explored else None,
            styles=Markup(part("explore.css")) if explored else None,
            script_hash=Markup(script_hash()),
        )
    )


def block_of(section: Section) -> str:
    """A section's HTML; all its text is escaped."""
    made = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    return templates().get_template("section.html").render(section=section, made=made)


@cache
def templates() -> jinja2.Environment:
    """The page's templates, which escape whatever text they are given."""
    import jinja2  # not before a page is made

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("vivit_core.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: page_text(value) if type(value) is str else value,  # and not the HTML of a section
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"cell": cell, "data_url": data_url}
    return found


def data_url(path: Path) -> str:
    """A picture's content in the place of its address."""
    return f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
