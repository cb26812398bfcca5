"""What training starts from: shifts, places and time courses read off the training trials.

A Gaussian readout that starts far from its unit's receptive field has no gradient towards it, and temporal filters
that start far from the neurons' have to be found among noise. Both are cheap to estimate, so training does not have
to search for them.

Parts say themselves what they can begin from (``models.from_data``, ``Frontend.initialize``, ``Readout.initialize``).

Shape letters: U units, L lags, K temporal bases, P pixels of a side, C prototypes, F numbers of a field, E numbers of
eye position, N bins.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import einsum, rearrange
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from vivit_core.data.recording.reader import Recording
from vivit_core.models.cores.base import Core
from vivit_core.models.from_data import FieldsWanted, FromData
from vivit_core.models.frontends.base import Frontend
from vivit_core.models.ln import LN, LNReadout
from vivit_core.models.pairs import newest
from vivit_core.models.twin import Twin
from vivit_core.rf.eye_shift import shift_by_position
from vivit_core.rf.placing import CLEAR, unit_centers, varies
from vivit_core.rf.stretches import PIXELS, ShiftPx
from vivit_core.specs import Clips
from vivit_core.system.activity import spared
from vivit_core.system.kept import Kept
from vivit_core.system.threads import side_by_side
from vivit_core.training.baseline import MOST_FRAMES
from vivit_core.training.behavior_directions import begin_behavior_gains
from vivit_core.training.finer_filters import steps_for
from vivit_core.training.own_filters import Known, begin_own_filters

log = logging.getLogger(__name__)


DURATIONS_S = 0.2, 0.8  # shortest and longest kernels that place units; the first without a front end


TRIAL_SHARE = 3  # of the usual training trial, so that most of its bins have the past of a kernel: one in so many


SCALE_FRAMES = 256  # frames of each recording on which the stem's scale is set


SCALE_TRIALS = 16  # trials that are tried for them, where the first ones show no contrast


AT_ONCE = 4  # recordings, whose frames together are at most as many pixels as those of a single one may be


RESPONSE_TRIALS, RESPONSE_BINS = 64, 1024  # training trials, and bins of each, from which likelihoods start


def initialize_from_data(
    twin: Twin,
    recordings: Sequence[Recording],
    ln: LN | None,
    trained: Collection[str] = (),
    kept: Kept | None = None,
) -> None:
    """Let every shifter shift as the data show, every readout look at its unit's receptive field, and the core's first
    filters be like the units' own.

    Parameters
    ----------
    twin : changed in place.
    recordings : files of the twin's recordings. Only training trials tell where values start; validation trials say
        which units' own filters keep what was fitted, and are made finer.
    ln : the fitted baseline, whose receptive fields the first convolution takes over; None leaves it random.
    trained : parts of the twin that are trained already, and stay as they are: core, modulator.
    kept : where own filters are kept and looked up; None: nowhere.
    """
    core = twin.core
    frontend: Frontend | None = getattr(core, "frontend", None)
    steps = steps_for(sum(mean > 0 for r in recordings for mean in twin.specs[r.info.recording_id].unit_mean_counts))

    def start(recording: Recording) -> Started:
        return start_recording(twin, recording, ln, steps, kept)

    pixels = max(pixels_of(recording) for recording in recordings)
    started = side_by_side(start, recordings, max(1, min(AT_ONCE, int(PIXELS // pixels))))
    for recording, begun in zip(recordings, started, strict=True):  # in turn, as readouts may draw by chance
        spec = twin.specs[recording.info.recording_id]
        scale = np.array(twin.frame_size[::-1]) / np.array(spec.frame_shape[:0:-1])
        places_U2 = torch.as_tensor((begun.places_U2 + 0.5) * scale - 0.5)
        twin.readout(spec.recording_id).initialize(places_U2, torch.as_tensor(begun.clear_U))
    courses, clear = [each.courses_UL for each in started], [each.clear_U for each in started]
    if twin.own_filters is not None and kept is not None:
        if found := sum(each.found_before for each in started):
            spared()
        log.info(
            "own filters: %s; kept in %s",
            f"{found} of {len(recordings)} recordings' were found before" if found else "found",
            kept.folder,
        )
    if "modulator" not in trained:
        begin_behavior_gains(twin, recordings)
    if "core" in trained:
        return
    if core.left_out:
        rank_zero_warn(f"tokens hold no energies (model/energy): {core.left_out}")
    clear_U = torch.as_tensor(np.concatenate(clear))
    if {twin.specs[r.info.recording_id].frame_shape[0] for r in recordings} != {1}:  # LN sees gray
        ln = None
    if frontend is not None and frontend.bases:
        filters_KL = principal_courses(np.concatenate(courses), frontend.bases)
        if filters_KL is not None:
            frontend.initialize(torch.as_tensor(filters_KL))
    readouts = [] if ln is None else [ln.readout(recording.info.recording_id) for recording in recordings]
    for part in core.modules():
        if not isinstance(part, FromData):
            continue
        if not isinstance(part, Core) and frontend is None:
            continue
        before = None if isinstance(part, Core) else frontend  # what stands between the video and the part
        if readouts and (fields := typical_fields(part.fields_wanted(), before, readouts, clear_U)) is not None:
            part.initialize(fields)
        with torch.no_grad():
            part.normalize(
                shown if before is None else before(shown) for shown in (contrast(twin, r) for r in recordings)
            )


def pixels_of(recording: Recording) -> int:
    """Of the frames in which a recording's units are looked for."""
    _, height, width = recording.info.frame_shape
    return max(1, min(MOST_FRAMES, recording.info.trials.of("train").n_bins)) * height * width


class Started(NamedTuple):
    """What a recording's training trials tell.

    Attributes
    ----------
    places_U2 : where units look, x and y in the file's pixels.
    courses_UL : their time courses, those of clear ones larger, of as many lags as the front end has.
    clear_U : how clear their places are.
    found_before : whether their own filters were kept.
    """

    places_U2: np.ndarray
    courses_UL: np.ndarray
    clear_U: np.ndarray
    found_before: bool


def start_recording(twin: Twin, recording: Recording, ln: LN | None, steps: int, kept: Kept | None) -> Started:
    """Let what a recording has for itself start from its data, all but the readout. Draws nothing by chance."""
    frontend: Frontend | None = getattr(twin.core, "frontend", None)
    spec = twin.specs[recording.info.recording_id]
    duration_s = placing_s(frontend, recording, spec.frame_rate_hz)
    shift_px = start_shift(twin, recording, duration_s)
    centers_U2, courses_UL, snr_U = unit_centers(
        recording, spec, duration_s=duration_s, max_frames=MOST_FRAMES, shift_px=shift_px
    )
    counted = responses(recording)
    twin.likelihood(spec.recording_id).initialize(*counted)
    if twin.observes is not None:
        twin.history(spec.recording_id).initialize(*counted)
    clear_U = np.clip(snr_U - 1.0, 0.0, 3.0)
    clear_courses_UL = courses_UL * np.sqrt(clear_U)[:, None]
    found = False
    if twin.own_filters is not None:
        linear = None if ln is None else ln.readout(spec.recording_id)
        # Contrast energy placed them, or nothing did so clearly.
        hidden = np.flatnonzero((~courses_UL.any(1) | (snr_U < CLEAR)) & (snr_U > 0)).tolist()
        both_2L = principal_courses(clear_courses_UL, 2)
        found = begin_own_filters(twin, recording, Known(linear, hidden, centers_U2, both_2L), steps, kept)
    if (own := twin.own_filter(spec.recording_id)) is not None:
        finer_U2 = own.places().cpu().numpy()  # than an average's
        centers_U2 = np.where(np.isfinite(finer_U2), finer_U2, centers_U2)
    if frontend is not None:
        clear_courses_UL = newest(torch.as_tensor(clear_courses_UL), frontend.lags).numpy()
    return Started(centers_U2, clear_courses_UL, clear_U, found)


def placing_s(frontend: Frontend | None, recording: Recording, rate_hz: float) -> float:
    """Length of the kernels that place units, s: what the front end sees, where that is as long as responses take and
    trials are long enough."""
    shortest, longest = DURATIONS_S
    wished_s = shortest if frontend is None else min(max(frontend.lags / rate_hz, shortest), longest)
    train = recording.info.trials.of("train")
    usual = int(np.median(train.stop - train.start)) if len(train.start) else 0
    # As many lags as courses are read off them, but no kernel that half of the bins of a trial do not have before them.
    least = max(2, 0 if frontend is None else min(frontend.bases, usual // 2))
    return max(least, min(round(wished_s * rate_hz), usual // TRIAL_SHARE)) / rate_hz


def start_shift(twin: Twin, recording: Recording, duration_s: float) -> ShiftPx | None:
    """Let a recording's shifter begin with the shift that its data show, and tell it; None for a twin without."""
    spec = twin.specs[recording.info.recording_id]
    if twin.shifters is None:
        return None
    columns = twin.eyes[spec.recording_id]
    slope_E2 = shift_by_position(recording, spec, columns, duration_s=duration_s, max_frames=MOST_FRAMES)
    twin.shifter(spec.recording_id).initialize(torch.as_tensor(slope_E2))
    return lambda start, stop: twin.shift_px(spec.recording_id, recording.behavior(start, stop, spec.behavior))


def responses(recording: Recording) -> tuple[Tensor, Tensor]:
    """Counts and which are valid, (N, U) each, of training trials spread over the recording."""
    trials = recording.info.trials.of("train")
    every = -(-len(trials.start) // RESPONSE_TRIALS)
    spans = [(a, min(b, a + RESPONSE_BINS)) for a, b in zip(trials.start[::every], trials.stop[::every], strict=True)]
    found = [(recording.counts(int(a), int(b)), recording.valid(int(a), int(b))) for a, b in spans]
    counts_NU, valid_NU = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return torch.as_tensor(counts_NU), torch.as_tensor(valid_NU)


def typical_fields(
    wanted: FieldsWanted | None, before: Frontend | None, readouts: Sequence[LNReadout], clear_U: Tensor
) -> Tensor | None:
    """The units' typical fields (F, K, P, P) that a part can take over; None where it takes none, or no unit has a
    clear one.

    Parameters
    ----------
    wanted : what the part says.
    before : the front end whose filters the part sees; None where it sees the video itself.
    readouts : LN's of all recordings.
    clear_U : how clear the fields of their units are.
    """
    if wanted is None:
        return None
    if wanted.lags is not None:
        filters_KL = torch.eye(wanted.lags) if before is None else None
    else:
        filters_KL = None if before is None else before.filters()
    if filters_KL is None:
        return None
    fields = torch.cat([fields_of(readout, filters_KL, wanted.side) for readout in readouts])
    found = prototypes(fields, clear_U, wanted.number)
    return found if len(found) else None


def principal_courses(courses_UL: np.ndarray, bases: int) -> np.ndarray | None:
    """The first ``bases`` singular vectors (K, L) of the units' time courses; None where fewer are there."""
    if np.linalg.matrix_rank(courses_UL) < bases:
        return None
    _, _, vectors_LL = np.linalg.svd(courses_UL, full_matrices=False)
    return vectors_LL[:bases].astype(np.float32)


def fields_of(readout: LNReadout, basis_KL: Tensor, kernel: int) -> Tensor:
    """Each unit's filter in the front end's basis: (U, K, P, P), unit norm, at most ``kernel`` pixels wide."""
    lags = basis_KL.shape[1]
    time_UL = readout.time_UL.detach()[:, -lags:]
    if time_UL.shape[1] < lags:
        time_UL = torch.nn.functional.pad(time_UL, (lags - time_UL.shape[1], 0))
    cut = max(0, (readout.patch - kernel) // 2)
    space_UPP = rearrange(readout.space_UP.detach(), "u (p q) -> u p q", p=readout.patch)[
        :, cut : readout.patch - cut, cut : readout.patch - cut
    ]
    fields = einsum(time_UL @ torch.linalg.pinv(basis_KL), space_UPP, "u k, u p q -> u k p q")
    return fields / fields.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


def prototypes(fields_UKPP: Tensor, weight_U: Tensor, number: int) -> Tensor:
    """Typical receptive fields: spherical k-means that takes a field and its negative for the same.

    Parameters
    ----------
    fields_UKPP : unit-norm fields.
    weight_U : how much each counts; those of zero weight are left out.
    number : of prototypes at most.
    """
    weight_U = weight_U.float()
    x_UF = fields_UKPP.flatten(1)[weight_U > 0]
    weight_U = weight_U[weight_U > 0]
    number = min(number, len(x_UF))
    if number == 0:
        return fields_UKPP[:0]
    # Each next center is the field that those before explain worst; deterministic.
    centers_CF = x_UF[weight_U.argmax()][None]
    for _ in range(number - 1):
        unexplained_U = 1 - (x_UF @ centers_CF.T).abs().amax(1).clamp(max=1) ** 2
        centers_CF = torch.cat([centers_CF, x_UF[(weight_U * unexplained_U).argmax()][None]])
    for _ in range(5):
        likeness_UC = x_UF @ centers_CF.T
        nearest_U = likeness_UC.abs().argmax(1)
        sign_U = likeness_UC.gather(1, nearest_U[:, None])[:, 0].sign()
        total_CF = torch.zeros_like(centers_CF).index_add(0, nearest_U, x_UF * (sign_U * weight_U)[:, None])
        norm_C1 = total_CF.norm(dim=1, keepdim=True)
        centers_CF = torch.where(norm_C1 > 1e-6, total_CF / norm_C1.clamp_min(1e-6), centers_CF)
    return centers_CF.view(number, *fields_UKPP.shape[1:])


def contrast(twin: Twin, recording: Recording) -> Tensor:
    """Normalized frames (1, C, T, H, W) of one training trial: of the middle one, or the nearest to it that shows more
    than one gray."""
    spec = twin.specs[recording.info.recording_id]
    trials = recording.info.trials.of("train")
    middle = len(trials.start) // 2

    def shown(trial: int) -> Tensor:
        start = int(trials.start[trial])
        frames = recording.frames(start, min(int(trials.stop[trial]), start + SCALE_FRAMES))
        behavior = torch.as_tensor(recording.behavior(start, start + frames.shape[1], spec.behavior))[None]
        return twin.adapt(spec.recording_id, Clips(frames=torch.as_tensor(frames)[None], behavior=behavior))[0]

    around = sorted(range(len(trials.start)), key=lambda trial: abs(trial - middle))[:SCALE_TRIALS]
    found = (shown(trial) for trial in around)
    return next((x for x in found if varies(x.flatten())), shown(middle))
