"""Digital twins of visual cortex: video and behaviour in, the firing of recorded neurons out."""

from vivit_core.models.twin import Twin as Twin
from vivit_core.models.twin import load_twin as load_twin
