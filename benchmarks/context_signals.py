"""What signals of context would add to a trained twin, were they given: by kind of context.

    python benchmarks/context_signals.py CHECKPOINT RECORDING

The recording is simulated, with context, and one of the twin's. Each signal is what the simulator computes from the
frames (``vivit_core.data.simulate.context``), for every unit, whatever its context. The twin's rates are multiplied by
the exponential of some signals, standardized, with weights that a Poisson regression finds for each unit on training
trials. Scores are bits per spike of test trials against the true rates: they hold no noise of counts.

Shape letters: N bins of several trials, T bins of one, U units, F far cells, K signals.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from measuring import settings_of
from vivit_core import load_twin
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate.cells import Cells, smooth
from vivit_core.data.simulate.context import KINDS, Contexts, background, surround
from vivit_core.models.predictor import Predictor

TAUS_S = (0.5, 1.0, 2.0, 4.0)  # of the running means
BURN_IN_S, TRIALS = 0.5, 60
EVERY = {"train": 3, "test": 2}  # bin
STEPS, RIDGE, SMALLEST = 8, 5.0, 1e-6
POSITIVE = ("own", "pooled", "alike", "gated", "past")  # enter as log(1 + signal / mean)
SETS = (
    *(("own",), ("own", "pooled"), ("own", "pooled", "past"), ("own", "pooled", "past", "likeness"), ("own", "alike")),
    *(("gated",), ("motion",), ("past",), ("own", "gated", "motion", "past"), ("true",)),
)

Signals = dict[str, np.ndarray]  # by name, (N, U, signals of this name)


def seen(twin: Predictor, recording: Recording, contexts: Contexts, split: str) -> Signals:
    """Signals, the twin's rates, counts and true rates at some bins of trials spread over a split."""
    spec, kind_U = twin.specs[recording.info.recording_id], contexts.kind_U
    rate_hz, trials = spec.frame_rate_hz, recording.info.trials.of(split)
    chosen = np.linspace(0, len(trials.start) - 1, min(TRIALS, len(trials.start))).astype(int)
    found: list[Signals] = []
    for start, stop in zip(trials.start[chosen].tolist(), trials.stop[chosen].tolist(), strict=True):
        frames = recording.frames(start, stop)
        behavior = recording.behavior(start, stop, spec.behavior)
        twin_TU = np.asarray(twin.rates(spec.recording_id, frames, behavior), np.float32) / rate_hz
        cells = contexts.cells.see(frames[0])
        likeness_TJO = cells.likeness_TJO()
        each: Signals = {
            name: np.zeros_like(twin_TU) for name in ("own", "pooled", "alike", "gated", "likeness", "motion")
        }
        for unit in range(len(kind_U)):
            far, near = contexts.far(unit), contexts.near(unit)
            weight_TF, added_TF = surround(likeness_TJO, cells.energy_TJ, near[0], far)
            each["own"][:, unit] = cells.energy_TJ[:, near].mean(1)
            each["pooled"][:, unit] = cells.energy_TJ[:, far].mean(1)
            each["alike"][:, unit] = (weight_TF * cells.energy_TJ[:, far]).sum(1)
            each["gated"][:, unit] = added_TF.sum(1)
            each["likeness"][:, unit] = (likeness_TJO[:, far] * likeness_TJO[:, near[:1]]).sum(-1).mean(1)
            each["motion"][:, unit] = background(cells, contexts.cells.still, near, far)[1].sum(1) ** 2
        rate_TU, factor_TU = recording.truth("rate", start, stop), np.ones_like(twin_TU)
        for kind in KINDS:
            without_TU, own_U = recording.truth(f"rate_without_{kind}", start, stop), kind_U == kind
            factor_TU[:, own_U] = (np.maximum(rate_TU, SMALLEST) / np.maximum(without_TU, SMALLEST))[:, own_U]
        each = {name: values[..., None] for name, values in (each | {"true": np.log(factor_TU)}).items()}
        each["past"] = np.stack([smooth(twin_TU, tau_s, rate_hz) for tau_s in TAUS_S], axis=-1)
        counts_TU = recording.counts(start, stop).astype(np.float32)
        each |= {
            "twin": twin_TU,
            "counts": counts_TU,
            "rate": rate_TU,
            "local": recording.truth("rate_local", start, stop),
        }
        found.append({name: values[round(BURN_IN_S * rate_hz) :: EVERY[split]] for name, values in each.items()})
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def multiplied(names: Sequence[str], train: Signals, test: Signals) -> np.ndarray:
    """The twin's rates of the test bins (N, U), times what these signals say."""
    rate_NU = test["twin"].copy()
    for unit in range(rate_NU.shape[1]):
        columns: list[list[np.ndarray]] = [[], []]
        for name in names:
            both = [of[name][:, unit].astype(np.float64) for of in (train, test)]
            if name in POSITIVE:
                mean = np.maximum(both[0].mean(0), 1e-9)
                both = [np.log1p(values / mean) for values in both]
            middle, deviation = both[0].mean(0), both[0].std(0) + SMALLEST
            for own, values in zip(columns, both, strict=True):
                own.append((values - middle) / deviation)
        x_NK, y_NK = (np.concatenate([*own, np.ones((len(own[0]), 1))], axis=1) for own in columns)
        twin_N = np.maximum(train["twin"][:, unit], SMALLEST).astype(np.float64)
        weights_K = np.zeros(x_NK.shape[1])
        for _ in range(STEPS):
            expected_N = twin_N * np.exp(np.clip(x_NK @ weights_K, -5, 3))
            slope_K = x_NK.T @ (train["counts"][:, unit] - expected_N) - RIDGE * weights_K
            bend_KK = (x_NK * expected_N[:, None]).T @ x_NK + RIDGE * np.eye(len(weights_K))
            weights_K += 0.8 * np.linalg.solve(bend_KK, slope_K)
        rate_NU[:, unit] *= np.exp(np.clip(y_NK @ weights_K, -5, 3))
    return rate_NU


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("recording")
    given = parser.parse_args()
    twin, recording = load_twin(given.checkpoint), Recording(given.recording)
    spec = twin.specs[recording.info.recording_id]
    kinds = recording.unit_column("context")
    if kinds is None:
        raise SystemExit(f"{given.recording}: its units have no context; simulate with data/simulator/context=default")
    kind_U, none_U = np.array(kinds, dtype=str), np.zeros(len(kinds), np.float32)
    far_px = settings_of("data/simulator/context=default")["data"]["simulator"]["context"]["far_px"]
    cells = Cells.over((spec.frame_shape[1], spec.frame_shape[2]), spec.frame_rate_hz)
    contexts = Contexts(cells, recording.truth("center_px"), tuple(far_px), kind_U, none_U, none_U, none_U)
    train, test = (seen(twin, recording, contexts, split) for split in ("train", "test"))

    def tell(name: str, predicted_NU: np.ndarray) -> None:
        rate_NU, mean_U = test["rate"], train["rate"].mean(0)
        guess_NU = np.maximum(predicted_NU, 1e-7)
        nats_U = (rate_NU * np.log(guess_NU / mean_U) - (guess_NU - mean_U)).sum(0) / rate_NU.sum(0)
        of = {"all": np.ones(len(kind_U), bool)} | {kind: kind_U == kind for kind in (*KINDS, "local")}
        print(f"| {name} | {' | '.join(f'{nats_U[use].mean() / np.log(2):.3f}' for use in of.values())} |", flush=True)

    print(f"| times exp of | all | {' | '.join(KINDS)} | local |\n{'|---' * (len(KINDS) + 3)}|")
    for name, rates in (("truth", "rate"), ("best local observer", "local"), ("the twin", "twin")):
        tell(name, test[rates])
    for names in SETS:
        tell(", ".join(names), multiplied(names, train, test))


if __name__ == "__main__":
    main()
