"""task=predict: the rates of a video's bins, for a video of any kind and length."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vivit_core.analysis.tables import write_summary
from vivit_core.analysis.video.section import report_section
from vivit_core.analysis.video.video import predict_video
from vivit_core.cli.console import tell
from vivit_core.cli.context import RunContext
from vivit_core.cli.trained import load_trained
from vivit_core.models.checkpoint import version
from vivit_core.models.histories.base import Feedback
from vivit_core.parts.schema import Positive


def predict(
    context: RunContext,
    *,
    checkpoint: Path,
    video: Path,
    out: Path,
    behavior: Path | None,
    recordings: list[str] | None,
    frame_rate_hz: Positive | None,
    degrees_per_pixel: Positive | Literal["fill"] | None,
    pixel_scale: float,
    pixel_offset: float,
    film: Path | None,
    film_s: Positive,
    average: bool,
    history: Feedback,
) -> None:
    """Predict the rates of a video's bins, and write them to a file.

    Parameters
    ----------
    context : the run.
    checkpoint : of a twin or of an LN model.
    video : mp4, avi, gif and the like, a folder of images, an .npy or .npz file, or a recording file.
    out : file of rates, .h5, .npz or .csv.
    behavior : csv or npz file with a row for each bin, or for each frame of the video; None: what a recording file
        stores, and elsewhere each at its mean.
    recordings : ids of those whose units are predicted; None: all.
    frame_rate_hz : of the video, frames a second; None: what the video says.
    degrees_per_pixel : of the video; "fill": it covers the recording's frame; None: what the video says.
    pixel_scale, pixel_offset : a pixel value x is shown as pixel_scale · x + pixel_offset.
    film : .mp4 or .gif file to be made of the frames with the units' rates beside; None: none.
    film_s : how much of the video the film and the pictures show, s.
    average : take the averaged weights.
    history : of a twin with model/history, what stands in for past counts, of which a video has none: none (their
        mean), the twin's own expected counts, or samples of it (from the seed).

    Raises
    ------
    ValueError
        Where the checkpoint, the video or the behavior cannot be read, or do not fit each other.
    """
    trained = load_trained(checkpoint, average)
    trained.model.feedback, trained.model.seed = history, context.seed
    transforms = trained.transforms
    context.describe()
    folder = context.run.path
    summary = predict_video(
        trained.model,
        video,
        out,
        recordings=recordings,
        behavior=behavior,
        transforms=transforms,
        frame_rate_hz=frame_rate_hz,
        degrees_per_pixel=degrees_per_pixel,
        pixel_scale=pixel_scale,
        pixel_offset=pixel_offset,
        film=film,
        film_s=film_s,
        pictures=folder / "pictures",
        about={"checkpoint": str(checkpoint), "vivit_core": version(), "causal": trained.model.causal}
        | ({} if trained.model.observes is None else {"history": history}),
        device=context.device,
    )
    write_summary(folder / "predict.json", summary)
    for name, own in summary["recordings"].items():
        for line in own["how"]:
            tell(f"{name}: {line}")
    for file in [*summary["files"], *([summary["film"]] if summary["film"] is not None else [])]:
        tell(f"wrote {file}")
    context.announce(report_section(summary, folder, context.command_line))
