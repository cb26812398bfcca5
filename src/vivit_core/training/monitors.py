"""What callbacks may watch: the numbers of a validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.names import key_name
from vivit_core.parts.groups import class_of
from vivit_core.training.callbacks.averaging import Averaging


def check_monitors(nodes: Mapping[str, Mapping[str, Any] | None], recordings: Sequence[str]) -> None:
    """What callbacks watch is a number of the validations, and they know which end of it is good.

    Raises
    ------
    ValueError
        Names the key; Lightning would say so after the first epoch, or keep the worst checkpoints without a word.
    """
    averaged = any(
        node is not None and class_of(f"callbacks.{name}", node["_target_"]) is Averaging
        for name, node in nodes.items()
    )
    better = {"loss": "min", "units_silent": "min"}
    better |= {f"{metric.name}_mean": "max" if metric.higher_is_better else "min" for metric in all_metrics()}
    better |= {f"bps_{key_name(recording_id)}": "max" for recording_id in recordings}
    known = {f"{kind}/{name}": end for kind in ("val", "val_ema")[: 1 + averaged] for name, end in better.items()}
    for name, node in nodes.items():
        if node is None or node.get("monitor") is None:
            continue
        if node["monitor"] not in known:
            without = "" if averaged else "; val_ema/… comes with callbacks=ema"
            raise ValueError(
                f"callbacks.{name}.monitor={node['monitor']} is no number of a validation; set it to one of "
                f"{', '.join(known)}{without}"
            )
        if (end := known[node["monitor"]]) != node.get("mode", "min"):
            raise ValueError(
                f"callbacks.{name}.mode={node.get('mode', 'min')} would keep the worst {node['monitor']}; "
                f"set callbacks.{name}.mode={end}"
            )
