"""Which recordings a task reads."""

from __future__ import annotations

import pytest

from vivit_core.cli.recordings import data_of_evaluation

CUT_AS_TRAINED = {"behavior": ["x"], "clip_length": 7, "burn_in": 3, "evaluation_length": 8, "evaluation_burn_in": 4}
TRAINED = {"data": {"recordings": ["a.h5"], "root": None, "seed": 0} | CUT_AS_TRAINED}
NOW = {"recordings": None, "root": "now", "behavior": [], "clip_length": 9, "burn_in": 1, "seed": 1}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (set(), TRAINED["data"]),
        ({"seed", "trainer"}, TRAINED["data"]),
        ({"data.burn_in"}, {**TRAINED["data"], "burn_in": 1}),
        ({"data.root"}, {**TRAINED["data"], "root": "now", "recordings": None}),
        ({"data"}, {**NOW, **CUT_AS_TRAINED}),
        ({"data", "data.clip_length"}, {**NOW, **CUT_AS_TRAINED, "clip_length": 9}),
    ],
)
def test_data_of_evaluation(said, expected):
    assert data_of_evaluation(NOW, TRAINED, said) == expected
