"""Context: what lies beside a neuron's receptive field, or came before, and changes its answer.

A neuron with context keeps its local drive L and its gain g (``population``); its rate becomes

    g (b + s L / (1 + k A)),

where A ≥ 0 is the context's signal, from its surround, its own past, or the background's motion, and k its strength.
Everything is causal and starts from rest with each trial.

What it sees of the movie are ``cells``. Shape letters: N trials, T bins (= frames), H W pixels, R C rows and columns of
cells, J = R · C cells, F far cells, O orientations, U units, M moments, L lags, 2 = (x, y). Numbers and their sources:
docs/simulator.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vivit_core.data.simulate.cells import CELL_TAU_S, Cells, FloatArray, Seen, smooth

KINDS = ("surround", "adaptation", "motion")

# --- the choices, units in the names ---
LIKENESS = 8.0  # exponent of the weights over likeness
GATE_MIDDLE, GATE_SLOPE = 0.15, 16.0  # of the gate over the mean likeness

CENTER_PX = 6.0  # cells as near as this show the motion at the center

LAG_S = 0.1  # width of the stretches into which the past is cut


@dataclass(frozen=True)
class Context:
    """Which part of a population uses which context, and how strongly; the other units are purely local.

    Every pair is a range from which each unit, or object, draws its own value.
    """

    surround: float  # share of the units that are suppressed by patches like the center
    adaptation: float  # share of the units that adapt to what their place has shown
    motion: float  # share of the units that are suppressed where the background moves as the center does
    far_px: tuple[float, float]  # px from a unit's center to the nearest and the farthest cell of surround, background
    surround_suppression: tuple[float, float]  # share of the driven spikes that the surround takes in training trials
    adaptation_suppression: tuple[float, float]  # share of the driven spikes that adaptation takes in training trials
    adaptation_tau_s: tuple[float, float]  # s in which adaptation forgets
    motion_suppression: tuple[float, float]  # share of the drive that is taken when everything moves alike
    object_cover: float  # share of the scene under moving objects
    object_speed_deg_per_s: tuple[float, float]  # degrees a second, relative to the scene
    moments: int  # moments of test trials at which the true weights are kept

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)} is not inside 0 … 1"
            for name in (*KINDS, "object_cover")
            if not 0 <= getattr(self, name) <= 1
        ]
        if sum(getattr(self, kind) for kind in KINDS) > 1:
            problems.append(f"the shares {', '.join(KINDS)} add up to more than 1")
        for name in ("far_px", "adaptation_tau_s", "object_speed_deg_per_s"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                problems.append(f"{name}={[low, high]} is no range above 0")
        for kind in KINDS:
            low, high = getattr(self, f"{kind}_suppression")
            if not 0 <= low <= high < 1:
                problems.append(f"{kind}_suppression={[low, high]} is no range from 0 on and below 1")
        if self.moments < 0:
            problems.append(f"moments={self.moments} is below 0")
        if problems:
            raise ValueError("the simulator's context cannot work with these fields: " + "; ".join(problems))


def surround(
    likeness_TJO: FloatArray, energy_TJ: FloatArray, center: int, far: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """Weights of the far cells (T, F), which sum to 1, and what each adds to the signal of a gated surround (T, F).

    The signal is q Σ_j w_j E_j, with w_j = softmax_j(8 v_c·v_j) over the far cells, E_j their mean orientation energy
    and v the tuned part of a cell's amplitudes. The gate q is logistic in the mean of v_c·v_j: it stands for the
    probability that center and surround are one surface, and only then does the surround count.

    References
    ----------
    Coen-Cagli, Kohn & Schwartz 2015 (gating by homogeneity in macaque V1, natural images); Cavanaugh, Bair & Movshon
    2002 (extent and strength of the suppression).
    """
    alike_TF = np.einsum("tfo,to->tf", likeness_TJO[:, far], likeness_TJO[:, center])
    weight_TF = np.exp(LIKENESS * (alike_TF - 1))
    weight_TF /= weight_TF.sum(1, keepdims=True)
    gate_T1 = 1 / (1 + np.exp(-GATE_SLOPE * (alike_TF.mean(1, keepdims=True) - GATE_MIDDLE)))
    return weight_TF, gate_T1 * weight_TF * energy_TJ[:, far]


def background(
    seen: Seen, still: float, near: NDArray[np.intp], far: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """Weights of the far cells (T, F), which sum to 1 or are 0, and what each adds to the agreement of motions (T, F).

    The agreement of the background's motion with the center's is Σ_j [m_c·m_j]₊ / Σ_j |m_j|, with m_j the far cells'
    motion and m_c the direction of the motion at the center: 1 where everything moves as the center does, 0 where
    nothing does. Rest agrees with nothing. The weights are the likeness of the directions alone.

    References
    ----------
    Ölveczky, Baccus & Meister 2003 (object motion in the retina: the background's motion silences the center's where
    they coincide); Allman, Miezin & McGuinness 1985 (antagonism of center and surround for motion in MT).
    """
    tiny = np.float32(1e-12)
    center_T2 = seen.motion_TJ2[:, near].mean(1)
    rest_T1 = still * seen.energy_TJ[:, near].mean(1, keepdims=True)
    x_T1, y_T1 = np.split(center_T2 / (np.linalg.norm(center_T2, axis=-1, keepdims=True) + rest_T1 + tiny), 2, axis=1)
    agreed_TF = np.maximum(x_T1 * seen.motion_TJ2[:, far, 0] + y_T1 * seen.motion_TJ2[:, far, 1], 0)
    speed_TF = seen.speed_TJ[:, far]
    weight_TF = agreed_TF / (speed_TF + tiny)
    all_T1 = (speed_TF + still * seen.energy_TJ[:, far]).sum(1, keepdims=True)
    return weight_TF / (weight_TF.sum(1, keepdims=True) + tiny), agreed_TF / (all_T1 + tiny)


@dataclass(frozen=True, eq=False)
class Contexts:
    """The contexts of one recording's neurons; one row a unit in every array.

    `Contexts.draw` makes them, `calibrate` sets their strengths.
    """

    cells: Cells
    center_px_U2: FloatArray
    far_px: tuple[float, float]
    kind_U: NDArray[np.str_]  # "local", or one of `KINDS`
    suppression_U: FloatArray  # aimed at; 0 for local units
    tau_s_U: FloatArray  # over which the signal is smoothed; 0 for local units
    strength_U: FloatArray  # k, a unit of the signal

    @classmethod
    def draw(
        cls,
        settings: Context,
        center_px_U2: FloatArray,
        frame_shape: tuple[int, int],
        frame_rate_hz: float,
        rng: np.random.Generator,
    ) -> Contexts:
        """Random contexts of a population; their strengths are 0 until `calibrate`."""
        n_units = len(center_px_U2)
        shares = np.cumsum([0.0] + [getattr(settings, kind) for kind in KINDS])
        rank_U = rng.permutation(n_units)
        kind_U = np.full(n_units, "local", dtype="U10")
        suppression_U, tau_s_U = np.zeros((2, n_units), np.float32)
        shortest, longest = settings.adaptation_tau_s
        slow_U = np.exp(rng.uniform(np.log(shortest), np.log(longest), n_units))
        for kind, first, last in zip(KINDS, shares[:-1], shares[1:], strict=True):
            of_kind = (rank_U >= round(first * n_units)) & (rank_U < round(last * n_units))
            kind_U[of_kind] = kind
            least, most = getattr(settings, f"{kind}_suppression")
            suppression_U[of_kind] = rng.uniform(least, most, n_units)[of_kind]
            tau_s_U[of_kind] = slow_U[of_kind] if kind == "adaptation" else CELL_TAU_S
        return cls(
            cells=Cells.over(frame_shape, frame_rate_hz),
            center_px_U2=center_px_U2,
            far_px=settings.far_px,
            kind_U=kind_U,
            suppression_U=suppression_U,
            tau_s_U=tau_s_U,
            strength_U=np.zeros(n_units, np.float32),
        )

    def of(self, kind: str) -> NDArray[np.intp]:
        """The units of a kind."""
        return np.flatnonzero(self.kind_U == kind)

    def far(self, unit: int) -> NDArray[np.intp]:
        """The cells of a unit's surround, or background."""
        away_J = self._away(unit)
        return np.flatnonzero((away_J >= self.far_px[0]) & (away_J <= self.far_px[1]))

    def near(self, unit: int) -> NDArray[np.intp]:
        """The cells at a unit's center, the nearest one first."""
        away_J = self._away(unit)
        order = np.argsort(away_J, kind="stable")
        return order[: max(1, int((away_J <= CENTER_PX).sum()))]

    def _away(self, unit: int) -> FloatArray:
        return np.hypot(*(self.cells.place_px_J2 - self.center_px_U2[unit]).T)

    def parts(self, seen: Seen) -> Iterator[tuple[int, NDArray[np.intp], FloatArray, FloatArray]]:
        """For each unit that looks far: the unit, its far cells, their weights and what each adds to the signal."""
        likeness_TJO = seen.likeness_TJO()
        for unit in self.of("surround"):
            far = self.far(unit)
            yield int(unit), far, *surround(likeness_TJO, seen.energy_TJ, self.near(unit)[0], far)
        for unit in self.of("motion"):
            far = self.far(unit)
            yield int(unit), far, *background(seen, self.cells.still, self.near(unit), far)

    def signal(self, frames_NTHW: NDArray[np.uint8], own_NTU: FloatArray) -> FloatArray:
        """What suppresses each unit, without a scale: (N, T, U), 0 for local units.

        Parameters
        ----------
        frames_NTHW
            (N, T, H, W) uint8, 127.5 is gray.
        own_NTU
            Energy of each unit's own filters, in units of its mean. Adaptation is its running mean: gain falls with
            what this place has shown of this feature (contrast gain: Ohzawa, Sclar & Freeman 1985; specific to the
            feature: Benucci, Saleem & Carandini 2013).
        """
        signal_NTU = np.zeros(own_NTU.shape, np.float32)
        for unit in self.of("adaptation"):
            signal_NTU[..., unit] = smooth(own_NTU[..., unit], self.tau_s_U[unit], self.cells.frame_rate_hz, axis=1)
        for n, frames_THW in enumerate(frames_NTHW):
            for unit, _, _, added_TF in self.parts(self.cells.see(frames_THW)):
                signal_NTU[n, :, unit] = added_TF.sum(1)
        moving = self.of("motion")
        signal_NTU[..., moving] = np.square(signal_NTU[..., moving])  # steeper: a little agreement does not count
        return signal_NTU

    def calibrate(self, signal_NTU: FloatArray, drive_NTU: FloatArray, gain_NTU: FloatArray) -> Contexts:
        """The same contexts with strengths that take from these trials (the training trials) the spikes aimed at.

        Motion takes its share where everything moves alike, whatever the trials show.
        """
        strength_U = np.zeros_like(self.strength_U)
        moving = self.of("motion")
        strength_U[moving] = self.suppression_U[moving] / (1 - self.suppression_U[moving])
        for unit in (*self.of("surround"), *self.of("adaptation")):
            signal = signal_NTU[..., unit].astype(np.float64)
            driven = (gain_NTU[..., unit] * drive_NTU[..., unit]).astype(np.float64)
            driven /= max(driven.sum(), 1e-30)
            low, high = np.log(1e-6), np.log(1e6)
            for _ in range(40):
                middle = (low + high) / 2
                taken = 1 - (driven / (1 + np.exp(middle) * signal / max(signal.mean(), 1e-30))).sum()
                low, high = (middle, high) if taken < self.suppression_U[unit] else (low, middle)
            strength_U[unit] = np.exp(low) / max(signal.mean(), 1e-30)
        return replace(self, strength_U=strength_U)

    def kept(self, signal_NTU: FloatArray, without: str = "") -> FloatArray:
        """The factor of each unit's drive, 0 to 1; `without` one kind of context it is 1 for the units of that kind."""
        strength_U = np.where(self.kind_U == without, np.float32(0), self.strength_U)
        return np.reciprocal(1 + strength_U * signal_NTU)

    def moments(
        self, trials: Sequence[tuple[NDArray[np.uint8], FloatArray]], bins: Sequence[Sequence[int]]
    ) -> dict[str, NDArray]:
        """Where, and when, the contexts' signals come from at some moments.

        Parameters
        ----------
        trials
            Frames (T, H, W) and the units' own energies (T, U) of some trials.
        bins
            Bins of each trial.

        Returns
        -------
        dict
            ``context_weights`` (U, M, R, C): how much a cell counts; ``context_shares`` (U, M, R, C): which part of the
            signal comes from it, its weight times what it shows; ``context_lag_shares`` (U, M, L): which part comes
            from which stretch of the past (of surround and background: the weights of their smoothing). Each sums to
            1, or is 0 where nothing counts: no cell and no lag does for a local unit, and its own place alone does
            for one that adapts. ``context_x_px`` (C,), ``context_y_px`` (R,), ``context_lag_s`` (L,) say where they
            are; of a lag, where its stretch begins, counted back from the moment.
        """
        n_units, n_moments = len(self.kind_U), sum(map(len, bins))
        n_lags = max(1, int(np.ceil(len(trials[0][0]) / self._lag_bins)))
        weights, shares = np.zeros((2, n_units, n_moments, int(np.prod(self.cells.shape))), np.float32)
        lags = np.zeros((n_units, n_moments, n_lags), np.float32)
        first = 0
        for (frames_THW, own_TU), chosen in zip(trials, bins, strict=True):
            rows = slice(first, first + len(chosen))
            first = rows.stop
            for unit, far, weight_MF, added_MF in self.parts(self.cells.see(frames_THW).at(chosen)):
                weights[unit, rows, far] = weight_MF.T
                shares[unit, rows, far] = added_MF.T
            for unit in self.of("adaptation"):
                weights[unit, rows, self.near(unit)[0]] = shares[unit, rows, self.near(unit)[0]] = 1
            for row, now in enumerate(chosen, rows.start):
                tau_bins_U = np.maximum(self.tau_s_U, 1e-3) * self.cells.frame_rate_hz
                past = np.exp(-np.arange(now + 1)[:, None] / tau_bins_U) * (self.kind_U != "local")
                past *= np.where(self.kind_U == "adaptation", own_TU[now::-1], 1.0)
                summed = np.add.reduceat(past, np.arange(0, now + 1, self._lag_bins), axis=0)
                lags[:, row, : len(summed)] = summed.T
        shape = (n_units, n_moments, *self.cells.shape)
        half = np.float16
        return {
            "context_weights": weights.reshape(shape).astype(half),
            "context_shares": _of_one(shares).reshape(shape).astype(half),
            "context_lag_shares": _of_one(lags).astype(half),
            "context_x_px": self.cells.x_px_C,
            "context_y_px": self.cells.y_px_R,
            "context_lag_s": (np.arange(n_lags) * self._lag_bins / self.cells.frame_rate_hz).astype(np.float32),
        }

    @property
    def _lag_bins(self) -> int:
        return max(1, round(LAG_S * self.cells.frame_rate_hz))

    def truth(self) -> dict[str, NDArray]:
        """What a recording file keeps of them, one row a unit."""
        return {
            "context_suppression": self.suppression_U,
            "context_tau_s": self.tau_s_U,
            "context_strength": self.strength_U,
        }


def _of_one(parts: FloatArray) -> FloatArray:
    """Parts along the last axis as fractions of their sum."""
    total = parts.sum(-1, keepdims=True)
    return np.divide(parts, total, out=np.zeros_like(parts), where=total > 0)
