"""A published twin is the twin, from its folder and from a hub, with and without a network; what is none is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from hub_server import Hub
from safetensors.torch import load_file, save_file
from tiny_models import GRU, clips, spec, twin, vivit

from vivit_core import load_twin
from vivit_core.models.checkpoint import FORMAT
from vivit_core.models.ensemble import Ensemble
from vivit_core.models.hub import fetched, push
from vivit_core.models.ln import LN
from vivit_core.models.load import baseline_in, read_trained
from vivit_core.models.published import CONFIG, WEIGHTS, read_published, shared, write_published
from vivit_core.models.twin import Twin
from vivit_core.system.files import NoRoomError
from vivit_core.system.plain import MOST_TEXT_BYTES

SPEC = spec()


@pytest.fixture(scope="module")
def made() -> Twin:
    return twin(vivit())


@pytest.fixture
def folder(made: Twin, tmp_path: Path) -> Path:
    ln = LN([SPEC], duration_s=0.05, patch=3, nonlinearity="exp")
    write_published(tmp_path / "twin", made, ln, {"data": {"clip_length": 60}})
    return tmp_path / "twin"


def same(loaded: Twin, made: Twin) -> bool:
    shown = clips(SPEC, count=1)
    arguments = ("a", shown["frames"][0].numpy(), shown["behavior"][0].numpy())
    return bool(np.array_equal(loaded.rates(*arguments), made.rates(*arguments)))


def test_the_folder_is_the_twin(made: Twin, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert same(load_twin(folder), made) and same(load_twin(str(folder)), made)
    content = read_trained(folder)
    baseline = baseline_in(folder, content)
    assert isinstance(baseline, LN) and baseline.readout("a").range_U2.isinf().all()
    assert content["settings"] == {"data": {"clip_length": 60}}


def test_without_a_baseline_and_settings(made: Twin, tmp_path: Path) -> None:
    write_published(tmp_path, made, None, None)
    assert same(load_twin(tmp_path), made) and baseline_in(tmp_path, read_trained(tmp_path)) is None


def test_settings_tell_no_place_and_no_other_recordings() -> None:
    data = {"recordings": ["/home/me/a.h5"], "root": None, "cache": "/home/me/cache", "simulator": {}, "burn_in": 3}
    assert shared({"data": data, "outputs": "/home/me"}) == {
        "data": {"recordings": None, "root": None, "cache": "simulated", "simulator": None, "burn_in": 3}
    }
    assert shared({"data": data | {"recordings": None}})["data"]["simulator"] == {}
    assert shared(None) is None


def test_a_description_may_be_as_large_as_many_units_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has all units' ids, means and places, of LN and of each member once more, and so has the weights' bytes."""
    monkeypatch.setitem(MOST_TEXT_BYTES, ".json", 1 << 12)
    many = spec(units=400)
    model = Ensemble([twin(vivit(spatial_depth=1, temporal_depth=1), many) for _ in range(2)])
    write_published(tmp_path, model, LN([many], duration_s=0.05, patch=3, nonlinearity="exp"), None)
    assert (tmp_path / CONFIG).stat().st_size > 10 * (1 << 12)
    assert load_twin(tmp_path).specs["a"] == many


def test_what_could_not_be_loaded_again_is_refused_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST_TEXT_BYTES, ".json", 1 << 12)
    named = replace(SPEC, unit_ids=tuple(f"{unit}" * 100_000 for unit in range(SPEC.n_units)))
    with pytest.raises(ValueError, match=r"could not be loaded again: .*config\.json: .* at most .* are read"):
        write_published(tmp_path, twin(vivit(), named), None, None)


# What is no twin ----------------------------------------------------------------------------------------------------


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        values = json.loads((folder / CONFIG).read_text())
        change(values)
        (folder / CONFIG).write_text(json.dumps(values))

    return changed


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        values = load_file(folder / WEIGHTS)
        change(values)
        save_file(values, folder / WEIGHTS)

    return changed


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda f: (f / CONFIG).unlink(), r"not a published twin, because it holds no config\.json; give"),
    "a run": (
        lambda f: ((f / CONFIG).unlink(), (f / "checkpoints").mkdir()),
        r"this is a run folder: give its checkpoints/best\.ckpt",
    ),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), r"config\.json: not readable"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), r"config\.json: not readable .*should hold a dict"),
    "another's": (
        lambda f: (f / CONFIG).write_text('{"architectures": ["Bert"]}'),
        r"not the description of a twin: it holds architectures, and should hold ln, settings, twin, vivit_core",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), r"model\.safetensors: not readable weights"),
    "half": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:5000]), r"not readable weights"),
    "pickled": (lambda f: torch.save({"a": torch.ones(1)}, f / WEIGHTS), r"not readable weights"),
    "format": (
        config(lambda c: c["vivit_core"].update(format=FORMAT + 1)),
        rf"its format is number {FORMAT + 1}.* reads number {FORMAT}",
    ),
    "code": (config(lambda c: c["twin"].update(_target_="os.system")), r"os"),
    "code inside": (
        config(lambda c: c["twin"]["model"].update(modulator=GRU | {"_target_": "mine.Gru"})),
        r"needs mine",
    ),
    "huge": (config(lambda c: c["twin"]["model"].update(embedding_dim=10**6)), r"describes no twin|do not fit"),
    "lacking": (weights(lambda w: w.pop("twin.core.norm.weight")), r"do not fit .* 1 of"),
    "more": (weights(lambda w: w.update({"twin.mine": torch.ones(3)})), r"do not fit .*twin\.mine|do not fit .*mine"),
    "NaN": (weights(lambda w: w["twin.core.norm.weight"].fill_(float("nan"))), r"not all finite"),
    "halved": (weights(lambda w: w.update({"twin.core.norm.weight": torch.ones(16).half()})), r"do not fit"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_is_no_twin_is_refused_in_a_line(folder: Path, what: str) -> None:
    breaking, message = BROKEN[what]
    breaking(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_twin(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_full_disk_leaves_no_twin(made: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full is one without any room at all."""
    monkeypatch.setattr("vivit_core.system.files.uuid4", lambda: type("Id", (), {"hex": "01234567"}))
    for name in (WEIGHTS, CONFIG):
        (tmp_path / f".{name}.01234567.tmp").symlink_to("/dev/full")
        with pytest.raises(NoRoomError, match=rf"no room to write .*{name}: No space left on device"):
            write_published(tmp_path, made, None, None)
        with pytest.raises(ValueError, match="not a published twin"):
            read_published(tmp_path)


# The hub ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between trials
    with Hub() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
        template = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


def test_a_twin_is_fetched_once_and_then_needs_no_network(made: Twin, folder: Path, hub: Hub) -> None:
    (folder / "model.py").write_text("raise SystemExit('ran')")
    hub.put("lab/twin", folder)
    assert same(load_twin("hf://lab/twin"), made)
    assert same(load_twin(Path("hf://lab/twin")), made)  # as a setting is taken
    assert not [path for path in hub.asked if "model.py" in path]
    gets = [path for path in hub.asked if path.startswith("GET") and "resolve" in path]
    assert len(gets) == 2, "what is cached is not fetched again"
    hub.close()
    huggingface_hub.close_session()  # whose connections outlive the server
    assert same(load_twin("hf://lab/twin"), made)
    with pytest.raises(ValueError, match=r"hf://lab/other: LocalEntryNotFoundError: .*try again"):
        load_twin("hf://lab/other")


def test_a_revision_is_the_one_that_is_named(made: Twin, folder: Path, tmp_path: Path, hub: Hub) -> None:
    first = hub.put("lab/twin", folder)
    other = twin(vivit(modulator=None))
    write_published(tmp_path / "other", other, None, None)
    hub.put("lab/twin", tmp_path / "other")
    assert same(load_twin("hf://lab/twin"), other)
    for revision in ("v0", first):
        assert same(load_twin(f"hf://lab/twin@{revision}"), made)
    with pytest.raises(ValueError, match=r"hf://lab/twin@gone: RevisionNotFoundError"):
        load_twin("hf://lab/twin@gone")


def test_what_is_pushed_is_what_is_loaded(made: Twin, folder: Path, hub: Hub) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (folder / "secret.txt").write_text("mine")
    files = ["README.md", WEIGHTS, CONFIG]
    assert push(folder, "lab/twin", private=True, files=files) == f"{hub.url}/lab/twin"
    assert sorted(hub.repos["lab/twin"][-1]) == sorted(files) and hub.private["lab/twin"]
    assert same(load_twin("hf://lab/twin"), made)


def test_what_is_to_be_private_is_not_pushed_to_a_public_repository(folder: Path, hub: Hub) -> None:
    files = [WEIGHTS, CONFIG]
    push(folder, "lab/twin", private=False, files=files)
    before = len(hub.repos["lab/twin"])
    with pytest.raises(ValueError, match=r"hf://lab/twin: this repository is there and is public, .* private=false"):
        push(folder, "lab/twin", private=True, files=files)
    assert len(hub.repos["lab/twin"]) == before
    push(folder, "lab/twin", private=False, files=files)
    assert len(hub.repos["lab/twin"]) == before + 1


NONSENSE: dict[str, tuple[str, tuple[int, dict[str, str], bytes] | None]] = {
    "hangs up": (CONFIG, None),
    "is down": (CONFIG, (500, {}, b"")),
    "says no": (CONFIG, (401, {"X_Error_Code": "GatedRepo", "X_Error_Message": "log in"}, b"")),
    "is a page": (CONFIG, (200, {}, b"<html>please log in</html>")),
    "gives no description": (CONFIG, (200, {"ETag": '"a"', "X_Repo_Commit": "0" * 40}, b"<html>")),
    "gives no weights": (WEIGHTS, (200, {"ETag": '"b"', "X_Repo_Commit": "0" * 40}, b"<html>")),
    "turns around": (CONFIG, (302, {"Location": "/lab/twin/resolve/main/config.json"}, b"")),
    "has no commit": (CONFIG, (200, {"ETag": '"a"', "X_Repo_Commit": "../../../../out"}, b"{}")),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_hub_that_answers_nonsense_is_refused_in_a_line(folder: Path, tmp_path: Path, hub: Hub, what: str) -> None:
    hub.put("lab/twin", folder)
    end, answer = NONSENSE[what]
    hub.nonsense[end] = answer
    with pytest.raises(ValueError, match=r"hf://lab/twin: |config\.json: not readable|not readable weights") as caught:
        load_twin("hf://lab/twin")
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"twin", "cache"}


@pytest.mark.parametrize(
    ("end", "answer"),
    [("create", (403, {}, b"<html>no</html>")), ("create", (200, {}, b"<html>")), ("main", (200, {}, b"{}"))],
)
def test_a_hub_that_refuses_an_upload(folder: Path, hub: Hub, end: str, answer: Any) -> None:
    hub.nonsense[end] = answer
    with pytest.raises(ValueError, match=r"hf://lab/twin: \w+: ") as caught:
        push(folder, "lab/twin", private=True, files=[WEIGHTS, CONFIG])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["hf://", "hf://twin", "hf://a/b/c", "hf://a/b@", "hf://a b/c", "hf:///a"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"not an address on the Hub; give hf://user/name"):
        fetched(address)
    with pytest.raises(ValueError, match="push=a/b/c: not a name on the Hub"):
        push(Path("x"), "a/b/c", private=True, files=[])


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r'hf://lab/twin: .* pip install "vivit-core\[hub\]"'):
        fetched("hf://lab/twin")
