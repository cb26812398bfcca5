"""Digital twins of visual cortex: video and behavior in, the firing of recorded neurons out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vivit_core.models.load import load_twin as load_twin
    from vivit_core.models.twin import Twin as Twin

__all__ = ["Twin", "load_twin"]


def __getattr__(name: str) -> Any:
    """The twin, and torch with it, are imported where they are asked for: a process that reads files needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vivit_core import models

    return getattr(models, name)
