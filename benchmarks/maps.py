"""Where any twin's rates depend on the frame, beside the simulator's true weights: the gradient by pixels.

    python benchmarks/maps.py CHECKPOINT RECORDING [--moments 8]

``task=attention`` sets attention's own maps beside the truth. A ResNet has none; but any twin's log rate has a gradient
by the frames of the last quarter of a second. Its size times the contrast, summed over these frames and over the pixels
of each patch of the truth, is a map too. Prints for each kind of context the median over units of the correlation with
the truth, with the truth of other moments, and with that of the kind's other units, as ``task=attention`` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from vivit_core.analysis.attention.surrounds import KINDS, OWN_PX, beside_truth, median
from vivit_core.analysis.recording import load_recording
from vivit_core.cli.trained import load_trained
from vivit_core.data.recording.reader import Recording
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips

SECONDS = 0.25  # of frames that a map is summed over
BEFORE = 0.5  # seconds of frames that a clip has before


def pixel_maps(twin: Twin, recording: Recording, now: int, units: np.ndarray) -> np.ndarray:
    """(units, H, W) at a bin."""
    name, trials = recording.info.recording_id, recording.info.trials
    own = twin.specs[name]
    back = round(SECONDS * own.frame_rate_hz)
    start = max(int(trials.start[trials.start <= now].max()), now - back - round(BEFORE * own.frame_rate_hz))
    frames = torch.as_tensor(recording.frames(start, now + 1)).float()[None].requires_grad_()
    behavior = torch.as_tensor(recording.behavior(start, now + 1, own.behavior))[None]
    rates = twin({name: Clips(frames=frames, behavior=behavior)})[name][0].log()
    found = []
    for unit in units.tolist():
        (by,) = torch.autograd.grad(rates[unit], frames, retain_graph=True)
        counted = (by * (frames.detach() - own.pixel_mean))[0, :, -back:].sum(0)
        found.append(counted.abs().sum(0).numpy())
    return np.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--moments", type=int, default=8)
    asked = parser.parse_args()
    trained = load_trained(asked.checkpoint)
    twin, recording = trained.model, load_recording(asked.recording, asked.checkpoint)
    assert isinstance(twin, Twin)
    twin.eval().requires_grad_(False)
    twin.predict = "last"
    truth, kinds = recording.context_weights(), recording.unit_column("context")
    if truth is None or kinds is None or not recording.clock.same:
        raise SystemExit(f"{asked.recording} does not say at the twin's rate where its units' context truly lies")
    moments = np.linspace(0, len(truth.bins_M) - 1, min(asked.moments, len(truth.bins_M))).astype(int)
    of = np.flatnonzero(np.isin(kinds, list(KINDS)))
    _, height, width = recording.info.frame_shape
    row_of, column_of = (
        np.abs(np.arange(size)[:, None] - at).argmin(1) for size, at in ((height, truth.y_px_R), (width, truth.x_px_C))
    )
    patch = row_of[:, None] * len(truth.x_px_C) + column_of
    y, x = np.mgrid[:height, :width]
    center_U2 = twin.centers_px(recording.info.recording_id)[of]
    off_UHW = np.hypot(x - center_U2[:, 0, None, None], y - center_U2[:, 1, None, None]) > OWN_PX
    made = []
    for moment in moments:
        pixels = pixel_maps(twin, recording, int(truth.bins_M[moment]), of) * off_UHW
        patches = [np.bincount(patch.ravel(), own.ravel(), len(truth.y_px_R) * len(truth.x_px_C)) for own in pixels]
        made.append(np.reshape(patches, (len(of), len(truth.y_px_R), len(truth.x_px_C))))
    for kind in KINDS:
        mine = np.flatnonzero(kinds[of] == kind)
        whole_NMQC = truth.weights_UMRC[of[mine]]
        found = beside_truth(np.stack(made, 1)[mine], whole_NMQC[:, moments], np.asarray((whole_NMQC > 0).any(1)))
        told = [median(values) for values in found]
        words = ["  none" if value is None else f"{value:6.3f}" for value in told]
        print(f"{kind}: {len(mine)} units, with the truth {words[0]}, other moments {words[1]}, other units {words[2]}")


if __name__ == "__main__":
    main()
