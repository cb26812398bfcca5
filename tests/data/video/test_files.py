"""Videos are read as they were written, whatever they are stored in; what is none is refused in one line."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from films import LEVELS, gray, images, turn, write
from PIL import Image
from small_recordings import small_arrays

from vivit_core.data.recording.writer import write_recording
from vivit_core.data.video import decoder
from vivit_core.data.video.decoder import one_rate
from vivit_core.data.video.files import open_video
from vivit_core.data.video.source import PIECE, Video


def all_of(video: Video, channels: int = 1) -> np.ndarray:
    pieces = [piece for stretch in video.stretches for piece in video.frames(*stretch, channels)]
    assert all(piece.shape[1] <= PIECE for piece in pieces)
    return np.concatenate(pieces, axis=1)


@pytest.mark.parametrize(
    ("name", "rate_hz", "codec", "pix", "off"),
    [
        ("a.mp4", 30, "libx264", "yuv420p", 2),
        ("a.mp4", 29.97, "libx264", "yuv420p", 2),
        ("a.avi", 25, "mpeg4", "yuv420p", 5),
        ("a.avi", 30, "rawvideo", "bgr24", 0.01),
        ("a.gif", 20, "gif", "gray", 0.01),
        ("a.mkv", 30, "ffv1", "gray", 0.01),
        ("a.mkv", 120, "libx264", "yuv420p", 2),
    ],
)
def test_a_video_has_the_frames_and_the_rate_that_it_was_written_with(
    tmp_path: Path, name: str, rate_hz: float, codec: str, pix: str, off: float
) -> None:
    video = open_video(write(tmp_path / name, gray(), rate_hz, codec, pix))
    assert video.n_frames == 40 and video.frame_shape == (3, 32, 48) and video.ends_s is None
    assert video.frame_rate_hz == pytest.approx(rate_hz, rel=1e-3)
    assert np.abs(all_of(video)[0] - gray()).max() <= off
    assert np.concatenate(list(video.frames(7, 9, 1)), 1)[0, :, 3, 3] == pytest.approx(LEVELS[7:9], abs=off)


OFTEN = """
import sys
from pathlib import Path
from vivit_core.data.video.decoder import opened

for _ in range(1500):
    with opened(Path(sys.argv[1])) as (container, stream):
        next(container.decode(stream))
"""


@pytest.mark.slow
def test_a_video_that_is_left_early_is_closed(tmp_path: Path) -> None:
    """The codec's threads are at work then, and nothing that they wait for may be held: one in some hundred hung."""
    path = write(tmp_path / "a.mkv", gray())
    subprocess.run([sys.executable, "-c", OFTEN, str(path)], check=True, timeout=120)


def test_frames_of_different_lengths_keep_theirs(tmp_path: Path) -> None:
    first, *rest = (Image.fromarray(frame) for frame in gray()[::10])
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=[100, 50, 200, 100])
    video = open_video(tmp_path / "a.gif")
    assert video.frame_rate_hz is None and video.ends_s is not None
    assert video.ends_s.tolist() == pytest.approx([0.1, 0.15, 0.35, 0.45])


def test_a_rate_is_one_where_containers_rounded_it() -> None:
    times = np.arange(400) / 30
    assert one_rate(np.round(times, 3), 30.0, 0.033) == 30.0  # as matroska does
    assert one_rate(times, 1000.0, 0.033) == pytest.approx(30)  # what the container says is not so
    assert one_rate(np.array([0, 0.1, 0.15]), 20.0, 0.1) is None
    assert one_rate(np.zeros(1), 0.0, 0.5) == 2.0 and one_rate(np.zeros(1), 0.0, 0.0) is None


def test_a_single_frame_of_no_length_says_no_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was to last for NaN seconds; now who shows it is asked for frame_rate_hz."""
    packet = SimpleNamespace(is_discard=False, size=1, pts=0, dts=0, duration=None)
    stream = SimpleNamespace(
        frames=1, height=2, width=2, average_rate=None, time_base=Fraction(1, 30), sample_aspect_ratio=None
    )
    frame = SimpleNamespace(side_data={})
    container = SimpleNamespace(demux=lambda stream: [packet], decode=lambda stream: iter([frame]))
    monkeypatch.setattr(decoder, "opened", lambda path: nullcontext((container, stream)))
    video = decoder.DecodedVideo(tmp_path / "a.mkv")
    assert (video.n_frames, video.frame_rate_hz, video.ends_s) == (1, None, None)


def corner() -> np.ndarray:
    """(N, H, W): dark, but for the upper left."""
    frames = np.full((3, 32, 48), 40, np.uint8)
    frames[:, :16, :24] = 220
    return frames


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 1, -1, 0), np.rot90(corner(), -1, (1, 2))),  # clockwise: x to y, y to -x
        ((0, -1, 1, 0), np.rot90(corner(), 1, (1, 2))),
        ((-1, 0, 0, -1), corner()[:, ::-1, ::-1]),
        ((-1, 0, 0, 1), corner()[:, :, ::-1]),  # a mirror
    ],
)
def test_a_video_is_turned_as_the_file_says(tmp_path: Path, matrix: tuple[int, ...], expected: np.ndarray) -> None:
    video = open_video(turn(write(tmp_path / "a.mp4", corner()), *matrix))
    assert video.frame_shape == (3, *expected.shape[1:]) and len(video.notes) == 1
    assert np.abs(all_of(video)[0] - expected)[:, 4::8, 4::8].max() < 8  # away from edges, which the codec blurs


def test_a_video_that_is_not_turned_has_no_note(tmp_path: Path) -> None:
    assert open_video(write(tmp_path / "a.mp4", corner())).notes == ()


def test_other_turns_than_right_ones_and_pixels_that_are_not_square_are_refused(tmp_path: Path) -> None:
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    with pytest.raises(ValueError, match=r"a\.mp4: .*turned by 30° .* ffmpeg -i a\.mp4 OUT\.mp4"):
        open_video(turn(write(tmp_path / "a.mp4", corner()), cos, sin, -sin, cos))
    wide = write(tmp_path / "b.mp4", corner(), aspect=Fraction(64, 45))
    with pytest.raises(ValueError, match=r"b\.mp4: its pixels are 1\.422 times as wide .*scale=iw\*sar:ih,setsar=1"):
        open_video(wide)
    assert open_video(write(tmp_path / "c.mp4", corner(), aspect=Fraction(400, 401))).frame_shape == (3, 32, 48)


def test_color_becomes_its_luminance_and_gray_each_color(tmp_path: Path) -> None:
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[0, ..., 0], frames[1, ..., 1], frames[2, ..., 2] = 200, 200, 200
    np.save(tmp_path / "a.npy", frames)
    assert all_of(open_video(tmp_path / "a.npy"))[0, :, 0, 0] == pytest.approx(200 * np.array([0.299, 0.587, 0.114]))
    np.save(tmp_path / "b.npy", gray(2))
    assert all_of(open_video(tmp_path / "b.npy"), 3).shape == (3, 2, 32, 48)
    with pytest.raises(ValueError, match=r"b\.npy: its frames have 1 channels, and the model sees 2"):
        all_of(open_video(tmp_path / "b.npy"), 2)


def test_images_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    video = open_video(images(tmp_path / "images", gray(12)))
    assert video.frame_rate_hz is None and (all_of(video)[0, :, 0, 0] == LEVELS[:12]).all()


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1), ("P", 3)])
def test_mid_gray_shows_where_an_image_is_transparent(tmp_path: Path, mode: str, channels: int) -> None:
    pixels = np.full((4, 6, 4), 255, np.uint8)  # white, and nothing of it is to be seen on the right
    pixels[:, 3:, 3] = 0
    tmp_path.joinpath("images").mkdir()
    Image.fromarray(pixels).convert(mode).save(tmp_path / "images" / "0.png")
    shown = all_of(open_video(tmp_path / "images"), channels)[:, 0]
    assert (shown[..., :3] == 255).all() and (shown[..., 3:] == 128).all()


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # clockwise
    Image.fromarray(corner()[0]).save(tmp_path / "images" / "0.jpg", exif=exif)
    video = open_video(tmp_path / "images")
    assert video.frame_shape == (1, 48, 32)
    assert np.abs(all_of(video)[0, 0].astype(int) - np.rot90(corner()[0], -1))[4::8, 4::8].max() < 8


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays(tmp_path: Path, save: object) -> None:
    frames = gray(150, 5, 7)
    np.save(tmp_path / "a.npy", frames.astype(np.float64))
    assert (all_of(open_video(tmp_path / "a.npy"))[0] == frames).all()
    save(tmp_path / "a.npz", frames=frames, other=np.zeros(3))
    video = open_video(tmp_path / "a.npz")
    assert (all_of(video)[0] == frames).all()
    assert (np.concatenate(list(video.frames(70, 140, 1)), 1)[0] == frames[70:140]).all()


def test_a_recording_comes_trial_by_trial_with_its_behavior(tmp_path: Path) -> None:
    arrays = small_arrays()
    video = open_video(write_recording(tmp_path / "r.h5", **arrays))
    assert video.stretches == [(start, start + 20) for start in range(0, 120, 20)]
    assert video.frame_rate_hz == 100 and (all_of(video)[0] == arrays["frames"]).all()
    assert (video.behavior(20, 40)["eye"] == arrays["behavior"]["eye"][20:40]).all()


# What is no video ---------------------------------------------------------------------------------------------------


def header_alone(path: Path) -> Path:
    """An mp4 file of a video without a frame."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        container.start_encoding()
    return path


def sound_alone(path: Path) -> Path:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    return path


def listing(path: Path) -> Path:
    """A file that names another."""
    write(path.with_name("other.mp4"), gray(3))
    return written(path, b"ffconcat version 1.0\nfile other.mp4\n")


def half(path: Path) -> Path:
    """A video of which the second half of the frames is lost."""
    write(path, np.random.default_rng(0).integers(0, 255, (40, 32, 48), dtype=np.uint8), codec="ffv1", pix="gray")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def unlike(folder: Path) -> Path:
    images(folder, gray(2))
    Image.fromarray(gray(1, 4, 4)[0]).save(folder / "2.png")
    return folder


def cut_npz(path: Path) -> Path:
    data = io.BytesIO()
    np.savez(data, frames=gray(90))
    return written(path, data.getvalue()[:60000])


BROKEN = {
    "nothing": (lambda f: f / "gone.mp4", r"gone\.mp4: there is no such video .*correct the path"),
    "empty": (lambda f: written(f / "a.mp4", b""), r"a\.mp4: the file is empty"),
    "text": (lambda f: written(f / "a.mp4", b"no video at all" * 99), r"a\.mp4: not a readable video .*write it anew"),
    "playlist": (lambda f: listing(f / "a.mp4"), r"a\.mp4: not a readable video"),
    "without a frame": (lambda f: header_alone(f / "a.avi"), r"a\.avi: a video without a frame"),
    "sound": (lambda f: sound_alone(f / "a.wav"), r"a\.wav: has no video stream"),
    "half": (lambda f: half(f / "a.avi"), r"a\.avi: .*(damaged or cut off|not a readable video)"),
    "no image": (lambda f: f, r"holds no image .*give a folder"),
    "sizes": (lambda f: unlike(f / "images"), r"2\.png has 4×4 px, and 0\.png 32×48"),
    "broken image": (
        lambda f: (images(f / "i", gray(1)), written(f / "i" / "0.png", b"\x89PNG"))[1].parent,
        r"0\.png: not a readable image",
    ),
    "deep": (
        lambda f: images(f / "i", gray(1).astype(np.uint16)),
        r"0\.png: has more than 8 bits a pixel; give such frames as an \.npy file",
    ),
    "cut npz": (lambda f: cut_npz(f / "a.npz"), r"a\.npz: not a readable \.npz file"),
    "which": (lambda f: saved(f / "a.npz", a=gray(2), b=gray(2)), r"a\.npz: .*holds a, b, and .* called frames"),
    "objects": (lambda f: saved(f / "a.npz", frames=np.array([None])), r"a\.npz: frames: holds Python objects"),
    "order": (lambda f: saved(f / "a.npz", frames=np.asfortranarray(gray(4))), r"a\.npz: .*Fortran's order; save"),
    "flat": (lambda f: saved(f / "a.npz", frames=gray(4)[0]), r"a\.npz: frames: has shape \(32, 48\)"),
    "no frame": (
        lambda f: saved(f / "a.npz", frames=gray(4)[:0]),
        r"a\.npz: frames: has shape \(0, 32, 48\), and so not a single pixel.*at least one frame",
    ),
    "recording": (lambda f: written(f / "a.h5", b"no recording" * 9), r"a\.h5: file: "),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_video_is_refused_in_a_line(tmp_path: Path, what: str) -> None:
    make, message = BROKEN[what]
    with pytest.raises(ValueError, match=message) as caught:
        all_of(open_video(make(tmp_path)))
    assert "\n" not in str(caught.value)


def test_without_a_decoder_it_says_how_to_install_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", gray(3))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r'pip install "vivit-core\[video\]"\. A folder of images'):
        open_video(path)
