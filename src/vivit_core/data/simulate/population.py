"""A population of V1-like neurons: spatiotemporal energy, normalization, gains, noise, Poisson spikes.

Shape letters: N trials, T bins (= frames), H W pixels, P = H · W, U units, O orientations of the pool, L lags, 2 =
(x, y). What is modeled and from where the numbers are: docs/simulator.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import factorial

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from vivit_core.data.simulate.cells import GRAY

FloatArray = NDArray[np.float32]

# --- the choices, units in the names ---
SIZE_PX = (4.0, 14.0)  # diameter of the receptive field: four standard deviations of its Gaussian
CYCLES_PER_STD = (0.25, 0.4)  # spatial frequency times standard deviation: a bandwidth of 1 to 2 octaves
MAX_CYCLES_PER_PX = 0.25  # half of what the pixels can carry
COMPLEX_FRACTION = 0.5
DIRECTIONAL_FRACTION = 0.3
TEMPORAL_RATE_PER_S = (70.0, 130.0)  # k of the biphasic kernels (kt)^n exp(-kt) …
LATENCY_S = (0.02, 0.035)
BIPHASIC = 0.75  # 1: the kernels are blind to what does not change; below, a part of the response is sustained
KERNEL_S = 0.25  # length of the temporal kernels
POOL_ORIENTATIONS = 4
POOL_WIDTH = 1.5  # standard deviation of the normalization pool, in those of the receptive field
POOL_TAU_S = 0.05
SEMISATURATION, OWN_SHARE = (
    0.5,
    0.4,
)  # of the normalization, in units of the pool's mean and of the unit's own mean energy
BASELINE_FRACTION = (0.02, 0.15)  # of the mean rate
MEAN_RATE_HZ = (3.0, 20.0)

GAZE_GAIN_PER_DEG = 0.15  # standard deviation of the slope of log gain over eye position, …
GAZE_ROOM_DEG = 7.0  # … where the eye looks no farther from the middle; in a larger room slopes are as much flatter
SACCADE_SPEED_DEG_PER_S = 20.0  # speed that moves the saccade signal half way
SACCADE_BINS_S = 0.03  # a saccade of this length gives the saccade kernel its nominal size
SUPPRESSION = (0.3, 1.0)  # log gain taken away at its trough, …
SUPPRESSION_CENTER_S, SUPPRESSION_STD_S = 0.03, 0.015
REBOUND = (0.2, 0.8)  # … and added at its peak
REBOUND_CENTER_S, REBOUND_STD_S = 0.11, 0.03
SACCADE_KERNEL_S = 0.2

SHARED_STD, SHARED_TAU_S = 0.25, 2.0  # log gain common to all units
COUPLING = (0.5, 1.5)  # of a unit to the common gain
PRIVATE_STD, PRIVATE_TAU_S = 0.25, 0.5  # log gain of each unit alone


def temporal_kernel(order: int, rate_per_s: FloatArray, latency_s: FloatArray, frame_rate_hz: float) -> FloatArray:
    """Biphasic kernels of Adelson & Bergen (1985), one a unit, of unit energy: (L, U).

    (kt)^n exp(-kt) [1/n! - B (kt)²/(n+2)!], with t counted from the latency and B = `BIPHASIC`.
    Orders 3 and 5 are about a quarter of a cycle apart.
    """
    time_L1 = np.arange(round(KERNEL_S * frame_rate_hz))[:, None] / frame_rate_hz
    kt = np.maximum(time_L1 - latency_s, 0) * rate_per_s
    kernel_LU = kt**order * np.exp(-kt) * (1 / factorial(order) - BIPHASIC * kt**2 / factorial(order + 2))
    return (kernel_LU / np.linalg.norm(kernel_LU, axis=0)).astype(np.float32)


def convolve(signal_NTU: FloatArray, kernel_LU: FloatArray) -> FloatArray:
    """Causal convolution along time, each trial from silence; one kernel a unit (or one for all)."""
    n_bins = signal_NTU.shape[1]
    size = next_fast_len(n_bins + len(kernel_LU) - 1, real=True)
    product = rfft(signal_NTU, size, axis=1) * rfft(kernel_LU, size, axis=0)
    return irfft(product, size, axis=1)[:, :n_bins].astype(np.float32, copy=False)


def saccade_signal(velocity_NT2: FloatArray) -> FloatArray:
    """How much of a saccade a bin is, 0 to 1, from the eye's velocity in degrees per second: (N, T)."""
    energy = np.square(velocity_NT2).sum(-1)
    return energy / (energy + SACCADE_SPEED_DEG_PER_S**2)


def ornstein_uhlenbeck(
    shape: tuple[int, ...], tau_s: float, frame_rate_hz: float, rng: np.random.Generator
) -> FloatArray:
    """Stationary noise of variance 1 that forgets with `tau_s`, along axis 1."""
    from scipy.signal import lfilter  # seconds that a process which simulates nothing does not wait for

    keep = np.exp(-1 / (tau_s * frame_rate_hz))
    noise = rng.standard_normal(shape, np.float32)
    noise[:, 1:] *= np.sqrt(1 - keep**2)
    return lfilter([1.0], [1.0, -keep], noise, axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Population:
    """The neurons of one recording; one row a unit in every array.

    `Population.draw` makes one, `calibrate` sets its scales.
    """

    frame_shape: tuple[int, int]  # H, W
    frame_rate_hz: float
    center_px: FloatArray  # (U, 2) x, y; pixel (0, 0) has its center at (0, 0)
    size_px: FloatArray  # (U,) diameter
    orientation_deg: FloatArray  # (U,) of the preferred bars, counterclockwise from horizontal, 0 to 180
    spatial_frequency: FloatArray  # (U,) cycles a pixel
    phase: FloatArray  # (U,) radians, of a simple cell's filter; 0 is even
    complex: NDArray[np.bool_]  # (U,)
    direction: NDArray[np.int8]  # (U,) 0 for none; ±1: prefers motion along ±(sin, cos) of the orientation, in (x, y)
    temporal_rate_per_s: FloatArray  # (U,) k of the temporal kernels
    latency_s: FloatArray  # (U,)
    baseline: FloatArray  # (U,) fraction of the mean rate that needs no stimulus
    mean_rate_hz: FloatArray  # (U,) aimed at by `calibrate`
    gaze_gain: FloatArray  # (U, 2) log gain a degree of eye position
    suppression: FloatArray  # (U,) log gain around a saccade
    rebound: FloatArray  # (U,) log gain after a saccade
    coupling: FloatArray  # (U,) to the shared noise
    energy_scale: FloatArray  # (U,) mean energy of the unit's filters
    pool_scale: FloatArray  # (U,) mean energy of its pool
    rate_scale: FloatArray  # (U,) Hz a unit of drive

    @classmethod
    def draw(
        cls, n_units: int, frame_shape: tuple[int, int], frame_rate_hz: float, rng: np.random.Generator
    ) -> Population:
        """A random population; its scales are 1 until `calibrate`."""

        def uniform(span: tuple[float, float]) -> FloatArray:
            return rng.uniform(*span, n_units).astype(np.float32)

        def log_uniform(span: tuple[float, float]) -> FloatArray:
            return np.exp(rng.uniform(np.log(span[0]), np.log(span[1]), n_units)).astype(np.float32)

        size_px = uniform(SIZE_PX)
        height, width = frame_shape
        direction = np.where(rng.random(n_units) < DIRECTIONAL_FRACTION, rng.choice([1, -1], n_units), 0)
        one = np.ones(n_units, np.float32)
        return cls(
            frame_shape=frame_shape,
            frame_rate_hz=frame_rate_hz,
            center_px=rng.uniform([0, 0], [width - 1, height - 1], (n_units, 2)).astype(np.float32),
            size_px=size_px,
            orientation_deg=uniform((0, 180)),
            spatial_frequency=np.minimum(uniform(CYCLES_PER_STD) / (size_px / 4), MAX_CYCLES_PER_PX),
            phase=uniform((0, 2 * np.pi)),
            complex=rng.permutation(n_units) < round(COMPLEX_FRACTION * n_units),
            direction=direction.astype(np.int8),
            temporal_rate_per_s=log_uniform(TEMPORAL_RATE_PER_S),
            latency_s=uniform(LATENCY_S),
            baseline=uniform(BASELINE_FRACTION),
            mean_rate_hz=log_uniform(MEAN_RATE_HZ),
            gaze_gain=(GAZE_GAIN_PER_DEG * rng.normal(size=(n_units, 2))).astype(np.float32),
            suppression=uniform(SUPPRESSION),
            rebound=uniform(REBOUND),
            coupling=uniform(COUPLING),
            energy_scale=one,
            pool_scale=one,
            rate_scale=one,
        )

    def in_room(self, room_deg: float) -> Population:
        """The same population for an eye that looks up to so far from the middle: log gain spans no more in a large
        room."""
        return replace(self, gaze_gain=self.gaze_gain * np.float32(min(1.0, GAZE_ROOM_DEG / room_deg)))

    @property
    def n_units(self) -> int:
        return len(self.size_px)

    @property
    def temporal_frequency_hz(self) -> FloatArray:
        """(U,) where the temporal kernel's spectrum peaks."""
        kernel_LU = temporal_kernel(3, self.temporal_rate_per_s, self.latency_s, self.frame_rate_hz)
        size = 4096
        peak = np.abs(rfft(kernel_LU, size, axis=0)).argmax(axis=0)
        return (peak * self.frame_rate_hz / size).astype(np.float32)

    def gabors(self, turn_deg: float = 0.0, widen: float = 1.0) -> FloatArray:
        """Even and odd Gabor of every unit, blind to uniform gray and of unit energy: (P, 2 U), all even ones first."""
        height, width = self.frame_shape
        y_P, x_P = (a.ravel()[:, None] for a in np.mgrid[:height, :width].astype(np.float64))
        x_PU, y_PU = x_P - self.center_px[:, 0], y_P - self.center_px[:, 1]
        angle = np.deg2rad(self.orientation_deg.astype(np.float64) + turn_deg)
        std = widen * self.size_px / 4
        envelope = np.exp(-(x_PU**2 + y_PU**2) / (2 * std**2))
        across = x_PU * np.sin(angle) + y_PU * np.cos(angle)  # the bars run along (cos, -sin): y points down
        pair = []
        for wave in (np.cos, np.sin):
            gabor = envelope * wave(2 * np.pi * self.spatial_frequency * across)
            gabor -= envelope * gabor.sum(0) / envelope.sum(0)
            gabor /= np.linalg.norm(gabor, axis=0)
            pair.append(np.where(np.abs(gabor) < 1e-7, 0, gabor))  # denormal float32 numbers are slow to multiply
        return np.concatenate(pair, axis=1).astype(np.float32)

    @cached_property
    def bank(self) -> FloatArray:
        """The units' Gabors, then their pools' of each orientation: (P, (1 + O) 2 U)."""
        turns = [180 / POOL_ORIENTATIONS * i for i in range(POOL_ORIENTATIONS)]
        return np.concatenate([self.gabors()] + [self.gabors(turn, POOL_WIDTH) for turn in turns], axis=1)

    def filter(self, frames_NTHW: NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """What the units' filters and their pools make of trials that each begin after a gray screen.

        Parameters
        ----------
        frames_NTHW
            (N, T, H, W) uint8, 127.5 is gray.

        Returns
        -------
        energy_NTU
            Squared response of complex cells' quadrature pairs; squared and rectified response of simple cells.
        pool_NTU
            Local contrast energy over all orientations, smoothed over the last `POOL_TAU_S`.
        """
        n_trials, n_bins = frames_NTHW.shape[:2]
        bank = self.bank
        fast_LU, slow_LU = (
            temporal_kernel(order, self.temporal_rate_per_s, self.latency_s, self.frame_rate_hz) for order in (3, 5)
        )
        from scipy.signal import lfilter

        keep = np.float32(np.exp(-1 / (POOL_TAU_S * self.frame_rate_hz)))
        energy_NTU = np.empty((n_trials, n_bins, self.n_units), np.float32)
        pool_NTU = np.empty_like(energy_NTU)
        for n in range(n_trials):
            contrast_TP = rearrange(frames_NTHW[n], "t h w -> t (h w)").astype(np.float32) / GRAY - 1
            response_OTU = rearrange(contrast_TP @ bank, "t (o pair u) -> o pair 1 t u", pair=2, u=self.n_units)
            even, odd = response_OTU[0]
            # Directional where the second, slower pair is added in quadrature.
            real = convolve(even, fast_LU) - self.direction * convolve(odd, slow_LU)
            imaginary = convolve(odd, fast_LU) + self.direction * convolve(even, slow_LU)
            linear = np.maximum(np.cos(self.phase) * real + np.sin(self.phase) * imaginary, 0)
            energy_NTU[n] = np.where(self.complex, real**2 + imaginary**2, linear**2)[0]
            local_TU = np.square(response_OTU[1:, :, 0]).sum((0, 1))
            pool_NTU[n] = lfilter([1 - keep], [1, -keep], local_TU, axis=0)
        return energy_NTU, pool_NTU

    def gain(self, position_NT2: FloatArray, velocity_NT2: FloatArray) -> FloatArray:
        """Gain that the eye gives each unit: a gaze field times suppression and rebound around saccades: (N, T, U)."""
        lag_L1 = np.arange(round(SACCADE_KERNEL_S * self.frame_rate_hz))[:, None] / self.frame_rate_hz
        trough = np.exp(-0.5 * ((lag_L1 - SUPPRESSION_CENTER_S) / SUPPRESSION_STD_S) ** 2)
        peak = np.exp(-0.5 * ((lag_L1 - REBOUND_CENTER_S) / REBOUND_STD_S) ** 2)
        kernel_LU = (self.rebound * peak - self.suppression * trough) / (SACCADE_BINS_S * self.frame_rate_hz)
        saccade_NTU = convolve(saccade_signal(velocity_NT2)[..., None], kernel_LU.astype(np.float32))
        return np.exp(position_NT2 @ self.gaze_gain.T + saccade_NTU).astype(np.float32)

    def drive(self, energy_NTU: FloatArray, pool_NTU: FloatArray) -> FloatArray:
        """Normalized response (Heeger 1992)."""
        own_NTU = energy_NTU / self.energy_scale
        drive_NTU = own_NTU / (SEMISATURATION + OWN_SHARE * own_NTU + pool_NTU / self.pool_scale)
        return drive_NTU.astype(np.float32, copy=False)

    def rate(self, drive_NTU: FloatArray, gain_NTU: FloatArray) -> FloatArray:
        """Firing rate in Hz without noise: (N, T, U)."""
        return gain_NTU * (self.baseline * self.mean_rate_hz + self.rate_scale * drive_NTU)

    def calibrate(self, energy_NTU: FloatArray, pool_NTU: FloatArray, gain_NTU: FloatArray) -> Population:
        """The same population with scales for which these trials (the training trials) have the mean rates aimed at.

        Raises
        ------
        ValueError
            Where a unit answers to nothing in them.
        """
        energy_U = energy_NTU.mean((0, 1))
        if silent := int((energy_U == 0).sum()):
            raise ValueError(
                f"{silent} of {self.n_units} units answer to nothing in the training trials, so that no scale gives "
                "them their mean rate; set data.simulator.train_trials or data.simulator.trial_s higher"
            )
        scaled = replace(self, energy_scale=energy_U, pool_scale=pool_NTU.mean((0, 1)))
        return scaled.aimed(scaled.drive(energy_NTU, pool_NTU), gain_NTU)

    def aimed(self, drive_NTU: FloatArray, gain_NTU: FloatArray) -> Population:
        """The same population with a scale of the rate for which this drive and gain have the mean rates aimed at."""
        driven = (gain_NTU * drive_NTU).mean((0, 1))
        undriven = gain_NTU.mean((0, 1)) * self.baseline
        return replace(self, rate_scale=self.mean_rate_hz * (1 - undriven) / driven)

    def spike(self, rate_NTU: FloatArray, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Spike counts a bin: Poisson around the rate times shared and private gain noise, both of mean 1."""
        shared = ornstein_uhlenbeck((*rate_NTU.shape[:2], 1), SHARED_TAU_S, self.frame_rate_hz, rng)
        private = ornstein_uhlenbeck(rate_NTU.shape, PRIVATE_TAU_S, self.frame_rate_hz, rng)
        shared_std = SHARED_STD * self.coupling
        noise = np.exp(shared_std * shared - shared_std**2 / 2 + PRIVATE_STD * private - PRIVATE_STD**2 / 2)
        return rng.poisson(rate_NTU * noise / self.frame_rate_hz).astype(np.uint8)

    def truth(self) -> dict[str, NDArray]:
        """What a recording file keeps of the units, one row each."""
        names = ("center_px", "size_px", "orientation_deg", "spatial_frequency", "complex", "direction")
        return {name: getattr(self, name) for name in names} | {"temporal_frequency_hz": self.temporal_frequency_hz}
