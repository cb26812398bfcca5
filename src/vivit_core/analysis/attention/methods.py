"""How the numbers of a look at attention are defined."""

from __future__ import annotations

METHODS = {
    "entropy_bits": "−Σ w log2 w of a query's weights w, registers included; of each head, a mean over clips, time "
    "steps and places. Blocks over time are read at queries that have their whole reach before them.",
    "distance_px": "distance between the centers of query and key, weighted by attention; a mean like entropy_bits. "
    "Registers are left out. distance_deg is the same in degrees.",
    "to_registers": "share of the attention that goes to registers.",
    "lag_ms": "time between query and key, weighted by attention; a mean like entropy_bits.",
    "profile": "attention by lag (lags_ms); sums to one.",
    "uniform": "the same numbers of a head that attends evenly to all that it may see.",
    "token_share": "var(Δ) / (var(Δ) + var(log r₀)) over a clip's bins: r₀ is a unit's rate with zeros in the place of "
    "what the blocks made of the tokens, and Δ what that changes in the logarithm of the rate. token_share_median is "
    "over units.",
    "cell_share": "the same of the attention among cells.",
    "rollout_by_step": "share of the rollout at each time step: attention multiplied through all blocks over time and "
    "space, with residual paths, from the newest output at place (Abnar & Zuidema 2020). rollout_to_registers ended at "
    "registers.",
    "beside_truth": "correlation of a unit's map of its surround with the simulator's true weights, over the places "
    "that ever count for the unit; a median over units. other_moments and other_units, which are chance: with the "
    "truth of other moments, and of other units.",
    "past_beside_truth": "the same of the profile of the past of units that adapt. in_common: where all of them have "
    "the mean of their weights. tau_s: time constant; tau_rank: rank correlation of it with true_tau_s over units. "
    "fall: by how much the log gain falls with the logarithm of the unit's own energy. told_apart: share of pairs in "
    "which the unit that adapts falls more than one that does not.",
    "faithful": "by how much the median unit's log rate moves (moved) where a tenth of the tokens, or of the cells "
    "beyond its own place, is masked: those that a map names, the nearest, random ones. above_random: the part of "
    "units for which the map's tenth counts for more than random ones.",
}
