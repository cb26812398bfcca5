"""What cannot go together is refused before recordings are read or simulated, which may take hours."""

from __future__ import annotations

from vivit_core.cli.recordings import check_positions, expected_sizes
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.plan import check_geometry, expected
from vivit_core.models.predictor import Predict
from vivit_core.parts.schema import Node
from vivit_core.specs import RecordingError, unread
from vivit_core.training.optim import Optimization


def refuse_unfit(
    datamodule: RecordingsDataModule,
    data: Node,
    optimization: Optimization,
    model: Node,
    readout: Node,
    likelihood: Node,
    predict: Predict,
) -> None:
    """Refuse a twin that cannot be made for recordings, or cannot be trained so.

    Of files it knows what their headers say. Of recordings that are yet to be simulated ``data.geometry`` knows the
    sizes, and one stands for all. Statistics are made up, because no check asks for them.

    Parameters
    ----------
    datamodule, data : the recordings, not yet read, and the node from which they are.
    optimization, model, readout, likelihood, predict : of the training.

    Raises
    ------
    ValueError
        With a remedy.
    """
    if datamodule.simulated:
        sizes = expected_sizes(data)
        recordings = expected(sizes["frame_shape"], 1, 1, sizes["behavior"], sizes["position_dim"])
    else:
        try:
            infos, seen = datamodule.headers()
        except RecordingError:
            return  # the reading names the broken files, all together
        check_positions(readout, infos)
        recordings = [
            unread(info.recording_id, info.frame_rate_hz, info.frame_shape, info.unit_ids, seen, info.position_dim)
            for info in infos
        ]
    optimization.check(check_geometry(model, readout, likelihood, recordings, datamodule.clip_length, predict))
