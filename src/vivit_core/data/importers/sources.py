"""What several importers do with a source: give its trials to train, val and test."""

from __future__ import annotations

import numpy as np


def split_by_stimulus(
    stimulus_id: np.ndarray, val_fraction: float, test_fraction: float, seed: int, remedy: str
) -> np.ndarray:
    """Give each trial to train, val or test; all repeats of a stimulus go to the same.

    Parameters
    ----------
    stimulus_id : (N,), equal for repeats.
    val_fraction, test_fraction : of the distinct stimuli, rounded, but at least one where the fraction is not 0.
    seed : of the draw.
    remedy : what the importer's user can do where there are too few stimuli.

    Returns
    -------
    (N,) array of "train", "val", "test".

    Raises
    ------
    ValueError
        Where a fraction is negative, or nothing is left for training.
    """
    stimuli = list(dict.fromkeys(np.asarray(stimulus_id).tolist()))
    if val_fraction < 0 or test_fraction < 0:
        raise ValueError(f"val_fraction {val_fraction} and test_fraction {test_fraction} must not be negative")
    n_val, n_test = (max(1, round(f * len(stimuli))) if f > 0 else 0 for f in (val_fraction, test_fraction))
    if n_val + n_test >= len(stimuli):
        raise ValueError(
            f"{len(stimuli)} distinct stimuli cannot give {n_val} to val, {n_test} to test and some to train; {remedy}"
        )
    order = np.random.default_rng(seed).permutation(len(stimuli))
    of = dict.fromkeys(stimuli, "train")
    of |= {stimuli[i]: "val" for i in order[:n_val]} | {stimuli[i]: "test" for i in order[n_val : n_val + n_test]}
    return np.array([of[s] for s in np.asarray(stimulus_id).tolist()])
