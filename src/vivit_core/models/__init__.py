"""Models: tokens, attention, the ViViT core, modulators, readouts, and the twin that joins them."""

from vivit_core.models.twin import Twin as Twin
from vivit_core.models.twin import load_twin as load_twin
