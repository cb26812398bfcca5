"""The command line's words and folders, before a task begins: what Hydra does not do by itself."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from vivit_core.cli.schema import conf_dir

_UNQUOTED_HOME = re.compile(r"(?<=[=,\[])~[^,\[\]{}()'\"]*")
_made: set[Path] = set()  # folders of runs that this process made


def prepared(words: list[str]) -> list[str]:
    """The words of a command line as Hydra reads them.

    A ``~``, which its grammar has no place for in a value, is put into quotes: ``out=~/a.h5``. Where it leads is
    :func:`vivit_core.cli.validate.validate`'s business, which knows the keys that are paths.

    Raises
    ------
    SystemExit
        With a line on the console, for ``GROUP=null``, ``GROUP=5``, ``GROUP=a,5`` and ``=VALUE``: Hydra fails with a
        traceback.
    """
    for word in words:
        group, equals, choice = word.partition("=")
        if equals and not group:
            _leave(f"{word}: the key is missing; say KEY={choice or 'VALUE'}")
        choices = [choice] if choice.startswith(("[", "{")) else choice.split(",")  # of a sweep over the group
        wrong = next(filter(None, map(_wrong_name, choices)), None)
        if equals and wrong and (folder := conf_dir() / group).is_dir() and not group.startswith("hydra"):
            options = sorted(file.stem for file in folder.glob("*.yaml"))
            _leave(f"{word}: {wrong}; leave the word out, or say {group}=NAME, of {', '.join(options)}")
    return [
        word if "'" in word or '"' in word else _UNQUOTED_HOME.sub(lambda home: f"'{home.group()}'", word)
        for word in words
    ]


def _wrong_name(choice: str) -> str | None:
    """What keeps this from being the name of a file: Hydra reads it as nothing, a number, a truth value or a dict."""
    choice = choice.strip()
    if choice in ("null", ""):
        return "nothing is chosen"
    try:
        float(choice)
    except ValueError:
        plain = choice.lower() in ("true", "false") or choice.startswith("{")
    else:
        plain = True
    return f"{choice} is no name" if plain else None


def _leave(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(1)


def made_here(folder: Path) -> bool:
    """Whether Hydra made this run folder for this run; one that was there before is its owner's."""
    return folder.absolute() in _made


class Folders(Callback):
    """Hydra's folders: ``~`` in ``hydra.run.dir`` and ``hydra.sweep.dir`` is the home directory, and what was there
    before a run is known, for Hydra makes the folder before the program sees it.

    A sweep's launcher carries this object to its jobs, wherever they run.
    """

    def __init__(self) -> None:
        self._before: frozenset[Path] = frozenset()

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = _at_home(config, "hydra.run.dir")
        self._before = frozenset([folder] if folder.is_dir() else [])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = _at_home(config, "hydra.sweep.dir")
        # A job's configuration is composed anew, of these words.
        with read_write(config), open_dict(config):
            config.hydra.overrides.hydra.append("hydra.sweep.dir='" + str(folder).replace("'", r"\'") + "'")
        self._before = frozenset(folder.iterdir()) if folder.is_dir() else frozenset()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.runtime.output_dir)
        if self._before.isdisjoint([folder, *folder.parents]):
            _made.add(folder)


def _at_home(config: DictConfig, key: str) -> Path:
    """The folder of this key, its ``~`` expanded there."""
    try:
        folder = os.path.expanduser(str(OmegaConf.select(config, key)))
    except OmegaConfBaseException as error:
        _leave(f"{key}: {str(error).splitlines()[0]}; give that key a value, or set {key}=FOLDER")
    with read_write(config):
        OmegaConf.update(config, key, folder)
    return Path(folder).absolute()
