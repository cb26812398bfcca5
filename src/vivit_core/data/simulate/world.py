"""The world of the simulation: photographs, and an eye that moves over them.

Shape letters: T frames, H W pixels of a frame, 2 = (x, y), N trials, K objects, S frames that show one, X Y columns and
rows of its disk. x grows to the right and y downwards, in the photograph, in the frame and in the eye's position alike.
Numbers and their sources: docs/simulator.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vivit_core.data.simulate.cells import GRAY

FloatArray = NDArray[np.float32]

PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "grass", "gravel", "brick", "stereo_motorcycle", "coins")
REGIONS = (
    "train",
    "train",
    "val",
    "test",
)  # what a photograph's quarters serve; turned by one from photograph to photograph

SCENE_PX = 463  # longest side of a scene, but where a frame needs more: half the motorcycle's, at the largest scale
LOCAL_PX = 24.0  # reach of the local mean and contrast that are divided out
CONTRAST_FLOOR = 0.06  # gray level that keeps an empty sky from becoming a texture of noise
GRAY_PER_STD = 40.0  # uint8 steps for one local standard deviation

DRIFT_ARCMIN2_PER_S = 20.0  # diffusion constant D of ocular drift: E|Δ|² = 4 D t
FIXATION_MEDIAN_S, FIXATION_LOG_STD, FIXATION_MIN_S = 0.28, 0.4, 0.1
SACCADE_MEDIAN_DEG, SACCADE_LOG_STD = 1.3, 0.6
MICROSACCADE_FRACTION = 0.2  # of all saccades
MICROSACCADE_MEDIAN_DEG, MICROSACCADE_LOG_STD = 0.25, 0.4
SACCADE_S, SACCADE_S_PER_DEG = 0.021, 0.0022  # duration = 21 ms + 2.2 ms a degree

OBJECT_RADIUS_PX = (7.0, 11.0)
SWAY_DEG_PER_S, SWAY_TAU_S = 1.0, 0.4  # standard deviation and memory of the velocity of a scene before a moving body
SWAY_DEG = 0.7  # the scene sways no further than this


@lru_cache(maxsize=len(PHOTOGRAPHS))
def load_photograph(name: str) -> FloatArray:
    """One photograph of scikit-image's wheel as gray levels 0..1, (height, width)."""
    import skimage.color  # half a second that a process which simulates nothing does not wait for
    import skimage.data

    image = getattr(skimage.data, name)()
    image = image[0] if isinstance(image, tuple) else image  # the motorcycle comes as left, right, disparity
    gray = skimage.color.rgb2gray(image[..., :3]) if image.ndim == 3 else image / 255.0
    return gray.astype(np.float32)


def quarters(split: str) -> list[tuple[str, int]]:
    """The (photograph, quarter) pairs that a split may show. No quarter serves two splits."""
    return [
        (name, quarter)
        for i, name in enumerate(PHOTOGRAPHS)
        for quarter in range(4)
        if REGIONS[(quarter + i) % 4] == split
    ]


def cut_quarter(photograph: FloatArray, quarter: int) -> FloatArray:
    """A quarter of a photograph: 0 upper left, 1 upper right, 2 lower left, 3 lower right."""
    h, w = photograph.shape[0] // 2, photograph.shape[1] // 2
    row, column = divmod(quarter, 2)
    return photograph[row * h : (row + 1) * h, column * w : (column + 1) * w]


def normalize_contrast(gray: FloatArray) -> FloatArray:
    """Take away the local mean and divide by the local contrast; uint8 gray levels as float32, 127.5 in the middle."""
    centered = gray - gaussian_filter(gray, LOCAL_PX, mode="reflect")
    contrast = np.sqrt(gaussian_filter(centered**2, LOCAL_PX, mode="reflect") + CONTRAST_FLOOR**2)
    return np.clip(GRAY + GRAY_PER_STD * centered / contrast, 0, 255).astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """What one trial shows: a piece of a photograph, scaled, turned and normalized."""

    name: str
    image: FloatArray  # (height, width), 0..255

    @classmethod
    def draw(cls, name: str, quarter: int, frame_shape: tuple[int, int], rng: np.random.Generator) -> Scene:
        """A random scale (0.75 to 1.25), turn (of 90 degrees) and mirror image of one quarter of a photograph."""
        import skimage.transform

        gray = np.rot90(cut_quarter(load_photograph(name), quarter), int(rng.integers(4)))
        if rng.integers(2):
            gray = gray[:, ::-1]
        # A scene is never so small that the eye has no room: half a frame on each side at least.
        scale = max(rng.uniform(0.75, 1.25), 2 * frame_shape[0] / gray.shape[0], 2 * frame_shape[1] / gray.shape[1])
        scaled = skimage.transform.rescale(gray, scale, order=3, anti_aliasing=scale < 1, mode="reflect")
        return cls(name=f"{name}-{quarter}", image=normalize_contrast(scaled.astype(np.float32)))

    def room_px(self, frame_shape: tuple[int, int]) -> tuple[float, float]:
        """How far the gaze may go from the scene's center, (x, y) in pixels, with the frame inside the scene."""
        # Two pixels for the interpolation's neighbors.
        height, width = self.image.shape
        return (width - frame_shape[1]) / 2 - 2, (height - frame_shape[0]) / 2 - 2

    def render(self, gaze_px_T2: FloatArray, frame_shape: tuple[int, int]) -> NDArray[np.uint8]:
        """The frame around each gaze, by cubic (Catmull-Rom) interpolation: (T, H, W).

        `gaze_px_T2` is (x, y) from the scene's center; the gaze falls on the frame's center.
        """
        (height, width), (h, w) = self.image.shape, frame_shape
        corner_T2 = gaze_px_T2.astype(np.float64) + [(width - w) / 2, (height - h) / 2]
        whole_T2 = np.floor(corner_T2).astype(np.int64)
        part_T2 = (corner_T2 - whole_T2).astype(np.float32)
        blocks = sliding_window_view(self.image, (h + 3, w + 3))[whole_T2[:, 1] - 1, whole_T2[:, 0] - 1]
        weights_x, weights_y = catmull_rom(part_T2[:, 0]), catmull_rom(part_T2[:, 1])
        rows = sum(weights_y[:, k, None, None] * blocks[:, k : k + h] for k in range(4))
        frames = sum(weights_x[:, k, None, None] * rows[:, :, k : k + w] for k in range(4))
        return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Objects:
    """Disks that move over a scene. They are cut from the scene itself, so that only their motion tells them."""

    start_px_K2: FloatArray  # center at the first frame, (x, y) from the scene's center
    velocity_px_K2: FloatArray  # pixels a frame
    radius_px_K: FloatArray
    textures: list[FloatArray]  # square pieces of the scene, a little larger than the disk
    room_px: tuple[float, float]  # as far from the scene's center, (x, y), they turn back

    @classmethod
    def draw(cls, scene: Scene, cover: float, speed_px: tuple[float, float], rng: np.random.Generator) -> Objects:
        """As many objects as cover a part of the scene.

        Parameters
        ----------
        scene
            Over which they move and from which they are cut.
        cover
            Sum of their areas, as a fraction of the scene's.
        speed_px
            Least and greatest speed, pixels a frame.
        rng
            Source of every draw.
        """
        height, width = scene.image.shape
        n = rng.poisson(cover * height * width / (np.pi * np.mean(np.square(OBJECT_RADIUS_PX))))
        radius_K = rng.uniform(*OBJECT_RADIUS_PX, n)
        angle_K, speed_K = rng.uniform(0, 2 * np.pi, n), rng.uniform(*speed_px, n)
        textures = []
        for radius in radius_K:
            side = min(2 * int(np.ceil(radius)) + 5, height, width)  # the disk, and three neighbors for interpolation
            row, column = rng.integers(height - side + 1), rng.integers(width - side + 1)
            textures.append(scene.image[row : row + side, column : column + side])
        return cls(
            start_px_K2=(rng.uniform(-0.5, 0.5, (n, 2)) * [width, height]).astype(np.float32),
            velocity_px_K2=(speed_K[:, None] * np.stack([np.cos(angle_K), np.sin(angle_K)], 1)).astype(np.float32),
            radius_px_K=radius_K.astype(np.float32),
            textures=textures,
            room_px=(width / 2, height / 2),
        )

    def paint(self, frames_THW: NDArray[np.uint8], gaze_px_T2: FloatArray) -> None:
        """Paint them over the frames around each gaze, in place."""
        n_frames, height, width = frames_THW.shape
        room_2, middle_2 = np.array(self.room_px), np.array([width - 1, height - 1]) / 2
        passed_T1 = np.arange(n_frames)[:, None]
        for start, velocity, radius, texture in zip(
            self.start_px_K2, self.velocity_px_K2, self.radius_px_K, self.textures, strict=True
        ):
            place_T2 = fold(start + passed_T1 * velocity, room_2) - gaze_px_T2 + middle_2
            seen_S = np.flatnonzero((np.abs(place_T2 - middle_2) < middle_2 + radius).all(1))
            if not len(seen_S):
                continue
            side = len(texture) - 3
            corner_S2 = place_T2[seen_S] - side / 2
            whole_S2 = np.ceil(corner_S2).astype(np.int64)
            part_S2 = (whole_S2 - corner_S2).astype(np.float32)
            weights_x, weights_y = catmull_rom(part_S2[:, 0]), catmull_rom(part_S2[:, 1])
            rows = np.array(sum(weights_y[:, k, None, None] * texture[k : k + side] for k in range(4)))
            shown_SYX = np.array(sum(weights_x[:, k, None, None] * rows[:, :, k : k + side] for k in range(4)))
            x_SX, y_SY = (whole_S2[:, i, None] + np.arange(side) for i in (0, 1))
            away_SYX = np.hypot(
                (x_SX - place_T2[seen_S, :1])[:, None].astype(np.float32),
                (y_SY - place_T2[seen_S, 1:])[..., None].astype(np.float32),
            )
            opaque_SYX = np.clip(radius + 0.5 - away_SYX, 0, 1)  # the edge is a pixel wide
            opaque_SYX *= ((y_SY >= 0) & (y_SY < height))[..., None] & ((x_SX >= 0) & (x_SX < width))[:, None]
            s, y, x = np.nonzero(opaque_SYX)
            at = seen_S[s], y_SY[s, y], x_SX[s, x]
            below = frames_THW[at].astype(np.float32)
            painted = below + opaque_SYX[s, y, x] * (shown_SYX[s, y, x] - below)
            frames_THW[at] = np.clip(np.rint(painted), 0, 255).astype(np.uint8)


def catmull_rom(part_T: FloatArray) -> FloatArray:
    """Weights of the four neighbors at -1, 0, 1, 2 for a place `part` (0..1) between 0 and 1: (T, 4)."""
    p = part_T[:, None]
    return np.concatenate(
        [
            -0.5 * p + p**2 - 0.5 * p**3,
            1 - 2.5 * p**2 + 1.5 * p**3,
            0.5 * p + 2 * p**2 - 1.5 * p**3,
            -0.5 * p**2 + 0.5 * p**3,
        ],
        axis=1,
    ).astype(np.float32)


def sway(seconds: float, frame_rate_hz: float, room_deg: NDArray[np.float64], rng: np.random.Generator) -> FloatArray:
    """How the scene moves before the eye as the body does, which no behavior tells: (T, 2) degrees, inside ±`room_deg`.

    Its velocity is a random walk that forgets (Ornstein-Uhlenbeck).
    """
    from scipy.signal import lfilter  # seconds that a process which simulates nothing does not wait for

    n_frames = round(seconds * frame_rate_hz)
    keep = np.exp(-1 / (SWAY_TAU_S * frame_rate_hz))
    noise_T2 = rng.standard_normal((n_frames, 2))
    noise_T2[1:] *= np.sqrt(1 - keep**2)
    velocity_T2 = SWAY_DEG_PER_S * lfilter([1.0], [1.0, -keep], noise_T2, axis=0)
    return fold(np.cumsum(velocity_T2, axis=0) / frame_rate_hz, room_deg).astype(np.float32)


def saccade_duration_s(amplitude_deg: float) -> float:
    """Duration of a saccade, in seconds (Carpenter 1988)."""
    return SACCADE_S + SACCADE_S_PER_DEG * amplitude_deg


def saccade_progress(time_s: FloatArray, duration_s: float) -> FloatArray:
    """Fraction of the way that a saccade has gone: the minimum-jerk profile.

    Its peak velocity is 1.875 · amplitude / duration.
    """
    p = np.clip(time_s / duration_s, 0, 1)
    return p**3 * (10 - 15 * p + 6 * p**2)


@dataclass(frozen=True)
class EyePath:
    """Where the eye looked, and the saccades that took it there."""

    position_T2: FloatArray  # (x, y) in degrees from the scene's center
    onset_s: NDArray[np.float64]  # (saccades,)
    amplitude_deg: NDArray[np.float64]  # (saccades,)


def eye_path(seconds: float, frame_rate_hz: float, room_deg: tuple[float, float], rng: np.random.Generator) -> EyePath:
    """Fixations with drift, joined by saccades and microsaccades, inside ±`room_deg` (x, y).

    Parameters
    ----------
    seconds
        Length of the path.
    frame_rate_hz
        Positions a second.
    room_deg
        The eye stays within this distance of the center, (x, y) in degrees.
    rng
        Source of every draw.

    References
    ----------
    Bahill, Clark & Stark 1975 (main sequence); Engbert & Kliegl 2003 (microsaccades are on it); Kuang, Poletti, Victor
    & Rucci 2012 (drift as a random walk).
    """
    n_frames = round(seconds * frame_rate_hz)
    time_T = np.arange(n_frames) / frame_rate_hz
    room = np.asarray(room_deg)
    step = np.sqrt(2 * DRIFT_ARCMIN2_PER_S / frame_rate_hz) / 60
    drift_T2 = np.cumsum(rng.normal(0, step, (n_frames, 2)), axis=0)

    position_T2 = np.zeros((n_frames, 2))
    fixated = rng.uniform(-0.5, 0.5, 2) * room
    begin_s, onsets, amplitudes = 0.0, [], []
    while True:
        duration_s = max(FIXATION_MIN_S, FIXATION_MEDIAN_S * np.exp(FIXATION_LOG_STD * rng.normal()))
        first, last = np.searchsorted(time_T, [begin_s, begin_s + duration_s])
        drift = drift_T2[first:last] - drift_T2[max(first - 1, 0)]
        # Folded back at the border of the scene, which keeps the walk continuous.
        position_T2[first:last] = fold(fixated + drift, room)
        if last >= n_frames:
            break
        start = position_T2[last - 1]
        target = saccade_target(start, room, rng)
        amplitude = float(np.hypot(*(target - start)))
        onset_s = begin_s + duration_s
        end_s = onset_s + saccade_duration_s(amplitude)
        landed = np.searchsorted(time_T, end_s)
        progress = saccade_progress(time_T[last:landed] - onset_s, end_s - onset_s)
        position_T2[last:landed] = start + progress[:, None] * (target - start)
        onsets.append(onset_s)
        amplitudes.append(amplitude)
        if landed >= n_frames:
            break
        begin_s, fixated = end_s, target
    return EyePath(position_T2.astype(np.float32), np.array(onsets), np.array(amplitudes))


def velocity(position_NT2: FloatArray, frame_rate_hz: float) -> FloatArray:
    """Of an eye at these positions, the same a second: (N, T, 2); 0 in a trial's first frame."""
    moved: FloatArray = np.diff(position_NT2, axis=1, prepend=position_NT2[:, :1]) * frame_rate_hz
    return moved


def fold(position_T2: NDArray[np.float64], room: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reflect positions at ±room until they are inside."""
    return np.abs((position_T2 - room) % (4 * room) - 2 * room) - room


def saccade_target(
    start: NDArray[np.float64], room: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Where the next saccade lands: amplitude by its distribution, direction uniform, inside the room."""
    micro = rng.random() < MICROSACCADE_FRACTION
    median, log_std = (
        (MICROSACCADE_MEDIAN_DEG, MICROSACCADE_LOG_STD) if micro else (SACCADE_MEDIAN_DEG, SACCADE_LOG_STD)
    )
    for _ in range(100):
        amplitude, angle = median * np.exp(log_std * rng.normal()), rng.uniform(0, 2 * np.pi)
        target = start + amplitude * np.array([np.cos(angle), np.sin(angle)])
        if np.all(np.abs(target) < room):
            return target
    return rng.uniform(-0.5, 0.5, 2) * room  # a small scene: somewhere near its middle
