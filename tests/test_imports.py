"""The layout of the package: arrows between packages point down, nothing imports in circles, and no file is too long.

The imports are read, not run: also those in functions and under ``TYPE_CHECKING``, which are arrows like any other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from vivit_core.models.likelihoods.gaussian import Gaussian
from vivit_core.models.likelihoods.negative_binomial import NegativeBinomial
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.likelihoods.zero_inflated_gamma import ZeroInflatedGamma
from vivit_core.training import baseline, own_filters

SOURCE = Path(__file__).parents[1] / "src"

# The order of the packages, once: each may import those of the lines above its own. Those of one line do not know each
# other. What every line may use comes first.
ORDER = (
    ("names",),
    ("system", "parts"),
    ("specs",),
    ("metrics",),
    ("data", "models", "stimuli"),
    ("rf",),
    ("plotting",),
    ("report",),
    ("training", "analysis"),
    ("testing",),
    ("cli",),
    ("__main__", "hydra_plugins"),
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}

# Libraries that one package alone knows: configuration is the command line's business, files are the data's.
KEPT = {"hydra": ("cli", "hydra_plugins"), "omegaconf": ("cli", "hydra_plugins"), "h5py": ("data",)}

Arrow = tuple[str, int, str]  # module, line, what it imports


def module_of(path: Path, source: Path) -> str:
    name = ".".join(path.relative_to(source).with_suffix("").parts)
    return name.removesuffix(".__init__")


def arrows_of(source: Path) -> tuple[set[str], list[Arrow]]:
    """All modules below a folder, and all that they import."""
    files = {module_of(path, source): path for path in sorted(source.rglob("*.py"))}
    arrows = [(name, *arrow) for name, path in files.items() for arrow in imported(name, path, files)]
    return set(files), arrows


def imported(name: str, path: Path, files: dict[str, Path]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:  # a module of a package, or something inside a module
                member = f"{module}.{alias.name}"
                yield node.lineno, member if member in files else module


def package_of(module: str) -> str:
    """The package, or the module, that stands right below ``vivit_core``; hydra's plugins are a room of their own."""
    words = module.split(".")
    return words[1] if words[0] == "vivit_core" and len(words) > 1 else words[0]


def wrong_arrows(arrows: list[Arrow]) -> list[str]:
    """What points up, or to the side. ``vivit_core/__init__.py`` is the package's face and may show anything."""
    found = []
    for module, line, target in arrows:
        a, b = package_of(module), package_of(target)
        if target.split(".")[0] in KEPT and a not in KEPT[target.split(".")[0]]:
            found.append(f"{module}:{line} imports {target}, which only {' and '.join(KEPT[target.split('.')[0]])} may")
        if not target.startswith("vivit_core") or module == "vivit_core" or a == b:
            continue
        if b == "vivit_core" or not LEVEL[b] < LEVEL[a]:
            found.append(f"{module}:{line} imports {target}")
    return found


def circle(edges: set[tuple[str, str]]) -> list[str]:
    """The names along a circle; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for a, b in edges:
        graph.setdefault(a, set()).add(b)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def circles(modules: set[str], arrows: list[Arrow]) -> list[str]:
    """Modules that import each other, and rooms of one package that do so by different modules."""
    inner = {(a, b) for a, _, b in arrows if b in modules and a != b}
    found = [circle(inner)]
    for parent in sorted({name.rsplit(".", 1)[0] for name in modules if "." in name}):
        depth = parent.count(".") + 1
        inside = [(a, b) for a, b in inner if a.startswith(f"{parent}.") and b.startswith(f"{parent}.")]
        rooms = {(a.split(".")[depth], b.split(".")[depth]) for a, b in inside}
        found.append([f"{parent}.{name}" for name in circle({(a, b) for a, b in rooms if a != b})])
    return [" → ".join(names) for names in found if names]


def test_every_package_has_a_place_in_the_order() -> None:
    modules, _ = arrows_of(SOURCE)
    there = {package_of(name) for name in modules} - {"vivit_core"}
    assert there <= set(LEVEL), f"say in ORDER where {sorted(there - set(LEVEL))} stand"


def test_the_page_has_the_same_order() -> None:
    """``CONTRIBUTING.md`` tells it from the top down."""
    page = (SOURCE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page[page.index("| layer |") :].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)(?:\.py)?`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert rows == [list(names) for names in reversed(ORDER[:-1])]


def test_arrows_point_down() -> None:
    _, arrows = arrows_of(SOURCE)
    assert len(arrows) > 1000
    assert wrong_arrows(arrows) == []


def test_nothing_imports_in_circles() -> None:
    assert circles(*arrows_of(SOURCE)) == []


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({"data/a.py": "import vivit_core.cli.main"}, "vivit_core.data.a:1 imports vivit_core.cli.main"),
        ({"data/a.py": "def f():\n    from vivit_core.models import b"}, "vivit_core.data.a:2 imports"),
        ({"specs.py": "if TYPE_CHECKING:\n    from vivit_core.rf.b import c"}, "vivit_core.specs:2 imports"),
        ({"data/a.py": "from ..cli import main"}, "vivit_core.data.a:1 imports vivit_core.cli"),
        ({"data/a.py": "from vivit_core import load_twin"}, "vivit_core.data.a:1 imports vivit_core"),
        ({"models/a.py": "from omegaconf import OmegaConf"}, "which only cli and hydra_plugins may"),
        ({"rf/a.py": "from vivit_core.rf import b", "rf/b.py": "from vivit_core.rf.a import c"}, " → "),
        (
            {
                "rf/a/x.py": "from vivit_core.rf.b import x",
                "rf/b/x.py": "",
                "rf/b/y.py": "from vivit_core.rf.a import z",
                "rf/a/z.py": "",
            },
            "vivit_core.rf.a → vivit_core.rf.b",
        ),
    ],
)  # fmt: skip
def test_it_is_noticed(tmp_path: Path, files: dict[str, str], wrong: str) -> None:
    """Arrows up and to the side, also hidden ones; circles of modules, and of rooms."""
    for name, text in files.items():
        for folder in (tmp_path / "vivit_core" / name).parents:
            if folder.is_relative_to(tmp_path / "vivit_core"):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "__init__.py").touch()
        (tmp_path / "vivit_core" / name).write_text(text)
    modules, arrows = arrows_of(tmp_path)
    found = [*wrong_arrows(arrows), *circles(modules, arrows)]
    turned = {" → ".join(names.split(" → ")[::-1]) for names in found}
    assert any(wrong in line for line in [*found, *turned]), found


# What modules that decide import, and what decides nothing of what is kept.
DECIDES_NOTHING = {
    "vivit_core.models.predictor": "how a fitted model is asked",
    "vivit_core.models.streaming": "how a fitted model is asked",
    "vivit_core.models.likelihoods.poisson": "by it a fitted LN is scored; the fit has likelihoods of its own",
    "vivit_core.models.twin": "what it says of frames and units is in the key",
    "vivit_core.models.readouts.base": "a drive's name and fields",
}


def undecided(code: set[str]) -> set[str]:
    """Modules that code imports, and these import, which are neither in it nor said to decide nothing."""
    _, arrows = arrows_of(SOURCE)
    follows = {target for module, _, target in arrows if module in code}
    decides = {module for module in follows if package_of(module) in ("models", "rf", "training")}
    return decides - code - set(DECIDES_NOTHING)


def test_what_is_kept_knows_all_code_that_decides() -> None:
    """A fit that is found in the user's cache is the one that the code of today would find."""
    assert undecided({module.__name__ for module in baseline.CODE}) == set()
    for likelihood in (Poisson, NegativeBinomial, Gaussian, ZeroInflatedGamma):
        code = [*own_filters.CODE, *own_filters.code_of(likelihood)]
        assert likelihood.__module__ in {module.__name__ for module in code}
        assert undecided({module.__name__ for module in code}) == set()
    assert undecided({baseline.__name__}) >= {module.__name__ for module in baseline.CODE[1:4]}


MOST_LINES = 400


def too_long(source: Path) -> list[str]:
    """Files above ``MOST_LINES`` lines whose header does not say why, in a sentence with "long because"."""
    found = []
    for path in sorted(source.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        header = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
        if lines > MOST_LINES and "long because" not in header:
            found.append(f"{path.relative_to(source)}: {lines} lines")
    return found


def test_a_long_file_says_why() -> None:
    assert too_long(SOURCE) == []


def test_a_long_file_is_noticed(tmp_path: Path) -> None:
    lines = "a = 1\n" * (MOST_LINES - 1)
    for name, header in {
        "short": '"""Short."""\n',
        "long": '"""Long."""\n\n',
        "reason": '"""All codes. It is long\nbecause the standard has as many."""\n',
    }.items():
        (tmp_path / f"{name}.py").write_text(header + lines)
    assert too_long(tmp_path) == [f"long.py: {MOST_LINES + 1} lines"]
