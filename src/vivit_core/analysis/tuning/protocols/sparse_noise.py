"""Sparse noise: where light and dark checks raise the rate.

Shape letters: K clips, T bins, L lags, P pixels of a frame, S sites, B resamplings, H W pixels, U units (B clips of
them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vivit_core.analysis.tuning.numbers import DRIVEN_HZ
from vivit_core.analysis.tuning.protocols.base import Bench, Outcome, Protocol, Site, bounds_of, resamplings
from vivit_core.stimuli.base import refuse
from vivit_core.stimuli.noise import Noise

HALF = 0.5  # share of a map's highest value above which a pixel belongs to the field


@dataclass(frozen=True)
class SparseNoise(Protocol):
    """Light and dark checks at random places, and the mean rate after each: an ON and an OFF map.

    The maps are those at the lag at which they vary most over the frame; place and size are those of the pixels at
    which the sum of their squares, smoothed by a check, is above half of its highest value.

    Parameters
    ----------
    contrast, density, check_px, hold_bins, clips, clip_s, seed : see :class:`Noise`.
    lags_s : longest time from a check to the rate, s.

    References
    ----------
    Jones & Palmer 1987 (J Neurophysiol 58:1187).
    """

    contrast: float
    density: float
    check_px: int
    hold_bins: int
    clips: int
    clip_s: float
    lags_s: float
    seed: int

    titles: ClassVar[Mapping[str, str]] = {
        "x_px": "center x (px)",
        "y_px": "center y (px)",
        "diameter_px": "diameter of the map (px)",
        "on_off_index": "(ON − OFF) / (ON + OFF)",
    }
    methods: ClassVar[Mapping[str, str]] = {
        "x_px": "x of the center of gravity of ON² + OFF², smoothed by a check, where it is above half of its highest "
        "value. ON and OFF are the rates after light and dark checks, less the mean rate.",
        "y_px": "y of the same.",
        "diameter_px": "diameter of the disc with as many pixels.",
        "on_off_index": "(ΣON − ΣOFF) / (|ΣON| + |ΣOFF|) over these pixels.",
    }
    over = "clips"

    @property
    def drawn(self) -> int:
        return self.clips

    def __post_init__(self) -> None:
        problems = [f"lags_s={self.lags_s} is not in 0 … clip_s={self.clip_s}"]
        refuse(self, [] if 0 < self.lags_s < self.clip_s else problems)
        self.noise()

    def noise(self) -> Noise:
        return Noise(
            kind="sparse",
            contrast=self.contrast,
            density=self.density,
            check_px=self.check_px,
            hold_bins=self.hold_bins,
            clips=self.clips,
            clip_s=self.clip_s,
            seed=self.seed,
        )

    def run(self, bench: Bench, sites: Sequence[Site], name: str) -> Outcome:
        bins, lags = bench.bins(self.clip_s), bench.bins(self.lags_s)
        if lags >= bins:
            raise ValueError(
                f"SparseNoise: at {bench.rate_hz:g} Hz lags_s={self.lags_s} is {lags} bins and clip_s={self.clip_s} no "
                "more, which leaves no bin to average; set a longer clip_s or a shorter lags_s"
            )
        units = [site.unit for site in sites]
        clips = self.noise().make(bins, *bench.size)
        shown = bench.screen.show(clips, self.clips, name, bench.progress)
        rates_KTS = np.concatenate([rates_BTU.numpy()[..., units] for _, rates_BTU in shown])[:, lags:]
        rates_KTS = rates_KTS - rates_KTS.mean((0, 1))
        pixels = bench.size[0] * bench.size[1]
        total_2LPS, checks_2LP = np.zeros((2, lags, pixels, len(units))), np.zeros((2, lags, pixels))
        for k, signs_2TP in enumerate(self.signs(bins, bench.size)):
            for lag in range(lags):
                before_2TP = signs_2TP[:, lags - lag : bins - lag]
                total_2LPS[:, lag] += np.swapaxes(before_2TP, 1, 2) @ rates_KTS[k]
                checks_2LP[:, lag] += before_2TP.sum(1)
        varies_LS = (total_2LPS / np.maximum(checks_2LP, 1)[..., None]).var(2).sum(0)
        lag_S = varies_LS.argmax(0)
        total_2KPS = np.zeros((2, self.clips, pixels, len(units)), np.float32)
        checks_2KPS = np.zeros_like(total_2KPS)
        for k, signs_2TP in enumerate(self.signs(bins, bench.size)):
            for s, lag in enumerate(lag_S.tolist()):
                before_2TP = signs_2TP[:, lags - lag : bins - lag]
                total_2KPS[:, k, :, s] = np.swapaxes(before_2TP, 1, 2) @ rates_KTS[k, :, s]
                checks_2KPS[:, k, :, s] = before_2TP.sum(1)

        numbers: dict[str, list[list[float]]] = {key: [] for key in self.titles}
        weights_BK = resamplings(self.clips, self.seed)
        pictures = {}
        for s in range(len(units)):
            on_BP, off_BP = (
                (weights_BK @ total_2KPS[i, ..., s]) / np.maximum(weights_BK @ checks_2KPS[i, ..., s], 1e-9)
                for i in range(2)
            )
            found = [self.read(on_P, off_P, bench.size) for on_P, off_P in zip(on_BP, off_BP, strict=True)]
            for key, own in numbers.items():
                values = np.array([one[key] for one in found])
                own.append([float(values[0]), *bounds_of(values[1:])])
            if s == 0:
                scale = max(np.abs(on_BP[0]).max(), np.abs(off_BP[0]).max(), 1e-12)
                pictures = {
                    "ON map": (on_BP[0] / scale).reshape(bench.size),
                    "OFF map": (off_BP[0] / scale).reshape(bench.size),
                }
        frame = next(self.noise().make(bins, *bench.size))[bins // 2].numpy()
        return Outcome(
            {key: np.array(own).reshape(-1, 3) for key, own in numbers.items()}, {}, {"a frame": frame, **pictures}
        )

    def signs(self, bins: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """Where each clip is light, and where it is dark: ones and zeros, (2, T, P)."""
        for clip_THW in self.noise().make(bins, *size):
            flat_TP = clip_THW.flatten(1).numpy()
            yield np.stack([flat_TP > 0, flat_TP < 0]).astype(np.float32)

    def read(self, on_P: np.ndarray, off_P: np.ndarray, size: tuple[int, int]) -> dict[str, float]:
        """Place, size and sign of a pair of maps in Hz; NaN where no pixel changes the rate by ``DRIVEN_HZ``."""
        from scipy.ndimage import gaussian_filter

        if max(np.abs(on_P).max(), np.abs(off_P).max()) < DRIVEN_HZ:
            return dict.fromkeys(self.titles, np.nan)
        strength = gaussian_filter((np.square(on_P) + np.square(off_P)).reshape(size), self.check_px / 2)
        own = strength > HALF * strength.max()
        y, x = np.nonzero(own)
        weight = strength[own]
        on, off = on_P.reshape(size)[own].sum(), off_P.reshape(size)[own].sum()
        return {
            "x_px": float((x * weight).sum() / weight.sum()),
            "y_px": float((y * weight).sum() / weight.sum()),
            "diameter_px": float(2 * np.sqrt(own.sum() / np.pi)),
            "on_off_index": float((on - off) / max(abs(on) + abs(off), 1e-12)),
        }
