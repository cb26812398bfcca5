"""Simulated recordings: a world, an eye, a population of neurons whose truth is known."""

from vivit_core.data.simulate.context import Context
from vivit_core.data.simulate.simulate import Simulator

__all__ = ["Context", "Simulator"]
