"""How the numbers of an evaluation are defined."""

from __future__ import annotations

from vivit_core.analysis.bootstrap import FEWEST, INTERVAL
from vivit_core.analysis.evaluate.context import PIECE_S, RESAMPLES
from vivit_core.metrics.repeats import RELIABLE
from vivit_core.metrics.unit_scores import all_metrics

METHODS = {  # what units.csv and summary.json hold, besides the metrics
    "weights": "a hash of the weights that were scored; task=publish knows by it whose scores these are.",
    "bps_low": f"and bps_high: where {INTERVAL[1] - INTERVAL[0]:g} % of {RESAMPLES} resamplings of the recording's "
    f"stimuli put a unit's bits per spike, in at least {FEWEST} pieces of at most {PIECE_S:g} s, repeats together. A "
    f"unit that spikes in fewer than {FEWEST} pieces has none.",
    "local_bps": "the same of the best rate that an observer could say who knows the unit's own field, and not its "
    "context; in simulated recordings with context alone.",
    "contextual_fraction": "(bps − local_bps) / (truth_bps − local_bps): the part of context's information that is "
    "found. Of several units, the ratio of the sums over the units with context. Its interval holds "
    f"{INTERVAL[1] - INTERVAL[0]:g} % of {RESAMPLES} resamplings of each recording's stimuli, in at least {FEWEST} "
    f"pieces of at most {PIECE_S:g} s, repeats together; recordings that show the same frames are drawn alike.",
    "truth_bps": "the oracle: bits per spike of the simulation's true rate, without its shared noise.",
    "knowable_fraction": "of a unit bps / truth_bps; in means Σ bps / Σ truth_bps over units with a positive "
    "truth_bps.",
    "corr_to_average": "Pearson correlation of the mean prediction and the mean count over repeats, over bins "
    "with at least two valid repeats. Few repeats leave noise in the mean, which lowers it. 0 where the prediction is "
    "constant.",
    "explainable_variance": "S / (S + mean s²), S the signal power: the covariance over bins of counts in different "
    "repeats of the stimulus, unbiased for any number of repeats and noise of any speed (for one stimulus and equal "
    "numbers of repeats that of Sahani and Linden 2003); s² the unbiased variance over repeats.",
    "normalized_corr": "CC_norm of Schoppe et al. 2016: covariance of prediction and count in different repeats over "
    "√(the prediction's own · S), so that neither few repeats lower it nor behavior that a repeat's prediction and "
    "count share raises it. None where S ≤ 0, 0 where the prediction is constant. Dividing by the root of a noisy S "
    f"biases it upwards, so means are over the units whose S is more than {RELIABLE:g} standard errors above zero "
    "(signal_to_error).",
    "center_error_px": "distance of the readout's center from the true receptive field's, in pixels of the "
    "recording's own frame; LN's is the center of gravity of its squared spatial filter.",
    "border_px": "distance of the readout's center from the nearest border of the recording's own frame, in pixels.",
    "bps_mean_of_subjects": "the mean over subjects of their bps_mean, so that one with many units counts no more. "
    "None where no recording names its subject.",
    "trials": "those of the split that have a scored bin; trials_left_out counts those that data.most_trials left out.",
    "missing_behavior_fraction": "share of the scored bins' numbers of behavior that are missing (NaN) in the file; "
    "their mean over the training trials stands in.",
    "attention": "the same bins predicted without what attention finds. held: the blocks' output at its mean over "
    "a batch of clips of each recording, their times and places. unmixed: the same of each attention's output, so that "
    "the blocks know of each token by itself. uniform: every token attends alike to all that it may attend to. "
    "own_place: to no other place. newest: to no earlier time.",
    "history": "the same bins predicted where the counts of earlier bins of the trial are observed, of the own unit or "
    "of all of the recording's units, as history.observed says. The bin itself and later ones never are. All other "
    "scores are without (observed: none), as LN's and the oracle's are. What the stimulus tells and what neurons tell "
    "of each other are two questions: compare like with like.",
    "noise_correlations": "of a twin with model/latent, over pairs of units of a recording: counts less the "
    "prediction, summed over windows of window_bins, in which the latent stands still, and correlated (measured); the "
    "same as the latent's covariance and the predicted rates say (predicted). correlation is theirs over pairs, and of "
    "several recordings the mean. joint_bits: bits per spike that all counts cost less together than one by one.",
    "context_gain": "bits per spike that are lost where nothing is mixed (unmixed): what tokens take in of each other, "
    "and not what blocks know of each by itself. Intervals are those of contextual_fraction.",
    "behavior": "the same bins predicted with another behavior in the place of the animal's. shuffled: "
    "the time course of another trial, of another stimulus where there is one. none: the "
    "training trials' mean. frozen_gaze: eye_ behaviors held at their trial's mean, their "
    "velocities zero. Frames stay as they were: where they move with the gaze, the model "
    "still sees the movement.",
}


def methods() -> dict[str, str]:
    """How each number is defined."""
    return {metric.name: metric.method for metric in all_metrics()} | METHODS
