"""Which pair of filters a unit's energy is of: what a complex cell, whose average stimulus is gray, has for a field.

Shape letters: T bins, H W pixels, U units, M members of a bank, P pixels of a side, L lags, R responses of a pair, E
energies of a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vivit_core.models.pairs import ENERGIES, Pairs, energies
from vivit_core.models.solving import solve_positive
from vivit_core.system.threads import a_core_each, go_on

SOME = 3  # one trial in so many tells one place from the next
RIDGE = 1e-3  # in units of a feature's variance


def energy_pairs(
    trials: Iterable[tuple[Tensor, Tensor]],
    wanted: Sequence[int],
    centers_U2: Tensor,
    courses_2L: Tensor,
    bank_M2PP: Tensor,
) -> Pairs:
    """The member of a bank whose energies, each normalized by their sum, explain most of a unit's counts.

    All members are tried at the unit's center, the best one at the pixels around, and all at the best of these.

    Parameters
    ----------
    trials : contrast (T, H, W) in any precision, and counts less their mean (T, U), zero where they do not count.
    wanted : which units are looked at; the others have no pair.
    centers_U2 : x and y, pixels, inside the frame.
    courses_2L : two time courses, oldest lag first.
    bank_M2PP : see :func:`bank_of`.
    """
    units = len(centers_U2)
    shown = list(trials)
    found = Pairs(torch.full((units,), -1), centers_U2.round().long())

    def find(unit: int) -> None:
        go_on()
        center = found.center_U2[unit]
        best, gain = best_at(unit, center)
        if not gain > 0:
            return
        member = bank_M2PP[best : best + 1]
        places = [center + torch.tensor([dx, dy]) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        scores = torch.cat([explained(shown[::SOME], unit, place, courses_2L, member) for place in places])
        place = places[int(scores.argmax())]
        if not torch.equal(place, center):  # where another member may be the best
            best, _ = best_at(unit, place)
        found.center_U2[unit], found.member_U[unit] = place, best

    def best_at(unit: int, place: Tensor) -> tuple[int, float]:
        gain_M = explained(shown, unit, place, courses_2L, bank_M2PP)
        return int(gain_M.argmax()), float(gain_M.max())

    with a_core_each() as pool:
        for _ in pool.map(find, wanted):
            pass
    return found


def explained(
    trials: Sequence[tuple[Tensor, Tensor]], unit: int, place: Tensor, courses_2L: Tensor, bank_M2PP: Tensor
) -> Tensor:
    """How much of a unit's variance each member explains at a place, (M,). Beyond the frame, and before a trial, there
    is no contrast."""
    members, _, side, _ = bank_M2PP.shape
    filters = bank_M2PP.flatten(2).permute(2, 0, 1).flatten(1)  # (P·P, M · 2)
    (x, y), half, before = place.tolist(), side // 2, courses_2L.shape[1] - 1
    top, left = max(0, half - y), max(0, half - x)
    information, pull = torch.zeros(members, ENERGIES, ENERGIES), torch.zeros(members, ENERGIES)
    total, count, rest, seen_energy = torch.zeros(members, ENERGIES), 0, 0.0, list[Tensor]()
    for contrast_THW, _ in trials:
        cut = contrast_THW[:, max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].float()
        cut = F.pad(cut, (left, side - left - cut.shape[2], top, side - top - cut.shape[1], before, 0))
        seen = (cut.flatten(1) @ filters).T[:, None]
        responses = F.conv1d(seen, courses_2L[:, None]).unflatten(0, (members, 2))  # (M, even and odd, course, T)
        seen_energy.append(energies(responses.transpose(1, 2).flatten(1, 2).transpose(1, 2)).transpose(1, 2))
        count += len(contrast_THW)
    # By what is usual in all of them: a gray trial knows nothing of it.
    scale_M = sum(energy_MET[:, :2].sum((1, 2)) for energy_MET in seen_energy) / max(1, count)
    scale_M11 = torch.as_tensor(scale_M).clamp_min(1e-12)[:, None, None]
    for energy_MET, (_, rest_TU) in zip(seen_energy, trials, strict=True):
        energy_MET = energy_MET / scale_M11
        z_MET = energy_MET / (0.5 + energy_MET[:, :2].sum(1, keepdim=True))
        information += z_MET @ z_MET.transpose(1, 2)
        pull += z_MET @ rest_TU[:, unit]
        total += z_MET.sum(2)
        rest += float(rest_TU[:, unit].sum())
    information -= total[:, :, None] * total[:, None] / count
    pull -= total * rest / count
    ridge_M = RIDGE * information.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-9)
    information += torch.diag_embed(ridge_M[:, None].expand(-1, ENERGIES))
    return (pull * solve_positive(information, pull[..., None])[..., 0]).sum(1)
