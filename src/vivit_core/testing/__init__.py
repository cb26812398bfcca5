"""Contract tests for parts: ours are tested with them, and yours can be.

    from vivit_core.testing import check_readout

    def test_my_readout_keeps_the_contract() -> None:
        check_readout({"_target_": "mylab.readouts.Mine", "rank": 2}, packages=["mylab"])

Each check builds small twins around a part, on made-up recordings, and raises AssertionError with a sentence where
something of the base class's contract does not hold. It takes seconds; ``compiled=True`` adds the comparison with
compiled code, which takes a minute and a C++ compiler.
"""

from vivit_core.testing.parts import check_attention as check_attention
from vivit_core.testing.parts import check_core as check_core
from vivit_core.testing.parts import check_energy as check_energy
from vivit_core.testing.parts import check_frontend as check_frontend
from vivit_core.testing.parts import check_history as check_history
from vivit_core.testing.parts import check_importer as check_importer
from vivit_core.testing.parts import check_latent as check_latent
from vivit_core.testing.parts import check_likelihood as check_likelihood
from vivit_core.testing.parts import check_metric as check_metric
from vivit_core.testing.parts import check_modulator as check_modulator
from vivit_core.testing.parts import check_own_filter as check_own_filter
from vivit_core.testing.parts import check_readout as check_readout
from vivit_core.testing.parts import check_shifter as check_shifter
from vivit_core.testing.parts import check_tokenizer as check_tokenizer
from vivit_core.testing.twins import check_twin as check_twin
