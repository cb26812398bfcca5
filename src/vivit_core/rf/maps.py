"""What a map of a receptive field says: its place and size, and its orientation.

Orientations are those of the preferred bars, in degrees counterclockwise from horizontal, 0 to 180, although y points
down: a wave whose phase grows along (sin a, cos a) in (x, y) has bars of orientation a.

Shape letters: U units, K maps of a unit (lags, clips …), H W pixels, P = H · W, N parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from vivit_core.models.solving import solve_positive
from vivit_core.rf.blurring import blur, gaussian, slope

SIZES_PX = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # standard deviations that the fit of an envelope starts from


STEPS = 40  # of the fit


SLOPE_PX = 1.0  # standard deviation of the Gaussian whose slope is taken


FLAT = 1e-5  # a map that varies by less than this share of its size shows nothing but single precision's rounding


UNITS_AT_ONCE = (
    256  # whose energies, slopes and envelopes are taken together; a fit holds some ten copies of their maps
)


AROUND = 2.0  # orientation is read off within this many standard deviations (of the field) of its center


@dataclass(frozen=True, eq=False)
class Envelope:
    """Round Gaussians fitted to maps of energy; NaN where a map is flat."""

    center_U2: np.ndarray  # x, y, px
    std_U: np.ndarray  # px, of the energy; a field's own envelope is √2 times as wide
    explained_U: np.ndarray  # share of the map's variance


def fit_envelope(energy_UHW: Tensor) -> Envelope:
    """A round Gaussian on a flat ground, for each map, by least squares (Levenberg-Marquardt, from several sizes).

    The fit sees where the frame ends, so a field that is cut by the border is not drawn inwards, as its center of mass
    would be. A map without any variance but that of rounding has no place.
    """
    pieces = [fit_some(piece_UHW) for piece_UHW in energy_UHW.split(UNITS_AT_ONCE)]
    theta_UN, explained_U = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return Envelope(theta_UN[:, :2].numpy(), theta_UN[:, 2].exp().numpy(), explained_U.numpy())


def fit_some(energy_UHW: Tensor) -> tuple[Tensor, Tensor]:
    """Of a few units: x, y and log standard deviation (U, 3), and the share of variance explained (U,)."""
    units, height, width = energy_UHW.shape
    y_P, x_P = (a.flatten().double() for a in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    z_UP = energy_UHW.flatten(1).double().cpu()
    size_U = z_UP.norm(dim=1)
    z_UP = z_UP - z_UP.mean(1, keepdim=True)
    flat_U = z_UP.norm(dim=1) <= FLAT * size_U
    z_UP = z_UP / z_UP.norm(dim=1, keepdim=True).clamp_min(1e-300)

    def shape(theta_UN: Tensor) -> Tensor:
        distance = (x_P - theta_UN[:, :1]).square() + (y_P - theta_UN[:, 1:2]).square()
        return torch.exp(-0.5 * distance * torch.exp(-2 * theta_UN[:, 2:3]))

    def best(theta_UN: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals and height, with the height and the ground at their best."""
        g_UP = shape(theta_UN)
        g_UP = g_UP - g_UP.mean(1, keepdim=True)
        height_U1 = (
            (g_UP * z_UP).sum(1, keepdim=True) / g_UP.square().sum(1, keepdim=True).clamp_min(1e-12)
        ).clamp_min(0)
        return z_UP - height_U1 * g_UP, height_U1

    # Where the map, blurred a little, fits a Gaussian of one of the sizes best.
    starts = []
    for std in SIZES_PX:
        rows, columns = (gaussian(size, std, torch.double) for size in (height, width))
        seen_UP = (rows @ z_UP.view(units, height, width) @ columns.T).flatten(1)
        energy_P = (rows.square().sum(1)[:, None] * columns.square().sum(1)[None]).flatten()
        score_UP = seen_UP / energy_P.sqrt()
        starts.append((score_UP.amax(1), score_UP.argmax(1)))
    start_U = torch.stack([score for score, _ in starts]).argmax(0)
    place_U = torch.stack([place for _, place in starts]).gather(0, start_U[None])[0]
    theta_UN = torch.stack([x_P[place_U], y_P[place_U], torch.tensor(SIZES_PX).double()[start_U].log()], 1)

    damping_U = torch.full((units,), 1e-2, dtype=torch.double)
    rest_UP, height_U1 = best(theta_UN)
    for _ in range(STEPS):
        g_UP, scale = shape(theta_UN), torch.exp(-2 * theta_UN[:, 2:3])
        dx, dy = x_P - theta_UN[:, :1], y_P - theta_UN[:, 1:2]
        slopes = [dx * scale, dy * scale, (dx.square() + dy.square()) * scale]
        jacobian_UPN = torch.stack([height_U1 * g_UP * change for change in slopes] + [g_UP, torch.ones_like(g_UP)], 2)
        normal_UNN = jacobian_UPN.mT @ jacobian_UPN
        diagonal = torch.diag_embed(normal_UNN.diagonal(dim1=1, dim2=2) * damping_U[:, None] + 1e-12)
        step_UN = solve_positive(normal_UNN + diagonal, jacobian_UPN.mT @ rest_UP[..., None])[..., 0]
        step_UN = step_UN[:, :3].clamp(-2.0, 2.0)
        tried_UN = theta_UN + step_UN
        tried_UN[:, 2].clamp_(np.log(0.3), np.log(float(max(height, width))))
        tried_rest_UP, tried_height_U1 = best(tried_UN)
        better_U = tried_rest_UP.square().sum(1) < rest_UP.square().sum(1)
        theta_UN = torch.where(better_U[:, None], tried_UN, theta_UN)
        rest_UP = torch.where(better_U[:, None], tried_rest_UP, rest_UP)
        height_U1 = torch.where(better_U[:, None], tried_height_U1, height_U1)
        damping_U = torch.where(better_U, damping_U / 3, damping_U * 4).clamp(1e-6, 1e6)
    explained_U = 1 - rest_UP.square().sum(1)
    explained_U[flat_U] = torch.nan
    theta_UN[flat_U] = torch.nan
    return theta_UN, explained_U


def structure(maps_UKHW: Tensor) -> Tensor:
    """The structure tensor of each unit's maps, summed over them: (U, 3, H, W), the products xx, xy and yy of slopes.

    A sum over maps of any phase or sign keeps the orientation, so that of a complex cell's gradients as well.
    """
    height, width = maps_UKHW.shape[-2:]
    blur_y, blur_x = (blur(size, SLOPE_PX, torch.double).to(maps_UKHW) for size in (height, width))
    slope_y, slope_x = (slope(size, SLOPE_PX, torch.double).to(maps_UKHW) for size in (height, width))
    dx = blur_y @ maps_UKHW @ slope_x.T
    dy = slope_y @ maps_UKHW @ blur_x.T
    return torch.stack([dx.square().sum(1), (dx * dy).sum(1), dy.square().sum(1)], 1)


def orientation(structure_U3HW: Tensor, center_U2: np.ndarray, std_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orientation (U,) in degrees and coherence (U,), 0 for none to 1 for a grating, around each field's center.

    Both are NaN where there is no place or no slope, and in frames one pixel wide, whose slopes are along one axis.

    Parameters
    ----------
    structure_U3HW : see ``structure``.
    center_U2, std_U : the field's place as x, y, and the standard deviation of its own envelope, px.
    """
    _, _, height, width = structure_U3HW.shape
    if min(height, width) == 1:
        return np.full(len(std_U), np.nan), np.full(len(std_U), np.nan)
    y_H, x_W = np.arange(height), np.arange(width)
    reach_U1 = AROUND * np.maximum(std_U, 1.0)[:, None]
    rows_UH = np.exp(-0.5 * ((y_H - center_U2[:, 1:]) / reach_U1 * 2) ** 2)
    columns_UW = np.exp(-0.5 * ((x_W - center_U2[:, :1]) / reach_U1 * 2) ** 2)
    xx, xy, yy = einsum(structure_U3HW.double().cpu().numpy(), rows_UH, columns_UW, "u c h w, u h, u w -> c u")
    wave_deg = np.rad2deg(0.5 * np.arctan2(2 * xy, xx - yy))  # direction in which the phase grows
    with np.errstate(divide="ignore", invalid="ignore"):
        coherence = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy)
    return np.where(np.isnan(coherence), np.nan, (90.0 - wave_deg) % 180.0), np.clip(coherence, 0.0, 1.0)


def turn_deg(one: np.ndarray, other: np.ndarray, whole: float) -> np.ndarray:
    """Smallest turn between two angles of which ``whole`` degrees are a whole turn."""
    return np.abs((one - other + whole / 2) % whole - whole / 2)


def orientation_error_deg(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Smallest turn between two orientations, 0 to 90."""
    return turn_deg(one, other, 180.0)


def energy(maps_UKHW: Tensor) -> Tensor:
    """Squares summed over the maps of each unit, (U, H, W)."""
    return maps_UKHW.square().sum(1)


def peak_over_chance(maps_UKHW: Tensor, chance_UKHW: Tensor) -> np.ndarray:
    """Signal to noise (U,): the largest energy of any pixel, over that of the maps that chance makes.

    1 is chance; a million is said of maps without any noise.
    """
    peak_U, chance_U = (energy(m).flatten(1).amax(1).double().cpu() for m in (maps_UKHW, chance_UKHW))
    return (peak_U / torch.maximum(chance_U, 1e-6 * peak_U).clamp_min(1e-300)).numpy()
