"""A check for each kind of part: a small twin around it, and what is special to the kind.

Shape letters: B clips, T bins, U units, K features of a unit, W weights of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vivit_core.data.importers.common import Importer
from vivit_core.data.recording.format import KINDS
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import validate_recording
from vivit_core.metrics.base import UnitMetric
from vivit_core.metrics.unit_scores import Scorer
from vivit_core.models.histories.base import History
from vivit_core.models.likelihoods.base import LEAST_COUNTS, Likelihood
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.shifters.base import Shifter
from vivit_core.parts.build import build
from vivit_core.parts.groups import BESIDE_THE_CORE, consent
from vivit_core.specs import Clips
from vivit_core.testing import small
from vivit_core.testing.small import Node, vivit
from vivit_core.testing.twins import (
    FRAME,
    LONG,
    Parts,
    check_checkpointing,
    check_compiled,
    check_feedback,
    check_gradients,
    check_no_look_ahead,
    check_stream,
    check_twin,
)

WINDOW = 8  # frames that temporal attention looks back over, where it is limited


def check_core(node: Node, packages: Sequence[str] = (), compiled: bool = False) -> None:
    """A core: its node as in ``conf/model``, with or without the twin's other parts and ``frame_size``."""
    check_twin(
        dict.fromkeys((*BESIDE_THE_CORE, "frame_size")) | node,
        packages=packages,
        compiled=compiled,
    )


def check_tokenizer(node: Node, packages: Sequence[str] = (), compiled: bool = False) -> None:
    """A tokenizer, below a small ViViT."""
    check_twin(vivit(tokenizer=node), packages=packages, compiled=compiled)


def check_attention(node: Node, packages: Sequence[str] = (), compiled: bool = False) -> None:
    """An attention, in separate blocks of space and time and in joint ones of small ViViTs; the width of a token is 16
    numbers a head, at least 48."""
    model = vivit(attention=node, embedding_dim=max(48, 16 * int(node.get("heads", 1))))
    joint = Parts(model | {"blocks": "joint", "spatial_depth": 1, "temporal_depth": 0}, packages=tuple(packages))
    check_twin(model, packages=packages, compiled=compiled)
    check_no_look_ahead(joint)
    check_gradients(joint)
    check_checkpointing(joint)
    if compiled:
        check_compiled(joint)
    for own in (model, joint.model):
        check_stream(Parts(own | {"window": WINDOW}, packages=tuple(packages)), LONG)


def check_frontend(node: Node | None, packages: Sequence[str] = (), compiled: bool = False) -> None:
    """A front end, below a small ViViT."""
    check_twin(vivit(frontend=node), packages=packages, compiled=compiled)


def check_energy(node: Node | None, packages: Sequence[str] = (), compiled: bool = False) -> None:
    """Energies in the tokens of small ViViTs that are wide enough to compare them; where blocks are a gain, cells
    compare themselves too."""
    for tokenizer in (small.TUBELET, small.RESIDUAL_STEM):
        node_of_model = vivit(energy=node, tokenizer=tokenizer, embedding_dim=48)
        check_twin(node_of_model, packages=packages, compiled=compiled)


def check_modulator(node: Node | None, packages: Sequence[str] = ()) -> None:
    """A modulator, on a small ViViT."""
    check_twin(vivit(modulator=node), packages=packages)


def check_own_filter(node: Node | None, packages: Sequence[str] = ()) -> None:
    """Units' own filters, in a small ViViT; of filters that know nothing, and of some that see all of the frame."""
    if node is None:
        return  # a small ViViT has none
    model = vivit(own_filter=node, modulator=None)
    check_twin(model, packages=packages)
    twin, of = Parts(model, packages=tuple(packages)).twin(), small.spec(height=FRAME[0], width=FRAME[1])
    plain = Parts(vivit(modulator=None)).twin().eval()
    shown = small.clips(of)
    with torch.no_grad():
        own = Parts(model, packages=tuple(packages)).unfitted().eval()
        own.load_state_dict(plain.state_dict(), strict=False)
        assert torch.equal(own({"a": shown})["a"], plain({"a": shown})["a"]), "filters that were not found change rates"
        filters = twin.eval().own_filter("a")
        assert filters is not None
        added = filters(shown["frames"])
        shape = tuple(added.value.shape)
        assert shape == (2, shown["frames"].shape[2], 5), f"what 5 units' filters add is {shape}"
        looked = filters.looked(shown["frames"])
        for part, sees, weight in zip(added, looked, (filters.weight, filters.gain), strict=True):
            weighed = (sees * weight).sum(-1)
            assert torch.allclose(part, weighed, atol=1e-5), "looked() times the weights is not what forward() adds"


def check_history(node: Node | None, packages: Sequence[str] = ()) -> None:
    """A history, in a small ViViT."""
    if node is None:
        return  # a small ViViT has none
    model = vivit(history=node, modulator=None)
    check_twin(model, packages=packages)
    parts = Parts(model, packages=tuple(packages))
    check_feedback(parts)
    twin, of = parts.twin().train(), small.spec(height=FRAME[0], width=FRAME[1])
    history = twin.history("a")
    shown_BU = history.drawn(400)
    assert shown_BU.shape == (400, of.n_units), f"drawn(400) of 5 units gives {tuple(shown_BU.shape)}"
    share = float(shown_BU.any(1).float().mean())
    assert share <= history.shown + 0.1, f"past counts are seen in {share:.2f} of the clips, and shown={history.shown}"
    part_BU = history.part(3)
    assert part_BU.shape == (3, of.n_units) and part_BU.dtype == torch.bool, "part(3) is not (3, units), true or false"
    check_weights(history, small.clips(of))
    hidden = small.clips(of)
    hidden["observed"] = torch.zeros_like(hidden["observed"])
    plain = {key: hidden[key] for key in ("frames", "behavior")}
    twin.eval()
    with torch.no_grad():
        assert torch.equal(twin({"a": hidden})["a"], twin({"a": plain})["a"]), "counts that nobody observed are seen"


@torch.no_grad()
def check_weights(history: History, shown: Clips) -> None:
    """What a history weighs, and with which weights, which are taken over as they are given."""
    past = history.before(shown["counts"], shown["valid"])
    for scale in (1.0, 2.0):
        gain_BTU = history.gain(*past)
        weighed_BTU = (history.looked(*past) * history.weights()).sum(-1)
        assert torch.allclose(gain_BTU, weighed_BTU, atol=1e-4), "looked() times weights() is not gain()"
        assert gain_BTU.shape == shown["counts"].shape, "gain() is not of the clips' bins"
        weights_UW = scale * torch.randn(history.weights().shape)
        history.take(weights_UW)
        assert torch.equal(history.weights(), weights_UW), "take() does not take the weights that weights() then gives"


def check_latent(node: Node | None, packages: Sequence[str] = ()) -> None:
    """A latent, in a small ViViT."""
    if node is None:
        return  # a small ViViT has none
    model = vivit(latent=node, modulator=None)
    check_twin(model, packages=packages)
    of = small.spec(height=FRAME[0], width=FRAME[1])
    twin, plain = (Parts(m, packages=tuple(packages)).twin().eval() for m in (model, model | {"latent": None}))
    plain.load_state_dict({name: x for name, x in twin.state_dict().items() if not name.startswith("latents.")})
    shown = small.clips(of, bins=64)
    with torch.no_grad():
        rate = twin({"a": shown})["a"]
        assert torch.equal(rate, plain({"a": shown})["a"]), "a latent changes expected counts"
        latent = twin.latent("a")
        assert latent is not None
        covariance = latent.log_covariance()
        eigenvalues = torch.linalg.eigvalsh(covariance.double())
        assert covariance.shape == (5, 5) and torch.allclose(covariance, covariance.T) and eigenvalues.min() > -1e-5, (
            "log_covariance() of 5 units is no covariance"
        )
        found = latent.more_nats(rate, shown["counts"], shown["valid"])
        junk = torch.where(shown["valid"], shown["counts"], torch.nan)
        assert torch.isfinite(found) and torch.equal(found, latent.more_nats(rate, junk, shown["valid"])), (
            "more_nats() is no number, or depends on what does not count"
        )
        halves = [latent.more_nats(*(x[i : i + 1] for x in (rate, junk, shown["valid"]))) for i in (0, 1)]
        assert torch.allclose(found, halves[0] + halves[1], rtol=1e-4), "more_nats() of clips do not add up"


def check_shifter(node: Node | None, packages: Sequence[str] = ()) -> None:
    """A shifter, below a small ViViT."""
    if node is None:
        return  # a small ViViT has none
    node = node | {"behavior": "gaze"}
    model = vivit(shifter=node, modulator=None)
    check_twin(model, packages=packages)
    of = small.spec(height=FRAME[0], width=FRAME[1])
    plain, twin = (Parts(m, packages=tuple(packages)).twin().eval() for m in (model | {"shifter": None}, model))
    twin.load_state_dict(plain.state_dict(), strict=False)
    shown = small.clips(of)
    with torch.no_grad():
        assert torch.allclose(twin({"a": shown})["a"], plain({"a": shown})["a"], rtol=1e-2), "at first, rates change"
        shifters = twin.shifters
        assert shifters is not None
        shifter = shifters[0]
        assert isinstance(shifter, Shifter)
        position, slope = torch.randn(2, 3, 3), torch.randn(3, 2)
        shifter.initialize(slope)
        told = (position @ slope).clamp(-shifter.most_px, shifter.most_px)
        assert torch.allclose(shifter(position), told, atol=0.02), "it does not begin where initialize() tells it to"
        for parameter in shifters.parameters():
            parameter.add_(torch.randn(parameter.shape))
        assert shifter(torch.zeros(2, 3, 3)).abs().max() < 1e-5, "at the mean eye position, windows are shifted"
        moved = shifter(torch.randn(2, 3, 3))
        assert moved.shape == (2, 3, 2), f"the shift of 2 clips of 3 bins is {tuple(moved.shape)}, not (2, 3, 2)"
        assert moved.abs().max() <= shifter.most_px, "windows are shifted by more than most_px"


def check_readout(node: Node, packages: Sequence[str] = ()) -> None:
    """A readout, of two maps of a small ViViT and one of behavior; and whether it looks where it is told to."""
    model = vivit(tokenizer=small.STEM)
    check_twin(model, readout=node, packages=packages)
    twin = Parts(model, readout=node, packages=tuple(packages)).twin().eval()
    readout = twin.readout("a")
    with torch.no_grad():
        frames, behavior = twin.adapt("a", small.clips(twin.specs["a"], count=1))
        assert twin.modulator is not None
        for index, feature_map in enumerate(twin.modulator(twin.core(frames), behavior)):
            if (weighed := readout.weighed(index, feature_map, slice(1, 4))) is not None:
                weights, x_BTUK = weighed
                added_up = (x_BTUK * weights[1:4].flatten(1)).sum(-1)
                read = readout.reader(index, feature_map)(feature_map.x_BCTHW)[..., 1:4]
                assert torch.allclose(added_up, read, atol=1e-5), "weighed() does not add up to what reader() reads"
    places = torch.tensor([[4.0, 3.0], [20.0, 3.0], [12.5, 9.0], [4.0, 15.0], [20.0, 15.0]])
    with torch.no_grad():
        readout.initialize(places, torch.full((5,), 3.0))
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
    assert set(likelihood.made_for) <= set(KINDS), f"made_for names {likelihood.made_for}, and kinds are {KINDS}"
    with torch.no_grad():
        rate = likelihood.rate(likelihood.mean_drive())
    assert torch.allclose(rate, expected, rtol=1e-2, atol=1e-5), (
        f"rate(mean_drive()) is {rate.tolist()}, where the mean counts are {expected.tolist()}"
    )
    counts = torch.from_numpy(np.random.default_rng(0).poisson(means, (4000, len(means)))).double()
    mean = counts.mean(0)
    fired = mean > 0
    likelihood.initialize(counts, torch.ones_like(counts, dtype=torch.bool))

    def nats(factor: float) -> torch.Tensor:
        with torch.no_grad():
            return likelihood.nats((mean * factor).expand_as(counts), counts).sum(0)[fired]

    for factor in (0.7, 1.4):
        assert (nats(factor) > nats(1.0)).all(), f"a rate of {factor} times the counts' mean costs less than the mean"
    with torch.no_grad():
        assert likelihood.deviance(mean * 1.3, counts)[:, fired].min() > -1e-6, "a count's deviance is negative"
    if (scatter := likelihood.distribution(mean.numpy())) is not None:
        assert np.allclose(scatter.mean()[fired], mean[fired]), "the mean of distribution(rate) is not the rate"
        other = likelihood.distribution(1.4 * mean.numpy())
        logs = [(own.logpmf if hasattr(own, "logpmf") else own.logpdf)(counts.numpy()) for own in (scatter, other)]
        told = (logs[0] - logs[1]).sum(0)[fired]
        assert np.allclose(told, nats(1.4) - nats(1.0), rtol=1e-5), "nats are not those of distribution(rate)"
    bins = np.full(len(means), float(len(counts)))

    def scored(some: list[int], factor: float) -> tuple[np.ndarray, np.ndarray]:
        """Nats and null nats of some units, as evaluations sum them."""
        with torch.no_grad():
            chosen = likelihood.of_units(some)
            own = chosen.terms((mean * factor).expand_as(counts)[:, some], counts[:, some])
        sums = torch.stack([x.sum(0) for x in own]).numpy()
        return chosen.summed_nats(sums), chosen.null_nats(bins[some], counts.sum(0).numpy()[some], sums)

    everyone = list(range(len(means)))
    for factor in (0.7, 1.0, 1.4):
        summed, null_nats = scored(everyone, factor)
        gained = torch.from_numpy(summed - scored(everyone, 1.0)[0])[fired]
        assert torch.allclose(gained, nats(factor) - nats(1.0), rtol=1e-6, atol=1e-6), (
            "a rate costs more or less in evaluations (terms, summed_nats) than in training (nats)"
        )
    null = torch.from_numpy(null_nats)
    assert torch.allclose(null[fired], torch.from_numpy(scored(everyone, 1.0)[0])[fired], rtol=1e-6), (
        "null_nats is not what a constant rate at the counts' mean costs, so bits per spike would have another zero"
    )
    assert (null[~fired] == 0).all(), "null_nats of a unit without counts is not 0"
    for some in ([2, 0], [1]):
        assert all(np.allclose(a, b[some]) for a, b in zip(scored(some, 1.4), scored(everyone, 1.4), strict=True)), (
            "of_units changes what units cost; parameters and buffers are scalars, or have a number for each unit, "
            "units last"
        )


def check_metric(metric: UnitMetric) -> None:
    """A metric, on made-up counts and rates."""
    for name in ("name", "title", "method"):
        assert isinstance(getattr(metric, name, None), str), f"a metric needs {name}, a text"
    rng = np.random.default_rng(0)
    rate = rng.uniform(0.1, 2.0, (400, 4))
    counts = rng.poisson(rate).astype(float)
    counts[:, 3] = 0
    mask = rng.random(rate.shape) < 0.7
    scorer = Scorer(Poisson((1.0,) * 4, "exp"), [metric])

    def scores(rows: slice = slice(None), units: slice = slice(None), junk: float = np.nan) -> np.ndarray:
        known = mask[rows, units]
        predicted, measured = (np.where(known, x[rows, units], junk) for x in (rate, counts))
        return scorer.scores_of(predicted, measured, known).by_name[metric.name]

    whole = scores()
    assert whole.shape == (4,), f"score() of 4 units gives {whole.shape}, and should give (4,)"
    assert np.isfinite(whole[:3]).all(), f"score() of units with counts gives {whole[:3]}, and should give numbers"
    assert np.array_equal(whole, scores(junk=7.0), equal_nan=True), "what does not count changes the score"
    assert np.allclose(whole[1:3], scores(units=slice(1, 3))), "the score of a unit depends on the other units"
    halves = [torch.as_tensor(x) for x in (rate, counts, mask)]
    sums = sum(scorer.sums(*(x[rows] for x in halves)).numpy() for rows in (slice(0, 150), slice(150, None)))
    again = scorer.scores(np.asarray(sums)).by_name[metric.name]
    assert np.allclose(whole[:3], again[:3]), "sums of parts do not give the score of the whole"
    several = scorer.scores(np.stack([sums, sums], 1)).by_name[metric.name]
    assert several.shape == (2, 4) and np.allclose(several[:, :3], whole[:3]), (
        "score() of sums (…, U) does not score each alone; comparisons ask for many resamplings at once"
    )


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
