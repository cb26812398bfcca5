"""Make docs/gallery.md: what the analyses of a trained checkpoint look like.

    python docs/gallery.py CHECKPOINT [key=value …]

Runs each task of TASKS on the checkpoint, with the given overrides, into outputs/gallery/, and copies their pictures,
made small, into docs/gallery/. A task whose pictures are there already is not run again; delete its folder for that.
"""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import camera

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
OUTPUTS = ROOT / "outputs" / "gallery"
WIDTH = 1000  # px; most width of a picture
MOST_BYTES = 140_000  # of a picture

# task -> (title, its overrides, pictures: glob below the run's folder, and caption)
TASKS: dict[str, tuple[str, list[str], list[tuple[str, str]]]] = {
    "evaluate": (
        "How well it predicts",
        ["behavior_controls=true"],
        [
            ("distribution.png", "Scores over units, beside the linear-nonlinear model's and the true rates'."),
            ("rasters_*.png", "The best and the worst units: repeats of a stimulus, and averages over them."),
            ("repeats_*.png", "A good, a middling and a poor unit: averages over repeats, measured and predicted."),
            ("performance.png", "Scores by the readout's distance from the frame's border, and by rate."),
            ("center_errors.png", "How far the readouts lie from the true receptive fields."),
            ("behavior_share.png", "What is lost where another behavior stands in for the animal's."),
        ],
    ),
    "attention": (
        "Where it attends",
        [],
        [
            ("attention_heads.png", "Attention of each head over the stimulus."),
            ("attention_rollout.png", "Attention of all blocks together, rolled out to pixels and frames."),
            ("attention_by_head.png", "How widely, how far and how far back each head looks."),
            ("attention_units.png", "Which tokens change some units' rates."),
            ("attention_surround_surround.png", "Where units with a gated surround find their like, and the truth."),
            ("attention_surround_motion.png", "Where units of object motion find their own motion, and the truth."),
            ("attention_past_adaptation.png", "How far back the gain of units that adapt looks, and the truth."),
        ],
    ),
    "receptive_fields": (
        "What its units see",
        [],
        [
            ("readouts_*.png", "Where each unit's readout looks."),
            ("fields_*.png", "Receptive fields of a few units by each method."),
            ("errors.png", "How far they are from the truth."),
        ],
    ),
    "predict": (
        "What it predicts for a video",
        [
            "video=outputs/gallery/film.npy",
            "frame_rate_hz=30",
            "degrees_per_pixel=fill",
            "out=outputs/gallery/predict/rates.h5",
        ],
        [
            ("prediction_*.png", "A frame as the model sees it, and the rates of the units that change most."),
        ],
    ),
    "tuning": (
        "What its units prefer",
        [],
        [
            ("tuning_*.png", "Responses of a few units to drifting gratings."),
            ("exciting_*.png", "The images that excite a few units most, beside the best natural ones."),
            ("population.png", "What all units prefer."),
            ("protocol_surround.png", "What a grating around the preferred one does, by its orientation and distance."),
            ("against_truth.png", "What the twin says, beside what the true neurons do under the same stimuli."),
        ],
    ),
    "stream": (
        "How long a bin takes",
        ["bins=1200", "exports=[outputs/gallery/torch,outputs/gallery/onnx]"],
        [
            (
                "*.png",
                "Times of single bins of the stream and of its exports, one after the other, and which share of them "
                "takes longer than a time; beside what a bin lasts in the recording, the deadline.",
            )
        ],
    ),
}

# Pictures that this script does not make: (title, command, file in docs/gallery/, caption).
OTHERS = [
    (
        "Which of two twins predicts better",
        "python run.py task=compare checkpoints=[RESNET,VIVIT] names=[resnet,vivit]",
        "compare_units.png",
        "Bits per spike of each unit under both; the line is where they tie.",
    ),
    (
        "How large a grating may be",
        "python run.py task=tuning checkpoint=simulated mei=null protocols=[] data.simulator.recordings=1",
        "size_tuning.png",
        "Mean rate of one unit of the twin that comes with the package, by the diameter of its preferred grating. "
        "The tutorial [Size tuning](tutorials/size_tuning.md) draws it.",
    ),
    (
        "A report to explore",
        "python run.py task=evaluate checkpoint=PATH",
        "explorer.png",
        "The units in report.html: they are sorted, filtered and chosen, in the table or in the picture, and the best "
        "one is open here.",
    ),
    (
        "A twin to share",
        "python run.py task=publish checkpoint=PATH out=my_twin",
        "card.png",
        "The first part of the card, README.md, of a published folder.",
    ),
    (
        "How more data would help",
        "python run.py task=scaling sweeps=[FEW_SHOT_FOLDER,FROM_NOTHING_FOLDER]",
        "scaling.png",
        "A new recording on a trained core that is frozen or learns slowly, and from nothing: scores over minutes, and "
        "what twice as many would add. The trainings had 72 steps and small frames ([Log](log.md) has their commands).",
    ),
]


def main() -> None:
    checkpoint, overrides = Path(sys.argv[1]).resolve(), sys.argv[2:]
    (DOCS / "gallery").mkdir(exist_ok=True)
    film(OUTPUTS / "film.npy")
    for kind in ("torch", "onnx"):
        export(checkpoint, kind, OUTPUTS / kind)
    text = [
        "# Gallery",
        "",
        "What the analyses give for the twin that `make train` leaves, on simulated recordings. Each task writes its",
        "pictures into its run folder, and all of them stand in one page, the training's `report.html`. Made by",
        "",
        f"    python docs/gallery.py CHECKPOINT {shlex.join(overrides)}".rstrip(),
        "",
    ]
    for task, (title, own, pictures) in TASKS.items():
        folder = OUTPUTS / task
        command = ["run.py", f"task={task}", *own, *overrides]
        if not list((folder / "pictures").glob("*.png")):
            words = [sys.executable, *command, f"checkpoint={checkpoint}", f"hydra.run.dir={folder}"]
            done = subprocess.run(words, cwd=ROOT, check=False)
            if done.returncode:
                print(f"task={task} ended with {done.returncode}: it has no place in the gallery")
                continue
        text += [f"## {title}", "", f"    python run.py task={task} checkpoint=PATH {' '.join(own)}".rstrip(), ""]
        for pattern, caption in pictures:
            for path in sorted((folder / "pictures").glob(pattern))[:1]:
                name = path.name if path.stem.startswith(task) else f"{task}_{path.name}"
                (DOCS / "gallery" / name).write_bytes(small(path))
                text += [f"![{caption}](gallery/{name})", "", caption, ""]
    for title, made_by, name, caption in OTHERS:
        text += [f"## {title}", "", f"    {made_by}", "", f"![{title}.](gallery/{name})", "", caption, ""]
    (DOCS / "gallery.md").write_text("\n".join(text).rstrip() + "\n")


def film(path: Path) -> None:
    """Ten seconds of a photograph that moves, 30 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    places = (np.stack([np.sin(np.arange(300) / 23), np.cos(np.arange(300) / 31)], 1) * 40 + 150).astype(int)
    np.save(path, np.stack([camera()[y : y + 108, x : x + 192] for y, x in places]))


def export(checkpoint: Path, kind: str, out: Path) -> None:
    """The stream of the first recording for a rig, for the picture of how long its bins take."""
    if not out.exists():
        words = ["task=export", f"checkpoint={checkpoint}", "recording=sim0", f"format={kind}", f"out={out}"]
        subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, check=True)


def small(path: Path) -> bytes:
    """A picture of at most WIDTH px and MOST_BYTES."""
    picture = Image.open(path).convert("RGB")
    for width in (WIDTH, 800, 640, 480):
        scale = min(1.0, width / picture.width)
        size = (round(picture.width * scale), round(picture.height * scale))
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).quantize(128).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    return buffer.getvalue()


if __name__ == "__main__":
    main()
