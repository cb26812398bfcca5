"""Modulators find the gain that behavior is known to have: trainings of ``benchmarks/modulators.py``, in small."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
STEPS = 80


@pytest.fixture(scope="module")
def modulators(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The script, and recordings whose gain is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import modulators

        yield modulators, modulators.World.made(tmp_path_factory.mktemp("modulators"))
    for name in ("modulators", "choices", "measuring"):
        sys.modules.pop(name, None)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("option", "floor"),
    [("none", None), ("gain", 0.7), ("film", 0.5), ("concat", 0.5), ("gru", 0.5), ("convgru", 0.6)],
)
def test_a_share_of_the_known_gain_is_recovered(option: str, floor: float | None, modulators: Any) -> None:
    script, world = modulators
    units, scores = world.recovered(option, 0, STEPS)
    share = script.share(units)
    print(f"{option}: {share:.3f} of {(units['true'] - units['none']).mean():.3f} bits; {scores['bps']:.3f}")
    if floor is None:
        assert share == pytest.approx(0.0, abs=1e-3)
    else:
        assert share > floor
        assert units["alike"].mean() > floor
