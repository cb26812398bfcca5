"""Films: pictures one after the other in a file, and a stimulus with the rates of a few units beside it.

Shape letters: T bins, U units, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vivit_core.plotting.style import TWIN, label_of, plain, written
from vivit_core.system.files import atomic_write

KINDS = (".mp4", ".gif")
MOST_PICTURES_HZ = 20.0  # pictures a second of a film
PALETTE = 128  # colors of a GIF with one palette


def check_film(path: Path) -> None:
    """Refuse a name whose ending says no kind of film, and .mp4 where nothing can encode it.

    Raises
    ------
    ValueError
        Says what would do.
    """
    if path.suffix not in KINDS:
        raise ValueError(f"film={path}: a film is {' or '.join(KINDS)}; end the name so")
    if path.suffix == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f'film={path}: PyAV, which encodes .mp4, is not installed: pip install "vivit-core[video]"; a .gif '
                "needs none"
            ) from error


def write_film(
    path: Path, pictures: Iterable[np.ndarray], pictures_hz: float, colors: np.ndarray | None = None
) -> Path:
    """A film; whole or not at all.

    Parameters
    ----------
    path : .mp4 or .gif; a GIF runs in a circle.
    pictures : uint8 of one size, (H, W, 3), or gray ones (H, W).
    pictures_hz : pictures a second; a GIF shows at most 50.
    colors : (N, 3) uint8, from which a GIF takes one palette for all pictures. That is smaller, and no gray flickers.
        None: each picture has its own.
    """
    check_film(path)
    with atomic_write(path) as temporary:
        if path.suffix == ".gif":
            images = (Image.fromarray(picture) for picture in pictures)
            if colors is not None:
                palette = Image.fromarray(colors[None]).quantize(PALETTE)
                images = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
            each_ms = max(20, round(1000 / pictures_hz / 10) * 10)  # a GIF counts in hundredths of a second
            next(images).save(temporary, "gif", save_all=True, append_images=images, duration=each_ms, loop=0)
            return path
        import av

        with av.open(str(temporary), "w", format="mp4") as container:
            stream = None
            for picture in pictures:
                picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
                even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]  # as the encoder wants it
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(pictures_hz).limit_denominator(1000))
                    stream.height, stream.width, stream.pix_fmt = even.shape[0], even.shape[1], "yuv420p"
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
                container.mux(stream.encode(frame))
            if stream is not None:
                container.mux(stream.encode(None))
    return path


class RatesBeside:
    """A figure of a stimulus and, beside it, the rates of a few units with a line at the moment shown.

    Parameters
    ----------
    frames_CTHW : the stimulus, one frame a bin.
    rates_TU : Hz.
    names : of the units.
    frame_rate_hz : bins a second.
    title : of the whole.
    """

    def __init__(
        self, frames_CTHW: np.ndarray, rates_TU: np.ndarray, names: Sequence[str], frame_rate_hz: float, title: str
    ) -> None:
        self.frames_CTHW, self.rate_hz = frames_CTHW, frame_rate_hz
        low, high = float(frames_CTHW.min()), float(frames_CTHW.max())
        self.low, self.span = low, max(high - low, 1e-9)
        self.figure = Figure(figsize=(9, max(3.0, 0.6 * len(names) + 1)), dpi=100, layout="constrained")
        self.figure.suptitle(title, fontsize="medium")
        grid = self.figure.add_gridspec(len(names), 2, width_ratios=[1.2, 1])
        left = self.figure.add_subplot(grid[:, 0])
        left.set_axis_off()
        self.image = left.imshow(self.seen(0), cmap="gray", vmin=0, vmax=1)
        times_s = np.arange(len(rates_TU)) / frame_rate_hz
        self.cursors = []
        for number, name in enumerate(names):
            axes = self.figure.add_subplot(grid[number, 1])
            axes.plot(times_s, rates_TU[:, number], color=TWIN, lw=1)
            axes.set_ylabel(label_of(name), rotation=0, ha="right", va="center", fontsize="small")
            axes.set_xlim(0, max(times_s[-1], 1 / frame_rate_hz))
            axes.set_ylim(bottom=0)
            axes.tick_params(labelsize="x-small", labelbottom=number == len(names) - 1)
            self.cursors.append(axes.axvline(0, color="0.25", lw=0.8))
        axes.set_xlabel("time (s); rates in Hz", fontsize="small")
        plain(self.figure)

    def seen(self, bin_number: int) -> np.ndarray:
        """A bin's frame, 0 to 1, (H, W) or (H, W, 3)."""
        frame = (self.frames_CTHW[:, bin_number].astype(np.float32) - self.low) / self.span
        return frame.transpose(1, 2, 0) if len(frame) == 3 else frame[0]

    def at(self, bin_number: int) -> None:
        """Show a bin."""
        self.image.set_data(self.seen(bin_number))
        for cursor in self.cursors:
            cursor.set_xdata([bin_number / self.rate_hz] * 2)

    def save(self, path: Path) -> Path:
        """The picture of the bin that is shown."""
        return written(self.figure, path)

    def film(self, path: Path) -> Path:
        """All bins, in real time; of several in the time of a picture, one."""
        pictures_hz = min(MOST_PICTURES_HZ, self.rate_hz)
        bins = np.arange(0, self.frames_CTHW.shape[1], self.rate_hz / pictures_hz).astype(int)
        canvas = FigureCanvasAgg(self.figure)

        def drawn() -> Iterator[np.ndarray]:
            for number in bins.tolist():
                self.at(number)
                canvas.draw()
                yield np.asarray(canvas.buffer_rgba())[..., :3].copy()

        return write_film(path, drawn(), pictures_hz)
