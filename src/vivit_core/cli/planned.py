"""Settings that follow the recordings: ``${planned:NUMBER}`` in ``conf/`` is the number that suits the default ones,
and becomes another where the recordings are others (:mod:`vivit_core.training.planner`).

It happens once, between the check of a configuration and the task, so that whatever is kept holds plain numbers.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vivit_core.cli.console import tell
from vivit_core.cli.context import Settings
from vivit_core.cli.machine import machine_of
from vivit_core.cli.validate import validate
from vivit_core.data.checks import unlike_angles
from vivit_core.data.clips import handful
from vivit_core.data.paths import files_of
from vivit_core.data.recording.reader import Recording
from vivit_core.data.resample import ratio_of
from vivit_core.data.statistics import fading_s
from vivit_core.names import setting
from vivit_core.parts.build import build
from vivit_core.specs import RecordingError
from vivit_core.system.processes import is_first_rank
from vivit_core.training.planner import Choice, Sizes, plan, usual_trial
from vivit_core.training.transfer import leaves

MARK = re.compile(r"\$\{planned:.*\}")


def free_keys(cfg: DictConfig) -> list[str]:
    """The dotted keys of an unresolved configuration that may follow the recordings: those that nobody has set."""
    return [key for key, value in written(cfg) if MARK.fullmatch(value)]


def followers(cfg: DictConfig) -> tuple[str, ...]:
    """Those, and the keys that refer to one of them."""
    free = free_keys(cfg)
    return (*free, *(key for key, value in written(cfg) if value[:2] == "${" and value[2:-1] in free))


def written(cfg: DictConfig) -> list[tuple[str, str]]:
    """The words of an unresolved configuration, by their dotted keys."""
    node = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(node, dict)
    return [(key, value) for key, value in leaves({str(k): v for k, v in node.items()}) if isinstance(value, str)]


def following(cfg: DictConfig, settings: Settings, overridden: Set[str] = frozenset()) -> Settings:
    """The checked configuration, in which what may follow the recordings does; says what that is.

    Parameters
    ----------
    cfg : as it was composed; it stays as it is.
    settings : the same, plain and checked.
    overridden : the keys on the command line.

    Raises
    ------
    ConfigError
        Where the references of the configuration lead from what follows to what its key cannot hold.
    """
    free = set(free_keys(cfg))
    if settings.get("init_from") is not None:  # whose model comes with the checkpoint
        free = {key for key in free if not key.startswith("model.")}
    # Of files that the command line names, data.geometry, which is another's, knows nothing.
    named_here = bool(overridden & {"data.recordings", "data.root"})
    frame_size = settings["model"].get("frame_size")
    sizes = sizes_of(settings["data"], frame_size, expect=not named_here) if free else None
    if sizes is None:  # no file can be read, which the task will say
        return settings
    choices = plan(sizes, settings, free)
    if is_first_rank():
        explain(choices, sizes, settings["trainer"])
    cfg = copy.deepcopy(cfg)
    for choice in choices:
        OmegaConf.update(cfg, choice.key, choice.value)
    return validate(cfg)


def explain(choices: Sequence[Choice], sizes: Sizes, trainer: Mapping[str, Any]) -> None:
    """Print what was chosen, as it would stand on the command line. Budgets of the device that is not taken stay out,
    and those that ``trainer.KEY`` sets for all devices."""
    device = machine_of(trainer)[0]
    unused = {f"trainer.{name}.{key}" for name in ("cpu", "cuda") for key in trainer[name] if name != device}
    unused |= {f"trainer.{device}.{key}" for key in trainer[device] if trainer[key] is not None}
    words = {setting(choice.key, choice.value): choice.reason for choice in choices if choice.key not in unused}
    if words:
        tell(f"settings that follow the recordings ({sizes}); what the command line sets stays as it says:")
    for word, reason in words.items():
        tell(f"  {word:<{max(map(len, words))}}  # {reason}")
    if sizes.unlike is not None:
        tell(sizes.unlike)


def sizes_of(data: Mapping[str, Any], frame_size: Sequence[int] | None, expect: bool = True) -> Sizes | None:
    """The sizes of the recordings of a data node at the rate of a training; those that ``data.geometry`` expects where
    they are not there yet; None where none can be read.

    Parameters
    ----------
    data : the node.
    frame_size : height and width to which all frames are brought; None where they stay.
    expect : whether ``data.geometry`` may speak for files that are not there.
    """
    try:
        paths = files_of(data)
    except ValueError:  # which the task will say
        if not expect:
            return None
        paths = []
    infos, lasting = [], []
    for path in paths:
        try:
            recording = Recording(path)
            lasting.append(fading_s(recording))
            infos.append(recording.info)
        except RecordingError:
            continue
    if paths and not infos:
        return None
    if not infos:
        return expected(data, frame_size)
    rate_hz = data["frame_rate_hz"] or min(info.frame_rate_hz for info in infos)
    lengths = []
    for info in infos:
        trials = info.trials if data["most_trials"] is None else handful(info.trials, data["most_trials"])
        train = trials.of("train")
        ratio = ratio_of(info.frame_rate_hz, rate_hz)
        lengths.append([n * ratio.denominator // ratio.numerator for n in (train.stop - train.start).tolist()])
    usual = [usual_trial(own) for own in lengths]
    height, width = frame_size or max((info.frame_shape[1:] for info in infos), key=lambda shape: shape[0] * shape[1])
    return Sizes(
        height=height,
        width=width,
        rate_hz=rate_hz,
        recordings=len(infos),
        units=sum(min(info.n_units, data["most_units"] or info.n_units) for info in infos),
        trial_bins=min(usual),
        train_bins=sum(map(sum, lengths)),
        shortest=infos[usual.index(min(usual))].recording_id if min(usual) < max(usual) else None,
        fading_s=max((each for each in lasting if each is not None), default=None),
        unlike=unlike_angles(infos, frame_size),
    )


def recordings_named(data: Mapping[str, Any]) -> list[str]:
    """The ids of the recordings that a data node names, from their headers; those of simulated ones are known before
    there are any."""
    if data["recordings"] is None and data["root"] is None:
        return [] if data["simulator"] is None else list(build("data.simulator", data["simulator"]).ids)
    return [Recording(path).info.recording_id for path in files_of(data)]


def expected(data: Mapping[str, Any], frame_size: Sequence[int] | None) -> Sizes:
    """The sizes of recordings that are not there yet."""
    geometry = data["geometry"]
    rate_hz = data["frame_rate_hz"] or geometry["frame_rate_hz"]
    simulated = data["recordings"] is None and data["root"] is None and data["simulator"] is not None
    bins = getattr(build("data.simulator", data["simulator"]), "n_bins", None) if simulated else None
    height, width = frame_size or geometry["frame_shape"][1:]
    ratio = ratio_of(geometry["frame_rate_hz"], rate_hz)
    return Sizes(
        height=height,
        width=width,
        rate_hz=rate_hz,
        recordings=geometry["recordings"],
        units=geometry["recordings"] * min(geometry["units"], data["most_units"] or geometry["units"]),
        trial_bins=None if bins is None else bins * ratio.denominator // ratio.numerator,
        train_bins=None,
    )
