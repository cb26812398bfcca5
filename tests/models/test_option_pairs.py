"""Every option of each group beside every option of every other group, in as few twins as hold all pairs."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pytest
from tiny_models import (
    ABSOLUTE,
    ATTENTION,
    BASIS,
    ENERGY,
    GAIN,
    GRU,
    LIKELIHOOD,
    MODULATORS,
    OWN_FILTER,
    READOUT,
    READOUTS_UNDER_CONTRACT,
    RELATIVE,
    RESIDUAL_STEM,
    SHIFTERS,
    STEM,
    TUBELET,
    WINDOW,
    vivit,
)

from vivit_core.testing import twins


def of(place: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"vivit_core.models.{place}", **settings}


HISTORY = {"bases": 3, "lags": 6, "shown": 0.75}
GROUPS: dict[str, dict[str, Any]] = {
    "attention": {
        "rotary": ATTENTION, "absolute": ABSOLUTE | {"steps": 40}, "relative_bias": RELATIVE, "window": WINDOW,
    },
    "blocks": {"factorized": "factorized", "joint": "joint"},
    "tokenizer": {
        "tubelet": TUBELET,
        "tubelet, overlapping": TUBELET | {"patch_size": [5, 8, 6], "token_stride": [3, 4, 2]},
        "stem": STEM,
        "residual_stem": RESIDUAL_STEM,
        "residual_stem, overlapping": RESIDUAL_STEM | {"patch_size": [8, 8, 16], "token_stride": [4, 4, 8]},
    },
    "frontend": {"none": None, "temporal_basis": BASIS},
    "energy": {"none": None, "oriented": ENERGY},
    "own_filter": {"none": None, "fitted": OWN_FILTER},
    "modulator": {"none": None, "behavior_gain": GAIN, "convgru": GRU, **MODULATORS},
    "history": {
        "none": None,
        "spikes": of("histories.spikes.OwnSpikes", **HISTORY),
        "population": of("histories.population.Population", **HISTORY, rank=2),
    },
    "shifter": {"none": None, **SHIFTERS},
    "window": {"none": None, "16": 16},
    "readout": {"gaussian": READOUT, **READOUTS_UNDER_CONTRACT},
    "likelihood": {
        "poisson": LIKELIHOOD,
        "negative_binomial": of("likelihoods.negative_binomial.NegativeBinomial", output="softplus", dispersion=0.1),
        "gaussian": of("likelihoods.gaussian.Gaussian", output="softplus", stabilized=True),
        "zero_inflated_gamma": of("likelihoods.zero_inflated_gamma.ZeroInflatedGamma", output="softplus", floor=0.01),
        "poisson, and a shared gain": LIKELIHOOD,  # which is made for Poisson counts
    },
}  # fmt: skip
LATENT = of("latents.shared_gain.SharedGain", rank=2, hold=8, memory=4.0, std=0.3)
Chosen = dict[str, str]


def pairs_in(chosen: Chosen) -> set[frozenset[tuple[str, str]]]:
    return {frozenset(pair) for pair in combinations(chosen.items(), 2)}


def covering(tries: int = 30) -> list[Chosen]:
    """Choices in which each pair of options occurs, found greedily; the same in every process, so no set has a say."""
    rng, names = random.Random(0), {group: list(options) for group, options in GROUPS.items()}
    open_pairs = {frozenset({(a, x), (b, y)}) for a, b in combinations(names, 2) for x in names[a] for y in names[b]}
    found: list[Chosen] = []
    while open_pairs:
        drawn = [{group: rng.choice(options) for group, options in names.items()} for _ in range(tries)]
        first = dict(sorted(min(open_pairs, key=sorted)))  # so that none is left over for long
        drawn = [own | first for own in drawn]
        for own in drawn:
            for group in sorted((group for group in names if group not in first), key=lambda _: rng.random()):
                own[group] = max(names[group], key=lambda x: len(pairs_in(own | {group: x}) & open_pairs))
        best = max(drawn, key=lambda own: len(pairs_in(own) & open_pairs))
        open_pairs -= pairs_in(best)
        found.append(best)
    return found


TWINS = covering()


def test_all_pairs_are_there() -> None:
    seen = set().union(*map(pairs_in, TWINS))
    assert len(seen) == sum(len(GROUPS[a]) * len(GROUPS[b]) for a, b in combinations(GROUPS, 2))
    assert len(TWINS) <= 45


@pytest.mark.parametrize("chosen", TWINS, ids=lambda chosen: ", ".join(chosen.values()))
def test_options_keep_the_contract_together(chosen: Chosen) -> None:
    parts = {group: GROUPS[group][option] for group, option in chosen.items()}
    readout, likelihood = parts.pop("readout"), parts.pop("likelihood")
    latent = LATENT if chosen["likelihood"].endswith("gain") else None
    model = vivit(**parts, latent=latent, embedding_dim=48, spatial_depth=1, temporal_depth=1)
    made = twins.Parts(model, readout, likelihood)
    twins.check_geometries(made, [twins.FRAME])
    twins.check_no_look_ahead(made)
    twins.check_gradients(made)
    twins.check_round_trip(made)
    twins.check_stream(made, bins=33)
    twins.check_checkpointing(made)
