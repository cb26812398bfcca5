"""How far back a unit's gain looks, and whether the past truly counts so, for simulated units that adapt.

A twin's gain follows slow means of the energy of a unit's own pair of filters (``OwnFilters``). So what each stretch of
the past does to it is known exactly: a unit's *profile* is by how much its log gain falls with the logarithm of its
energy in that stretch, and their sum is its *fall*. One backward pass gives the profiles of all units, because each
unit's gain depends on its own energies alone. The gradient of the whole twin would tell of any other model too, but it
takes a pass through all of it for each unit and moment, and says more of the drive than of the gain in the newest .3 s.

Simulated recordings know at some test moments which share of the adaptation came from each stretch. What was seen in
a stretch counts for both, and every profile fades: so a correlation with the truth of *other moments* of the same unit
is what fading alone is worth, and one with the truth of *other units* what the scene's changes add. Neither says
whether a unit's time is its own: profiles correlate as well where all units that adapt have the mean of their weights
(*in common*). This the time constants do, beside the true ones, by ranks over units; chance is 0.

Shape letters: U units, N those that adapt, T bins of a trial, M moments, L stretches of the past, the newest first, G
slow means of energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis.attention import plots as pictures
from vivit_core.analysis.attention.blocks import on_device
from vivit_core.analysis.attention.surrounds import beside_truth, correlations, median
from vivit_core.data.recording.reader import Recording
from vivit_core.models.own_filter import OwnFilters, slow_means
from vivit_core.models.pairs import energies
from vivit_core.models.twin import Twin
from vivit_core.names import short
from vivit_core.specs import Clips

KIND = "adaptation"  # the simulator's name


@dataclass(frozen=True, eq=False)
class PastBesideTruth:
    """The profiles of a recording's adapting units, and the truth.

    Attributes
    ----------
    units : (N,) that adapt.
    correlation : (N,) of their profiles with the true shares, the mean over moments; NaN where nothing can be said.
    other_moments, other_units : (N,) the same with the truths of other moments, and of the other adapting units.
    in_common : (N,) the correlation where all of them have the mean of their weights.
    tau_s, true_tau_s : (N,) mean lag of what the gain does with an energy that does not change, and the true time
        constant, s; NaN where the past does not make the gain fall.
    fall_U, true_fall_N : fall of all units, and the true one of those that adapt, means over moments.
    profile, true : (N, L) of the last moment; each sums to one, of the profile its sizes do.
    lag_s : (L,) where each stretch begins, counted back, s.
    """

    units: np.ndarray
    correlation: np.ndarray
    other_moments: np.ndarray
    other_units: np.ndarray
    in_common: np.ndarray
    tau_s: np.ndarray
    true_tau_s: np.ndarray
    fall_U: np.ndarray
    true_fall_N: np.ndarray
    profile: np.ndarray
    true: np.ndarray
    lag_s: np.ndarray

    def summary(self) -> dict[str, float | int | None]:
        """Medians over units; ``tau_rank``, the rank correlation of the time constants; and ``told_apart``, how often
        an adapting unit falls more than one that does not adapt, of all pairs (chance is .5)."""
        names = ("correlation", "other_moments", "other_units", "in_common", "tau_s", "true_tau_s")
        fall_N, rest = self.fall_U[self.units], np.delete(self.fall_U, self.units)
        return {
            "units": len(self.units),
            **{name: median(getattr(self, name)) for name in names},
            "tau_rank": rank_correlation(self.tau_s, self.true_tau_s),
            "fall": median(fall_N),
            "true_fall": median(self.true_fall_N),
            "fall_of_others": median(rest),
            "told_apart": float((np.sign(fall_N[:, None] - rest) / 2 + 0.5).mean()) if rest.size else None,
        }


def past_beside_truth(twin: Twin, recording: Recording) -> PastBesideTruth | None:
    """The profiles of a recording's adapting units beside the truth; None where nobody knows it, where no unit adapts,
    or where the twin has no own filters."""
    truth, kinds = recording.context_weights(), recording.unit_column("context")
    info = recording.info
    own = twin.own_filter(info.recording_id)
    if truth is None or kinds is None or own is None or not len(truth.bins_M):
        return None
    if not len(units := np.flatnonzero(kinds == KIND)):
        return None
    edges_L = np.round(truth.lag_s_L * info.frame_rate_hz).astype(int)
    starts_M = info.trials.start[np.searchsorted(info.trials.start, truth.bins_M, side="right") - 1]
    profile_UML, common_UML = np.zeros((2, *truth.lag_shares_UML.shape))
    mean_UG = own.gain[units].mean(0).expand_as(own.gain)
    true_fall_NM = np.zeros((len(units), len(truth.bins_M)))
    for start in np.unique(starts_M):
        chosen = np.flatnonzero(starts_M == start)
        energy_TU = own_energy(twin, recording, int(start), int(truth.bins_M[chosen].max()) + 1)
        for moment in chosen:
            now = int(truth.bins_M[moment])
            for made_UML, gain_UG in ((profile_UML, own.gain), (common_UML, mean_UG)):
                made_UML[:, moment] = in_stretches(falls(own, gain_UG, energy_TU[: now + 1 - start]), edges_L)
            rate_U, without_U = (recording.truth(of, now, now + 1)[0] for of in ("rate", f"rate_without_{KIND}"))
            true_fall_NM[:, moment] = (1 - rate_U / np.maximum(without_U, 1e-12))[units]
    seen_L = edges_L < (truth.bins_M - starts_M).min()  # by all moments: what none can see is alike for all
    profile_NML, true_NML = profile_UML[units], truth.lag_shares_UML[units]
    counts_NL = np.tile(seen_L, (len(units), 1))
    correlation, other_moments, other_units = beside_truth(profile_NML, true_NML, counts_NL)
    last_NL = profile_NML[:, -1]
    return PastBesideTruth(
        units=units,
        correlation=correlation,
        other_moments=other_moments,
        other_units=other_units,
        in_common=beside_truth(common_UML[units], true_NML, counts_NL)[0],
        tau_s=time_constants(own, info.frame_rate_hz)[units],
        true_tau_s=recording.truth("context_tau_s")[units],
        fall_U=profile_UML.sum(2).mean(1),
        true_fall_N=true_fall_NM.mean(1),
        profile=last_NL / np.maximum(np.abs(last_NL).sum(1, keepdims=True), 1e-12),
        true=true_NML[:, -1],
        lag_s=truth.lag_s_L,
    )


@torch.no_grad()
def own_energy(twin: Twin, recording: Recording, start: int, stop: int) -> Tensor:
    """What a trial shows each unit's own pair, from its start on, (T, U); 1 is usual."""
    name = recording.info.recording_id
    behavior = recording.behavior(start, stop, twin.specs[name].behavior)
    clip = Clips(frames=torch.as_tensor(recording.frames(start, stop))[None], behavior=torch.as_tensor(behavior)[None])
    own = twin.own_filter(name)
    assert own is not None
    return own.level(energies(own.responses(twin.seen(name, on_device(clip, own.gain.device)))))[0]


def falls(own: OwnFilters, gain_UG: Tensor, energy_TU: Tensor) -> np.ndarray:
    """By how much each unit's log gain in the last bin falls with the log of its energy in each bin, (T, U), with these
    weights of the slow means."""
    with torch.enable_grad():
        scale_TU = torch.ones_like(energy_TU, requires_grad=True)
        slow_UG = slow_means((energy_TU * scale_TU)[None], own.slow_G)[0, -1]
        (rise_TU,) = torch.autograd.grad((own.gains(slow_UG) * gain_UG.detach()).sum(), scale_TU)
    return -rise_TU.double().cpu().numpy()


def in_stretches(falls_TU: np.ndarray, edges_L: np.ndarray) -> np.ndarray:
    """Sums (U, L) over stretches of the past, each from its edge back to the next one; 0 before the trial."""
    made = np.zeros((falls_TU.shape[1], len(edges_L)))
    within = edges_L[edges_L < len(falls_TU)]
    made[:, : len(within)] = np.add.reduceat(falls_TU[::-1], within, axis=0).T
    return made


def time_constants(own: OwnFilters, frame_rate_hz: float) -> np.ndarray:
    """Mean lag of each unit's fall where its energy is always usual, (U,) s; NaN where the gain does not fall.

    Beyond the longest of the slow means where a shorter one works against it.
    """
    tau_s_G = -1 / (own.slow_G.double().log() * frame_rate_hz)
    fall_UG = -own.gain.detach().double()  # of one size: all means are 1
    total_U = fall_UG.sum(1)
    mean_U = (fall_UG * tau_s_G).sum(1) / total_U
    return torch.where(total_U > 0, mean_U, torch.nan).cpu().numpy()


def rank_correlation(x_N: np.ndarray, y_N: np.ndarray) -> float | None:
    """Of those that both have; None for fewer than three, or where all are alike."""
    from scipy.stats import rankdata  # seconds that a process which ranks nothing does not wait for

    both = np.isfinite(x_N) & np.isfinite(y_N)
    if both.sum() < 3:
        return None
    x_1N, y_1N = (rankdata(values[both])[None] for values in (x_N, y_N))
    return median(correlations(x_1N, y_1N, np.ones(int(both.sum()), bool)))


def plot_past(folder: Path, found: PastBesideTruth | None, names: Sequence[str], units: int) -> list[tuple[Path, str]]:
    """Profiles beside the true ones: ``attention_past_adaptation.png``, of the units that fall most.

    Parameters
    ----------
    folder : where it is written.
    found : from ``past_beside_truth``; None: nothing is drawn.
    names : of all units.
    units : drawn.
    """
    if found is None:
        return []
    most = np.argsort(-found.fall_U[found.units], kind="stable")[:units]
    path = pictures.profiles(
        folder / f"attention_past_{KIND}.png",
        lag_s=found.lag_s,
        profile_NL=found.profile[most],
        true_NL=found.true[most],
        names=[short(names[unit], 20) for unit in found.units[most]],
        correlation_N=found.correlation[most],
    )
    return [
        (
            path,
            "Units that adapt: which share of their gain's fall comes from which stretch of the past in the twin, and "
            "in truth, at one moment. Correlations are means over moments.",
        )
    ]
