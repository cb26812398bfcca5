"""task=import: a recording file from a foreign format."""

from __future__ import annotations

from pathlib import Path

from vivit_core.cli.context import RunContext
from vivit_core.cli.schema import conf_dir
from vivit_core.data.importers.common import Importer


def import_(context: RunContext, *, importer: Importer | None, source: str | Path, out: Path) -> None:
    """Make recording files from a foreign format.

    Parameters
    ----------
    context : the run.
    importer : knows the format.
    source : file or folder to read, or a pattern of several; for some importers also an address (a
        ``Path`` would drop a slash of it).
    out : recording file to write; of several recordings, a folder.

    Raises
    ------
    ValueError
        Where no importer is chosen, or the source is none of its format.
    """
    if importer is None:
        known = sorted(path.stem for path in (conf_dir() / "importer").glob("*.yaml"))
        raise ValueError(f"task=import needs an importer; choose one: importer={' | importer='.join(known)}")
    importer(source, out)
