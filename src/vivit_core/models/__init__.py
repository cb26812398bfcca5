"""Models: tokens, attention, the ViViT core, modulators, readouts, and the twin that joins them."""

from vivit_core.models.load import load_twin as load_twin
from vivit_core.models.twin import Twin as Twin
