"""A check for each kind of part: a small twin around it, and what is special to the kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vivit_core.data.importers.common import Importer
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import validate_recording
from vivit_core.models.likelihoods.base import LEAST_COUNTS, Likelihood
from vivit_core.parts.build import build
from vivit_core.parts.groups import consent
from vivit_core.testing import small
from vivit_core.testing.small import Node, vivit
from vivit_core.testing.twins import FRAME, Parts, check_stream, check_twin

WINDOW = 8  # frames that temporal attention looks back over, where it is limited


def check_core(node: Node, packages: Sequence[str] = (), compiled: bool = False) -> None:
    """A core: its node as in ``conf/model``, with or without ``modulator`` and ``frame_size``."""
    check_twin({"modulator": None, "frame_size": None} | node, packages=packages, compiled=compiled)


def check_tokenizer(node: Node, packages: Sequence[str] = (), compiled: bool = False) -> None:
    """A tokenizer, below a small ViViT."""
    check_twin(vivit(tokenizer=node), packages=packages, compiled=compiled)


def check_attention(node: Node, packages: Sequence[str] = (), compiled: bool = False) -> None:
    """An attention, in all blocks of a small ViViT; the width of a token is 16 numbers a head, at least 48."""
    model = vivit(attention=node, embedding_dim=max(48, 16 * int(node.get("heads", 1))))
    check_twin(model, packages=packages, compiled=compiled)
    check_stream(Parts(model | {"window": WINDOW}, packages=tuple(packages)), FRAME, 64)


def check_frontend(node: Node | None, packages: Sequence[str] = (), compiled: bool = False) -> None:
    """A front end, below a small ViViT."""
    check_twin(vivit(frontend=node), packages=packages, compiled=compiled)


def check_modulator(node: Node | None, packages: Sequence[str] = ()) -> None:
    """A modulator, on a small ViViT."""
    check_twin(vivit(modulator=node), packages=packages)


def check_readout(node: Node, packages: Sequence[str] = ()) -> None:
    """A readout, of two maps of a small ViViT and one of behavior; and whether it looks where it is told to."""
    model = vivit(tokenizer=small.STEM)
    check_twin(model, readout=node, packages=packages)
    readout = Parts(model, readout=node, packages=tuple(packages)).twin().readout("a")
    places = torch.tensor([[4.0, 3.0], [20.0, 3.0], [12.5, 9.0], [4.0, 15.0], [20.0, 15.0]])
    with torch.no_grad():
        readout.initialize(places)
    centers = readout.centers()
    if centers is not None:
        assert centers.shape == (5, 2), f"centers() of 5 units give {tuple(centers.shape)}, and should give (5, 2)"
        assert torch.allclose(centers.float(), places, atol=1.0), (
            "centers() are not where initialize() put them; they are x and y in pixels of the twin's frame"
        )


def check_likelihood(node: Node, packages: Sequence[str] = ()) -> None:
    """A likelihood, of a small twin; and its numbers on made-up counts."""
    check_twin(vivit(modulator=None), likelihood=node, packages=packages)
    means = (0.0, 0.2, 1.5)
    with consent(packages):
        likelihood: Likelihood = build("likelihood", node, mean_counts=means)
    expected = torch.tensor(means).clamp_min(LEAST_COUNTS)
    with torch.no_grad():
        rate = likelihood.rate(likelihood.mean_drive())
    assert torch.allclose(rate, expected, rtol=1e-2, atol=1e-5), (
        f"rate(mean_drive()) is {rate.tolist()}, where the mean counts are {expected.tolist()}"
    )
    counts = torch.from_numpy(np.random.default_rng(0).poisson(means, (4000, len(means)))).double()
    mean = counts.mean(0)
    fired = mean > 0

    def nats(factor: float) -> torch.Tensor:
        with torch.no_grad():
            return likelihood.nats((mean * factor).expand_as(counts), counts).sum(0)[fired]

    for factor in (0.7, 1.4):
        assert (nats(factor) > nats(1.0)).all(), f"a rate of {factor} times the counts' mean costs less than the mean"
    null = torch.from_numpy(likelihood.null_nats(np.full(len(means), float(len(counts))), counts.sum(0).numpy()))
    assert torch.allclose(null[fired], nats(1.0), rtol=1e-6), (
        "null_nats is not what a constant rate at the counts' mean costs, so bits per spike would have another zero"
    )
    assert (null[~fired] == 0).all(), "null_nats of a unit without counts is not 0"


def check_importer(node: Node, source: str | Path, out: str | Path, packages: Sequence[str] = ()) -> None:
    """An importer, on a source of yours: what it writes is a valid recording, and a second import passes it over.

    Parameters
    ----------
    node : its settings, with or without those that every importer has (``conf/importer/about``).
    source : a small file or folder of the format.
    out : the recording file to write, in an empty folder; or a folder, where the source holds several recordings.
    packages : of the importer.
    """
    with consent(packages):
        importer: Importer = build("importer", small.ABOUT | node)
    written = importer(source, out)
    assert written, f"nothing was imported from {source}"
    times = [path.stat().st_mtime_ns for path in written]
    for path in written:
        validate_recording(path)
        with_trials = Recording(path).info.trials
        assert len(with_trials), f"{path} has no trial"
    assert importer(source, out) == written, "a second import names other files"
    assert [path.stat().st_mtime_ns for path in written] == times, "a second import wrote what was there already"
