"""Checks a composed configuration against the task's signature, all problems at once, before anything is read; and says
what identifies it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vivit_core.cli.schema import SHARED, ConfigError, EveryRun
from vivit_core.cli.task import checked, root_of, task_named
from vivit_core.parts.groups import class_of
from vivit_core.parts.schema import check_call, dataclass_in, takes_path, types_of, values_of

LENIENT = {"throw_on_missing": False, "throw_on_resolution_failure": False}
RECIPES = ("experiment", "hparams_search")  # groups whose files change several others


# What it may hold ---------------------------------------------------------------------------------------------------
def plain(cfg: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain dicts, lists and numbers, all references resolved.

    Raises
    ------
    ConfigError
        Where a reference leads nowhere.
    """
    try:
        container = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key or 'a key'}: {str(error).splitlines()[0]}"]) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def validate(cfg: DictConfig) -> dict[str, Any]:
    """Check every key and every value that the task uses; returns the plain configuration, with ``~`` expanded where it
    is a path's.

    Raises
    ------
    ConfigError
        Names every unknown key, every missing one and every value of a wrong type.
    """
    refuse_no_checkpoint(cfg)
    refuse_misplaced(cfg)
    settings = plain(cfg)
    if not isinstance(settings.get("task"), str):
        raise ConfigError(list(check_call("", EveryRun, {k: v for k, v in settings.items() if k not in SHARED})))
    task = task_named(settings["task"])
    return settings | at_home("", root_of(task), checked(task, settings))


def refuse_no_checkpoint(cfg: DictConfig) -> None:
    """Before references are resolved: to those of a node that is not there OmegaConf has no word that helps."""
    nodes = cfg.get("callbacks")
    # A node may be anything yet, a number or a reference to nothing, which the check says.
    found = [OmegaConf.select(nodes, str(name), **LENIENT) for name in nodes] if isinstance(nodes, DictConfig) else []
    targets = [str(OmegaConf.select(node, "_target_", **LENIENT)) for node in found if isinstance(node, DictConfig)]
    if not any(target.endswith(("Checkpoint", "Checkpoints")) for target in targets) and nodes is not None:
        raise ConfigError(
            [
                "callbacks.checkpoint is left out, and a training keeps there its best weights and what it continues "
                "from; leave it in (callbacks.checkpoint.save_top_k=1 keeps few files)"
            ]
        )


def refuse_misplaced(cfg: DictConfig) -> None:
    """A recipe changes several groups together, so its keys have to stand at the root."""
    problems = [
        f"{group}: its file lacks the line `# @package _global_`, so what it sets stands under {group} and changes "
        f"nothing; put that line at the top of the file of {group}=…"
        for group in RECIPES
        if group in cfg
    ]
    if problems:
        raise ConfigError(problems)


def at_home(path: str, target: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Valid arguments of ``target`` with ``~`` and ``~user`` expanded wherever it takes a path.

    Raises
    ------
    ConfigError
        Where there is no such home directory.
    """

    def expanded(key: str, value: Any, hint: Any) -> Any:
        if isinstance(value, Mapping) and "_target_" in value:
            return at_home(key, class_of(key, value["_target_"]), value)
        if isinstance(value, Mapping) and (schema := dataclass_in(hint)) is not None:
            return at_home(key, schema, value)
        if isinstance(value, Mapping):
            return {name: expanded(f"{key}.{name}", member, values_of(hint)) for name, member in value.items()}
        if isinstance(value, list):
            return [expanded(key, member, hint) for member in value]
        if not (isinstance(value, str) and value.startswith("~") and takes_path(hint)):
            return value
        full = os.path.expanduser(value)
        if full.startswith("~"):
            raise ConfigError(
                [f"{key}={value}: no such home directory; give the path in full, or ./{value} for a name like that"]
            )
        return full

    hints = types_of(target)
    prefix = f"{path}." if path else ""
    return {key: expanded(f"{prefix}{key}", value, hints.get(key)) for key, value in values.items()}


# What identifies it -------------------------------------------------------------------------------------------------
def relocated(container: Mapping[str, Any], run_dir: str) -> dict[str, Any]:
    """The same configuration with its files in another run folder."""
    return {key: moved(value, str(container["run_dir"]), run_dir) for key, value in container.items()}


def moved(value: Any, old: str, new: str) -> Any:
    """A plain value in which the paths of a folder, and below it, are those of another one."""
    if isinstance(value, Mapping):
        return {key: moved(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [moved(inner, old, new) for inner in value]
    if isinstance(value, str) and (value == old or value.startswith(old + "/")):
        return new + value[len(old) :]
    return value


def deciding(container: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what a training computes: not the folder, the loggers, ``resume``."""
    return {
        k: v
        for k, v in relocated(container, "").items()
        if k not in ("outputs", "resume", "debug", "packages", "logger")
    }


def fingerprint(container: Mapping[str, Any]) -> str:
    """A hash of the settings that decide what a training computes."""
    return hashlib.sha256(json.dumps(deciding(container), sort_keys=True).encode()).hexdigest()[:16]
