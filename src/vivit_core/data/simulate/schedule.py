"""Which trials a simulated recording has, before anything of it is simulated.

Shape letters: N trials.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vivit_core.data.recording.format import Trials


def schedule(numbers: Mapping[str, int], repeated: int, repeats: int, bins: int, rng: np.random.Generator) -> Trials:
    """Trials of equal length in random order, one after the other.

    Parameters
    ----------
    numbers : of the trials of each split that show a stimulus of their own.
    repeated, repeats : further test stimuli, and trials that show each of them.
    bins : of a trial.
    rng : of the order.
    """
    trials = [(f"{split}-{i}", split) for split, number in numbers.items() for i in range(number)]
    trials += [(f"repeat-{i}", "test") for i in range(repeated) for _ in range(repeats)]
    stimulus_N, split_N = np.array(trials)[rng.permutation(len(trials))].T
    start = np.arange(len(trials)) * bins
    return Trials(start=start, stop=start + bins, stimulus_id=stimulus_N, split=split_N)
