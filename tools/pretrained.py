"""Train the twin that comes with the package, and put it in its place in the source; ``make pretrained`` runs this.

    python tools/pretrained.py        # go on where it was stopped; nothing is trained again where it has finished

The training is one process of one thread, of a fixed number of steps, so that the machine's pace changes nothing. On
another kind of processor the last digits differ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from vivit_core.models.shipped import shipped

ROOT = Path(__file__).resolve().parents[1]
NAME = "simulated"
RUN = ROOT / "outputs" / "pretrained"
SCORES = "scores.json"
SEED = 0
TRAINING = [
    f"seed={SEED}",
    "data/simulator/context=none",  # its units are those that the tutorials tell of
    # Of the default model's 2.7 million parameters these blocks leave half a million.
    *("model.embedding_dim=96", "model.spatial_depth=2", "model.temporal_depth=2", "model.compile=false"),
    *("trainer.device=cpu", "trainer.max_minutes=inf", "trainer.epochs=4", "trainer.steps_per_epoch=54"),
]
CARD = {
    "title": "The twin that comes with vivit-core",
    "license": "mit",
    "authors": "The authors of vivit-core",
    "note": f"For tutorials, tests and first tries: load_twin({json.dumps(NAME)}) loads it. make pretrained trained "
    f"it, with seed {SEED}. {SCORES} holds the whole command, and the scores in full.",
}
MOST_BYTES = 6_000_000  # of all files


def run(*words: str) -> None:
    """One command of the program, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, env=environment, check=True)


def main() -> None:
    run(*TRAINING, f"hydra.run.dir={RUN}", "resume=auto")
    summary: dict[str, Any] = json.loads((RUN / "summary.json").read_text(encoding="utf-8"))
    for name, own in summary["recordings"].items():
        if not own["bps_mean"] > own["ln_bps_mean"]:
            sys.exit(f"{name}: {own['bps_mean']:.3f} bits per spike, and LN has {own['ln_bps_mean']:.3f}")
    made = RUN / "published"
    shutil.rmtree(made, ignore_errors=True)
    about = [f"{key}={json.dumps(value)}" for key, value in CARD.items()]
    run("task=publish", f"checkpoint={RUN / 'checkpoints' / 'best.ckpt'}", f"out={made}", *about)
    for own in (summary, *summary["recordings"].values()):
        del own["checkpoint"]  # a place on this disk
    environment = json.loads((RUN / "environment.json").read_text(encoding="utf-8"))
    by = {"commit": environment["git"]["commit"], "torch": environment["versions"]["torch"]}
    scores = {"seed": SEED, "command": ["run.py", *TRAINING], "by": by, "summary": summary}
    (made / SCORES).write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        sys.exit(f"{made}: {size / 1e6:.1f} MB, and at most {MOST_BYTES / 1e6:g} MB come with the package")
    place = shipped(NAME)
    assert place is not None
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(made, place)
    print(f"wrote {place}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
