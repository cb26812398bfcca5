"""Receptive fields from data: spike-triggered regression, time courses, and where each unit looks.

Shape letters: T bins, U units, V units that contrast energies place, L lags (oldest first), H W pixels or cells of a
map, P = H · W, C movies of contrast energy, 2 = (x, y).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from einops import einsum, rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

from vivit_core.data.recording.reader import Recording
from vivit_core.models.ln import lags_of
from vivit_core.models.solving import solve_positive
from vivit_core.rf.blurring import blur, slope
from vivit_core.rf.stretches import ShiftPx, TrialStretches
from vivit_core.specs import RecordingSpec

MAP_LAGS = 10  # lags of the maps that place a unit; finer time does not place it better and costs its square
PIECE = 1 << 18  # numbers that are worked on at once: they stay in a core's cache
ENERGY_PX = 2  # pixels from one place of contrast energy to the next
FINE, COARSE = (0.8, 1.6), 3.2  # of the scales at which contrast energy is seen, px; the last in large frames alone
CLEAR = 1.6  # a linear map whose peak stands this far above chance needs no second look
CHANCE = 64  # maps by chance at least, which say what is usual at each place
CHANCE_PIXELS = 2**22  # of these maps together, where units are so few that they are made for this alone
MOST_USUAL = 4.5  # of chance at a place, in that of most places: with more a stimulus does not tell where units look
MANY_PX = 32 * 32  # of a frame, in which a unit's field is a small part


BORDER_PX = 3.0  # standard deviation of a field that is expected to lie in the frame


def unit_centers(
    recording: Recording,
    spec: RecordingSpec,
    *,
    duration_s: float,
    max_frames: int,
    shift_px: ShiftPx | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each unit looks, and how its response unfolds in time, from training trials alone.

    A unit's receptive field is estimated as a linear kernel on the pixels (simple cells, ganglion cells) and, where
    that is not clear, as kernels on local contrast energy at some scales (complex cells, whose linear kernel is flat).
    Both are regularized linear regressions that treat the stimulus as stationary in space, so the correlations of
    natural images are divided out. Of a calcium trace it is what came in each bin that is regressed
    (:func:`without_fading`). The clearer of the two places the unit. Where nothing places it (it never fires, the
    frames never change, no trial is longer than the kernels) it is in the middle of the frame, with a snr of 0.

    Parameters
    ----------
    recording : its file.
    spec : its statistics.
    duration_s : length of the kernels, s.
    max_frames : most training frames to use.
    shift_px : how far windows are shifted; None: frames lie where the file says.

    Returns
    -------
    centers_px : (U, 2) as x, y.
    time_courses : (U, lags), oldest first, unit norm, of the linear kernel at its peak; zero where contrast energy
        placed the unit.
    snr : (U,) peak of the map that placed the unit, over the peaks of maps made with responses shifted in time; 1 is
        chance.

    References
    ----------
    Theunissen et al. (2001), Estimating spatio-temporal receptive fields of auditory and visual neurons from their
    responses to natural stimuli. Network 12:289-316.
    """
    lags = lags_of(duration_s, spec)
    data = TrialStretches.read(recording, "train", lags, max_frames, shift_px)
    pool = max(1, lags // MAP_LAGS)
    frames_THW, rest_TU = torch.cat(list(contrast(data, spec, pool))), came(data, pool, recording.info.kind)
    if not data.use_TU.any() or not varies(frames_THW):
        middle = (np.array(recording.info.frame_shape[:0:-1]) - 1) / 2
        units = spec.n_units
        return np.tile(middle, (units, 1)), np.zeros((units, lags), np.float32), np.zeros(units, np.float32)

    energies = partial(contrast_energies, frames_THW, coarse=True)
    placed = place_clearest(frames_THW, energies, rest_TU, -(-lags // pool))
    courses_UL = courses(data, spec, placed.map_UHW, lags) * ~placed.by_energy_U[:, None]
    return placed.centers_U2.numpy(), courses_UL.numpy(), placed.clear_U.numpy()


def contrast(data: TrialStretches, spec: RecordingSpec, pool: int) -> Iterator[Tensor]:
    """Contrast (T, H, W) in bins of ``pool`` frames, in pieces that stay in a core's cache."""
    bins = len(data.counts_TU) // pool
    pixels = data.frames_THW[:1].size
    for frames_THW in torch.as_tensor(data.frames_THW[: bins * pool]).split(pool * max(1, PIECE // (pool * pixels))):
        mean_THW = reduce(frames_THW.float(), "(t k) h w -> t h w", "mean", k=pool)
        yield (mean_THW - spec.pixel_mean) / spec.pixel_std


def rest(data: TrialStretches, pool: int) -> Tensor:
    """Counts less their mean (T, U), in bins of ``pool`` frames; unused bins are zero."""
    counts_TU = torch.as_tensor(reduce(data.counts_TU[whole(data, pool)], "(t k) u -> t u", "sum", k=pool))
    use_TU = used(data, pool)
    mean_U = (counts_TU * use_TU).sum(0) / use_TU.sum(0).clamp_min(1)
    return (counts_TU - mean_U) * use_TU


def came(data: TrialStretches, pool: int, kind: str) -> Tensor:
    """What a stimulus may have caused in each bin: :func:`rest`, of a calcium recording :func:`without_fading`."""
    rest_TU = rest(data, pool)
    return without_fading(rest_TU, used(data, pool)) if kind == "calcium" else rest_TU


def used(data: TrialStretches, pool: int) -> Tensor:
    """Bins of ``pool`` frames that are used whole, (T, U)."""
    return torch.as_tensor(reduce(data.use_TU[whole(data, pool)], "(t k) u -> t u", "min", k=pool))


def whole(data: TrialStretches, pool: int) -> slice:
    """Frames that fill bins of ``pool``."""
    return slice(0, len(data.counts_TU) // pool * pool)


def without_fading(rest_TU: Tensor, use_TU: Tensor) -> Tensor:
    """What calcium traces, less their mean, have in each bin beyond what is left of the bin before; zero where either
    is not used.

    What is left is the same part in each bin: the autocorrelation at two bins over that at one, in which noise of
    single bins does not count.
    """
    one_U, two_U = ((rest_TU[lag:] * rest_TU[:-lag]).sum(0) for lag in (1, 2))
    left_U = torch.where(one_U > 0, two_U / one_U, 0.0).clamp(0, 1)
    before_TU, both_TU = (F.pad(x[:-1], (0, 0, 1, 0)) for x in (rest_TU, use_TU.to(rest_TU.dtype)))
    return (rest_TU - left_U * before_TU) * both_TU * use_TU


def varying(x: Tensor) -> Tensor:
    """Where anything changes along the first axis by more than rounding, which must not be taken for a stimulus."""
    low, high = x.amin(0).float(), x.amax(0).float()
    return high - low > 1e-5 * torch.maximum(low.abs(), high.abs()).max()


def varies(x: Tensor) -> bool:
    """Whether anything changes along the first axis."""
    return x.numel() > 0 and bool(varying(x).any())


def cosines(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (type II): its mirrored borders suit frames cut from a larger scene."""
    k, x = torch.arange(size)[:, None], torch.arange(size)[None]
    matrix = torch.cos(torch.pi * k * (x + 0.5) / size) * (2 / size) ** 0.5
    matrix[0] *= 0.5**0.5
    return matrix


def place(
    movies: Iterable[Tensor], rest_TU: Tensor, lags: int, ridge: float, px: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Centers (U, 2) as x, y in cells, their clearness (U,) and maps (U, H, W), from kernels on one or more movies
    (T, H, W), whose cells are ``px`` pixels apart.

    Where chance is larger, as it is at the borders for white noise, a unit has to be clearer. What no map can tell is
    told by where recordings look: a place is the less likely the more of a field around it would lie beyond the frame.
    Where chance prefers few places by far, as it does for gratings that fill the frame, a unit that is not clear is in
    the middle of what was shown, as clear as chance. In small frames a field is everywhere, and none of this is asked.
    """
    units, fires_U = rest_TU.shape[1], rest_TU.any(0)
    fired_TU = rest_TU[:, fires_U]
    movies = list(movies)
    pixels, firing = movies[0][0].numel(), max(1, fired_TU.shape[1])
    many = pixels * px**2 >= MANY_PX
    late = max(1, min(-(-CHANCE // firing), CHANCE_PIXELS // (firing * pixels))) if many else 1
    # The same responses, half a recording late, have lost the stimulus: what their maps show is chance.
    by = [len(rest_TU) * (k + 1) // (late + 1) for k in range(late)]
    all_TU = torch.cat([rest_TU, *(fired_TU.roll(bins, 0) for bins in by)], dim=1)
    maps_CUHW = torch.stack([project(kernels(x_THW, all_TU, lags, ridge)) for x_THW in movies])
    shown_HW = torch.stack([shown(x_THW) for x_THW in movies]).any(0)
    energy_UHW = maps_CUHW.square().sum(0)
    usual_HW = likely_HW = torch.ones_like(energy_UHW[0])
    if many:
        energy_UHW = energy_UHW * shown_HW
        usual_HW = usual(energy_UHW[units:], shown_HW)
        likely_HW = within(usual_HW.shape, BORDER_PX / px) * shown_HW
    centers_U2, peak_U = locate(energy_UHW / usual_HW, likely_HW)
    clear_U, chance = torch.zeros(units), peak_U[units:]
    if len(chance) and chance.median() > 0:
        clear_U = peak_U[:units] / chance.median()
    centers_U2 = centers_U2[:units]
    if shown_HW.any() and usual_HW[shown_HW].max() > MOST_USUAL * usual_HW[shown_HW].median():
        # Contrast energy may well be clear there, and at a border: what is cut off by it differs by the grating.
        lost_U = fires_U & ((clear_U < CLEAR) if px == 1 else True)
        middle_2 = shown_HW.nonzero().float().mean(0).flip(0)
        centers_U2 = torch.where(lost_U[:, None], middle_2, centers_U2)
        clear_U = torch.where(lost_U, 1.0, clear_U)
    return centers_U2, clear_U, maps_CUHW[0, :units]


def usual(energy_UHW: Tensor, shown_HW: Tensor) -> Tensor:
    """What maps by chance have on average at each place that is shown (H, W), the same at all corners; 1 where that is
    nothing."""
    height, width = shown_HW.shape
    shown_HW = shown_HW.float()

    def around(x_HW: Tensor) -> Tensor:
        flipped_HW = torch.stack([x_HW, x_HW.flip(0), x_HW.flip(1), x_HW.flip(0, 1)]).sum(0)
        return blur(height, 1.0) @ flipped_HW @ blur(width, 1.0).T

    mean_HW = around(energy_UHW.sum(0) * shown_HW) / around(shown_HW).clamp_min(1e-12) / max(1, len(energy_UHW))
    return torch.where(mean_HW > 0, mean_HW, 1.0)


def shown(x_THW: Tensor) -> Tensor:
    """Where a movie changes, (H, W): nothing is seen in what stays gray around a stimulus."""
    range_HW = x_THW.amax(0) - x_THW.amin(0)
    return range_HW > 1e-2 * range_HW.max()


def within(shape: Sequence[int], std: float) -> Tensor:
    """How much of a Gaussian around each place lies in the frame (H, W), in that of the middle."""
    shares = []
    for size in shape:
        edges = torch.special.ndtr((torch.arange(size)[:, None] + torch.tensor([0.5, 0.5 - size])) / std)
        shares.append(edges[:, 0] - edges[:, 1])
    inside_HW = shares[0][:, None] * shares[1]
    return inside_HW / inside_HW.max()


def place_by_energy(energies_CTHW: Tensor, rest_TU: Tensor, lags: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same by contrast energies: centers (U, 2) as x, y in pixels, their clearness, and maps of cells."""
    movies = (alone(x_THW) for x_THW in energies_CTHW)
    centers_U2, clear_U, map_UHW = place(movies, rest_TU, lags, ridge=100.0, px=ENERGY_PX)
    return ENERGY_PX * centers_U2, clear_U, map_UHW


class Placed(NamedTuple):
    """Where units look, by the clearer of their maps.

    Attributes
    ----------
    centers_U2, clear_U : x and y in pixels, and their clearness.
    map_UHW : maps of pixels, of all units.
    by_energy_U : whom contrast energies placed.
    energy_VHW : maps of cells of ``ENERGY_PX``, of these alone.
    """

    centers_U2: Tensor
    clear_U: Tensor
    map_UHW: Tensor
    by_energy_U: Tensor
    energy_VHW: Tensor

    def clearer_UHW(self) -> Tensor:
        """The map that placed each unit, in pixels."""
        clearer_UHW = self.map_UHW.clone()
        height, width = clearer_UHW.shape[1:]
        finer_VHW = self.energy_VHW.repeat_interleave(ENERGY_PX, 1).repeat_interleave(ENERGY_PX, 2)
        clearer_UHW[self.by_energy_U] = finer_VHW[:, :height, :width]
        return clearer_UHW


def place_clearest(frames_THW: Tensor, energies: Callable[[], Tensor], rest_TU: Tensor, lags: int) -> Placed:
    """Place units by pixels; where these are not clear, by contrast energies (C, T, H, W) if they are clearer."""
    centers_U2, clear_U, map_UHW = place([frames_THW], rest_TU, lags, ridge=0.5)
    by_energy_U, energy_VHW = clear_U < CLEAR, map_UHW[:0]
    if by_energy_U.any():
        other_U2, other_clear_U, other_UHW = place_by_energy(energies(), rest_TU[:, by_energy_U], lags)
        better = other_clear_U > clear_U[by_energy_U]
        by_energy_U[by_energy_U.clone()] = better
        centers_U2[by_energy_U], clear_U[by_energy_U] = other_U2[better], other_clear_U[better]
        energy_VHW = other_UHW[better]
    return Placed(centers_U2, clear_U, map_UHW, by_energy_U, energy_VHW)


def alone(x_THW: Tensor) -> Tensor:
    """What each place of a large frame has for itself: in its own deviations, without what comes everywhere at once, as
    flashed pictures do, because that places no unit. Zero where nothing changes. A small frame is left as it is: a
    unit's own field is everywhere there."""
    shown_HW = shown(x_THW)
    if shown_HW.sum() * ENERGY_PX**2 < MANY_PX:
        return x_THW
    size_HW = x_THW.std(0, correction=0)
    x_THW = torch.where(shown_HW, (x_THW - x_THW.mean(0)) / torch.where(size_HW > 0, size_HW, 1.0), 0.0)
    together_T = x_THW.mean((1, 2))
    # A part of its own for each place: at the borders fewer pixels are averaged, and pictures differ by more.
    part_HW = einsum(x_THW, together_T, "t h w, t -> h w") / together_T.square().sum().clamp_min(1e-12)
    return x_THW - part_HW * together_T[:, None, None]


def kernels(x_THW: Tensor, rest_TU: Tensor, lags: int, ridge: float) -> Tensor:
    """Regularized linear kernels (L, U, H, W) of every unit on a movie, oldest lag first, slightly blurred.

    In cosine space the pixels of a stationary movie are uncorrelated, so each spatial frequency has its own small
    regression on lags. ``ridge`` is in units of the movie's mean power.
    """
    rows, columns = cosines(x_THW.shape[1]), cosines(x_THW.shape[2])
    x_TP = rearrange(rows @ (x_THW @ columns.T), "t i j -> t (i j)")
    x_TP = x_TP - x_TP.mean(0)
    bins = len(x_TP)
    ends = [max(0, bins - lag) for lag in range(lags)]
    triggered_LUP = torch.stack([rest_TU[lag:].T @ x_TP[: ends[lag]] for lag in reversed(range(lags))])
    power_LP = autocorrelation(x_TP, lags)
    distance = (torch.arange(lags)[:, None] - torch.arange(lags)[None]).abs()
    covariance_PLL = rearrange(power_LP[distance], "l m p -> p l m")
    power = power_LP[0].mean()
    if not power > 0:  # a movie that stands still
        return torch.zeros(lags, rest_TU.shape[1], *x_THW.shape[1:])
    covariance_PLL = covariance_PLL + ridge * power * torch.eye(lags)
    w_PLU = solve_positive(covariance_PLL, rearrange(triggered_LUP, "l u p -> p l u"))
    back_rows, back_columns = (blur(len(matrix), 0.7) @ matrix.T for matrix in (rows, columns))
    return back_rows @ (rearrange(w_PLU, "(i j) l u -> l u i j", j=len(columns)) @ back_columns.T)


def autocorrelation(x_TP: Tensor, lags: int) -> Tensor:
    """Sums (L, P) over time of each column's products with itself ``lag`` bins before."""
    bins, columns = x_TP.shape
    rows = max(1, PIECE // columns)
    power_LP = torch.zeros(lags, columns)
    for start in range(0, bins, rows):
        for lag in range(min(lags, bins - start)):
            late_TP = x_TP[start + lag : start + lag + rows]
            power_LP[lag] += (late_TP * x_TP[start : start + len(late_TP)]).sum(0)
    return power_LP


def contrast_energies(x_THW: Tensor, coarse: bool = False) -> Tensor:
    """Local contrast energy, the squared gradient, at two scales and half the resolution, (2, T, H/2, W/2): around each
    second pixel, the first one included; in large frames at a third, coarse one too, if that is wanted."""
    maps = []
    for std in (*FINE, COARSE) if coarse and x_THW[0].numel() >= MANY_PX else FINE:
        blur_rows, blur_columns = (blur(size, std) for size in x_THW.shape[1:])
        slope_rows, slope_columns = (slope(size, std) for size in x_THW.shape[1:])
        pieces = []
        for piece_THW in x_THW.split(max(1, PIECE // x_THW[0].numel())):
            dx = blur_rows @ (piece_THW @ slope_columns.T)
            dy = slope_rows @ (piece_THW @ blur_columns.T)
            energy = dx.square() + dy.square()
            pieces.append(blur_rows[::ENERGY_PX] @ (energy @ blur_columns[::ENERGY_PX].T))
        maps.append(torch.cat(pieces))
    return torch.stack([x / x.std(correction=0).clamp_min(1e-12) for x in maps])


def project(w_LUHW: Tensor) -> Tensor:
    """Each kernel seen through its own time course at its peak: maps in units of their noise, (U, H, W)."""
    _, _, height, width = w_LUHW.shape
    w_ULP = rearrange(w_LUHW, "l u h w -> u l (h w)")
    map_UP = w_ULP.square().sum(1)
    for _ in range(2):
        local_ULP = w_ULP * near(map_UP.abs().argmax(1), height, width, 2.0)[:, None]
        _, vectors_ULL = torch.linalg.eigh(local_ULP @ local_ULP.mT)
        map_UP = einsum(vectors_ULL[:, :, -1], w_ULP, "u l, u l p -> u p")
    noise_U1 = map_UP.abs().median(1, keepdim=True).values
    return rearrange(map_UP / noise_U1.clamp_min(1e-12), "u (h w) -> u h w", h=height)


def near(index_U: Tensor, height: int, width: int, radius: float) -> Tensor:
    """(U, P): one within ``radius`` of the pixel, else zero."""
    pixel = torch.arange(height * width)
    dy = pixel // width - index_U[:, None] // width
    dx = pixel % width - index_U[:, None] % width
    return (dy.square() + dx.square() <= radius**2).float()


def locate(energy_UHW: Tensor, likely_HW: Tensor) -> tuple[Tensor, Tensor]:
    """Centers (U, 2) as x, y in cells, and peaks (U,), of maps, where the place of the peak is chosen by how likely
    places are as well."""
    _, height, width = energy_UHW.shape
    # Blurred to the envelope: the lobes of both signs belong to one field.
    energy_UP = rearrange(blur(height, 1.0) @ energy_UHW @ blur(width, 1.0).T, "u h w -> u (h w)")
    chosen_U = (energy_UP * likely_HW.flatten()).argmax(1)
    peak_U = energy_UP.gather(1, chosen_U[:, None])[:, 0]
    weight_UP = (energy_UP - 0.5 * peak_U[:, None]).clamp_min(0) * near(chosen_U, height, width, 4.0)
    total_U1 = weight_UP.sum(1, keepdim=True)
    weight_UP = torch.where(total_U1 > 0, weight_UP / total_U1, 1 / weight_UP.shape[1])  # silent units: the middle
    pixel = torch.arange(height * width)
    return torch.stack(
        [weight_UP @ (pixel % width).float(), weight_UP @ (pixel // width).float()], dim=1
    ), peak_U.sqrt()


def courses(data: TrialStretches, spec: RecordingSpec, map_UHW: Tensor, lags: int) -> Tensor:
    """Time courses (U, L) of what each unit's map sees around its peak, unit norm, positive where bright excites."""
    _, height, width = map_UHW.shape
    map_UP = rearrange(map_UHW, "u h w -> u (h w)")
    peak_U1 = map_UP.abs().argmax(1, keepdim=True)
    weights_UP = map_UP * map_UP.gather(1, peak_U1).sign() * near(peak_U1[:, 0], height, width, 3.0)
    rest_TU = rest(data, 1)
    seen_TU = torch.cat([piece_THW.flatten(1) @ weights_UP.T for piece_THW in contrast(data, spec, 1)])
    seen_TU = seen_TU - seen_TU.mean(0)
    ends = [max(0, len(seen_TU) - lag) for lag in range(lags)]
    triggered_UL = torch.stack(
        [torch.linalg.vecdot(rest_TU[lag:], seen_TU[: ends[lag]], dim=0) for lag in reversed(range(lags))], 1
    )
    power_UL = torch.stack([torch.linalg.vecdot(seen_TU[lag:], seen_TU[: ends[lag]], dim=0) for lag in range(lags)], 1)
    distance = (torch.arange(lags)[:, None] - torch.arange(lags)[None]).abs()
    covariance_ULL = power_UL[:, distance] + 0.3 * power_UL[:, :1, None].clamp_min(1e-12) * torch.eye(lags)
    return F.normalize(solve_positive(covariance_ULL, triggered_UL[..., None])[..., 0], dim=1)
