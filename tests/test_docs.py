"""Every command that README and docs show is run, every key they name exists, every file they point to is there."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli import cli
from app.keys import KEYS
from makemore_core import reproduce
from makemore_core.command import Stop
from makemore_core.control import ControlClient
from makemore_core.dataset import embedded_names, read
from makemore_core.diagnostics import DeadUnits
from makemore_core.doctor import LIMITS
from makemore_core.presets import PRESETS
from makemore_core.trainer import Trainer
from tests.terminal import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FEW = ["--headless", "--steps", "10"]  # instead of a screen and a whole run
NAMES = ["--data", "names.txt"]  # a few, so that whole splits are soon evaluated
FINDS = ("doctor", "bench")  # may exit with 1: they have found something; so may a run that diverges


def commands(page: Path) -> list[str]:
    """The lines of shell blocks that begin with the program's name."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("makemore")]


def inline(page: Path) -> Iterator[str]:
    """What stands between backticks outside of blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)


def runnable(words: list[str]) -> list[str]:
    """The same command without a screen, where nobody ends a pause, and with few steps; all else of it is kept."""
    words = [word for word in words if word != "--paused"]
    name = next((word for word in words if not word.startswith("-")), "train")
    first = words[0] if words else ""
    if first.startswith("-") or not words or name == "train":
        return [*words, *NAMES, *(option for option in FEW if "--detach" not in words)]
    if name == "find-lr":
        return [*words, *NAMES]
    return [*words, "--headless"] if first == "resume" else words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "rows", lambda *_: reproduce.fifty_layers())  # the whole is minutes of work
    few = embedded_names().read_text().splitlines()[::50]
    (tmp_path / "names.txt").write_text("\n".join(few))
    for line in commands(page):
        words = shlex.split(line)[1:]
        if words[:1] == ["resume"]:  # of the latest run: one that is over soon
            for folder in (tmp_path / "runs").glob("*"):
                stop(folder)
            assert run(["train", *NAMES, *FEW]) == 0
        if words[:1] == ["attach"]:
            with pytest.raises(ValueError, match="terminal"):
                run(words)
            continue
        status = run(runnable(words))
        assert status == 0 or (status == 1 and (words[0] in FINDS or "deep-linear " in line)), line
    for folder in (tmp_path / "runs").glob("*"):
        stop(folder)


def run(words: list[str]) -> int:
    """The command in this process; its exit status."""
    status = cli.main(words, prog_name="makemore", standalone_mode=False)
    return int(status or 0)


def stop(folder: Path) -> None:
    """End a run that is trained in the background; nothing where none is."""
    client = ControlClient(folder)
    with contextlib.suppress(ValueError):
        client.request(Stop(), 20.0)
    client.close()


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_every_key_that_is_named(page: Path) -> None:
    keys = {name for key in KEYS for name in (*key.keys, key.shown)}
    named = {word for word in inline(page) if len(word) == 1 or word == "enter"}
    assert named <= keys


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []


def test_the_pages_show_every_preset_and_the_index_every_page() -> None:
    shown = "\n".join(line for page in PAGES for line in commands(page))
    assert [name for name in PRESETS if not re.search(rf"{name}(?![\w-])", shown)] == []
    index = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in PAGES[2:] if page.name != "README.md" and f"({page.name})" not in index] == []


def test_what_is_shown_as_initialised_waits_before_it_has_learned() -> None:
    shown = {page.name: commands(page) for page in PAGES}
    of_the_start = ("gain.md", "linear.md", "fifty-layers.md", "kaiming.md")
    assert [line for name in of_the_start for line in shown[name] if not line.endswith(" --paused")] == []
    lines = "\n".join(line for found in shown.values() for line in found)
    waiting = [name for name, preset in PRESETS.items() if "--paused" in preset.look_at]
    assert [name for name in waiting if f"--preset {name} --paused" not in lines] == []


def test_the_bounds_that_a_page_gives_are_the_doctor_s() -> None:
    page = (ROOT / "docs" / "updates.md").read_text()
    assert f"Above {LIMITS['updates_large']:g} the" in page
    assert f"below {LIMITS['updates_small']:g} training" in page


def test_the_net_that_is_to_show_dead_units_kills_some() -> None:
    relu = PRESETS["mlp-original"].config().replace({"nonlinearity": "relu", "engine": "plain"})
    trainer = Trainer(relu, read(None))
    trainer.advance(2000)  # as the page has it; by then there are more than ten, whatever the seed
    dead = DeadUnits(trainer.model)
    dead.look(trainer.train.x)
    assert dead.any()
