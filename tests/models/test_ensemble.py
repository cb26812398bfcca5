"""An ensemble keeps what every predictor keeps, and is the mean of its members."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import BASIS, LN, STEM, TUBELET, batch, clips, factorized, resnet, spec, twin, vivit

from vivit_core import load_twin
from vivit_core.analysis.attention.blocks import attending_core
from vivit_core.analysis.screen import Screen
from vivit_core.models.ensemble import Ensemble
from vivit_core.models.ln import LN as LNModel
from vivit_core.models.load import checkpoint_of, load_predictor
from vivit_core.models.predictor import Predictor
from vivit_core.models.published import read_published, write_published
from vivit_core.models.streamed_step import export_step
from vivit_core.parts.build import build
from vivit_core.training.transfer import adopted_model

NB = {
    "_target_": "vivit_core.models.likelihoods.negative_binomial.NegativeBinomial",
    "output": "exp",
    "dispersion": 0.5,
}
SPECS = (spec("a"), spec("b", units=3))


def ln(*specs: Any) -> LNModel:
    made = build("baseline", LN | {"patch": 5}, recordings=list(specs), predict="all")
    for own in made.readouts:
        torch.nn.init.normal_(own.space_UP, std=0.1)
        torch.nn.init.normal_(own.time_UL, std=0.3)
    return made


def other(model: dict[str, Any], seed: int, *specs: Any, **arguments: Any) -> Predictor:
    """A twin with weights of its own."""
    made = twin(model, *specs, **arguments)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made


def members() -> list[Predictor]:
    """Of different kinds, whose tokens have different lengths, on two recordings; one normalizes in its own way."""
    own = tuple(dataclasses.replace(one, pixel_mean=100.0, pixel_std=40.0) for one in SPECS)
    cut = TUBELET | {"patch_size": [3, 4, 4]}
    return [
        other(vivit(window=8), 1, *SPECS),
        other(resnet(tokenizer=STEM, frontend=BASIS), 2, *own),
        other(vivit(tokenizer=cut, modulator=None), 3, *SPECS),
        ln(*SPECS),
    ]


def test_what_it_predicts_is_what_its_members_predict() -> None:
    """A screen asks for all bins of a model that was trained to predict the last one."""
    both = Ensemble([other(vivit(), seed, *SPECS, predict="last") for seed in (1, 2)]).eval()
    assert both.predict == "last" and both(batch(*SPECS))["a"].ndim == 2
    shown = Screen(both, "a", (0.0, 255.0))
    assert shown.rates(torch.zeros(2, 20, *shown.frame_size)).shape == (2, 20, 5)
    assert [both.predict, *(member.predict for member in both.each)] == ["last"] * 3


def test_it_predicts_the_mean_and_says_how_far_members_lie_apart() -> None:
    parts = members()
    both = Ensemble(parts).eval()
    shown = batch(*SPECS)
    with torch.no_grad():
        made = both(shown)
        for name in ("a", "b"):
            expected = torch.stack([part(shown)[name] for part in parts]).mean(0)
            torch.testing.assert_close(made[name], expected)
    frames, behavior = shown["b"]["frames"][0].numpy(), shown["b"]["behavior"][0].numpy()
    rates = np.stack([part.rates("b", frames, behavior) for part in parts])
    np.testing.assert_allclose(both.rates("b", frames, behavior), rates.mean(0), rtol=1e-5)
    np.testing.assert_allclose(both.spread("b", frames, behavior), rates.std(0), rtol=1e-5)
    assert both.spread("b", frames, behavior).min() > 0
    with pytest.raises(ValueError, match="a spread is of a video at once; give frames and behavior as arrays"):
        both.spread("b", iter([frames]), iter([behavior]))
    places = np.stack([part.centers_px("a") for part in parts])
    np.testing.assert_allclose(both.centers_px("a"), places.mean(0))
    assert both.causal and both.sees_behavior and both.kind == "Ensemble of 2 ViViT and 1 ResNet and 1 LN"
    assert not Ensemble([parts[0], other(vivit(causal=False), 4, *SPECS)]).causal


def test_its_stream_is_its_clip() -> None:
    """Of 17 bins, which are no multiple of tokens of 3 and of 4 frames."""
    both = Ensemble(members())
    shown = clips(SPECS[0], count=1)
    frames, behavior = shown["frames"][0].numpy(), shown["behavior"][0].numpy()
    whole = both.rates("a", frames, behavior)
    stream = both.stream("a", clip_length=frames.shape[1])
    streamed = stream.run(frames, behavior)
    assert np.abs(streamed - whole).max() <= 1e-4 * whole.max() and stream.bins == 17
    assert both.stride % 3 == 0 == both.stride % both.each[0].stride


def test_it_is_exported_like_a_twin() -> None:
    both = Ensemble([other(factorized(), 1), ln(spec())])
    made = export_step(both, "a")  # which compares the steps with the stream
    assert len(made.programs) == both.stride


def test_one_file_gives_it_back(tmp_path: Path) -> None:
    both = Ensemble(members()).eval()
    torch.save(checkpoint_of(both), tmp_path / "both.ckpt")
    again = load_twin(tmp_path / "both.ckpt")
    assert isinstance(again, Ensemble) and list(again.specs) == ["a", "b"]
    shown = batch(*SPECS)
    with torch.no_grad():
        for name, counts in both(shown).items():
            torch.testing.assert_close(again(shown)[name], counts, rtol=0, atol=0)
    (tmp_path / "folder").mkdir()
    write_published(tmp_path / "folder", both, None, None)
    assert isinstance(load_predictor(tmp_path / "folder"), Ensemble)
    description = read_published(tmp_path / "folder")["twin"]

    def refused(match: str, **changed: Any) -> None:
        content = checkpoint_of(both) | {"twin": description | changed}
        torch.save(content, tmp_path / "bad.ckpt")
        with pytest.raises(ValueError, match=match):
            load_twin(tmp_path / "bad.ckpt")

    refused("no more", more=1)
    refused("none of which is an ensemble", members=[description | {"recordings": []}] * 2)
    refused("no list of dicts", members=[1, 2])
    refused("tensors differ", members=description["members"][:2])
    deep = {**description["members"][0], "model": description["members"][0]["model"] | {"spatial_depth": 10**7}}
    refused(r"200000\d\d blocks, but \d+ tensors", members=[deep, deep])


def test_what_makes_no_ensemble_is_refused_by_name() -> None:
    one = twin(vivit(modulator=None), spec("a"))
    for wrong, said in {
        twin(vivit(modulator=None), *SPECS): "member 2 knows b beside the recordings of the first",
        twin(vivit(modulator=None), spec("c")): "member 2 does not know a and knows c",
        twin(vivit(modulator=None), spec("a", units=4)): r"differ in their units \(a4 in one alone\)",
        twin(vivit(modulator=None), dataclasses.replace(spec("a"), unit_ids=("a1", "a0", "a2", "a3", "a4"))): (
            r"differ in their units \(in another order\)"
        ),
        twin(vivit(modulator=None), spec("a", height=16)): r"their frames \(\(1, 12, 16\) and \(1, 16, 16\)\)",
        twin(vivit(modulator=None), spec("a", behavior=0)): "differ in their behaviors",
        twin(vivit(modulator=None), dataclasses.replace(spec("a"), frame_rate_hz=60.0)): "differ in their frame rates",
        twin(vivit(modulator=None), spec("a"), predict="last"): "predicts last bins and the first all",
        twin(vivit(modulator=None), spec("a"), likelihood=NB): "likelihood NegativeBinomial and the first Poisson",
        Ensemble([one, one]): "is none itself",
    }.items():
        with pytest.raises(ValueError, match=said):
            Ensemble([one, wrong])
    sees_counts = twin(vivit(modulator=None), spec("a"))
    sees_counts.observes = "own"
    with pytest.raises(ValueError, match="member 2 sees past counts"):
        Ensemble([one, sees_counts])
    with pytest.raises(ValueError, match="at least two members, not 1"):
        Ensemble([one])


def test_learned_scatter_is_averaged() -> None:
    parts = [other(vivit(modulator=None), seed, spec(), likelihood=NB) for seed in (1, 2)]
    own, theirs = Ensemble(parts).likelihood("a"), [part.likelihood("a") for part in parts]
    expected = (theirs[0].log_dispersion_U + theirs[1].log_dispersion_U) / 2
    torch.testing.assert_close(own.log_dispersion_U, expected.detach())
    assert not own.log_dispersion_U.requires_grad and theirs[0].log_dispersion_U.requires_grad


def test_what_only_a_core_has_is_refused() -> None:
    both = Ensemble([other(vivit(), 1), other(vivit(), 2)])
    with pytest.raises(ValueError, match="an Ensemble of 2 ViViT has no attention of its own; look at a member"):
        attending_core(both)
    with pytest.raises(ValueError, match=r"holds no core .* or of an ensemble"):
        adopted_model({"twin": both.description()}, {}, (), "both.ckpt")
