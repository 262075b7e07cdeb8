"""What the tests share: the names to learn from, and the limits under which everything is run."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from makemore_core.dataset import Dataset, embedded_names, read

hypothesis.settings.register_profile("makemore", deadline=None, print_blob=True)
hypothesis.settings.load_profile("makemore")

# Without a GPU, Triton's kernels are run by its interpreter; it is asked for before they are imported.
os.environ.setdefault("TRITON_INTERPRET", "0" if Path("/dev/nvidiactl").exists() else "1")

# What whoever runs the tests has set for runs of their own.
for name in ("MAKEMORE_RUNS", "MAKEMORE_THEME", "COLORFGBG", "NO_COLOR"):
    os.environ.pop(name, None)

# Started in the background by a shell, or by nohup, the tests ignore these, and so would every program they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

LECTURE_NAMES = "MAKEMORE_LECTURE_NAMES"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Nets this small lose their speed to threads. torch is not imported for it: many tests need none."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_idling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pilot waits up to a second for an app to be idle, which one that draws 60 times a second never is."""
    if wait := sys.modules.get("textual._wait"):
        monkeypatch.setattr(wait, "SLEEP_IDLE", math.inf)


@pytest.fixture(scope="session")
def lecture_names() -> Path:
    """The lectures' own data set, which this repository does not carry."""
    path = os.environ.get(LECTURE_NAMES)
    if not path:
        pytest.skip(f"{LECTURE_NAMES} does not name the lectures' names.txt, whose numbers are checked here")
    return Path(path)


@pytest.fixture(scope="session")
def names() -> Dataset:
    """The embedded names."""
    return read(embedded_names())


@pytest.fixture(scope="session")
def few_names_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hundred of the embedded names, for whatever trains many nets."""
    path = tmp_path_factory.mktemp("data") / "few.txt"
    path.write_text("\n".join(embedded_names().read_text("utf-8").split("\n")[:600]), "utf-8")
    return path


@pytest.fixture(scope="session")
def few_names(few_names_file: Path) -> Dataset:
    """The same, read."""
    return read(few_names_file)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files and folders that were put onto the disk itself, in order."""
    names, fsync = list[str](), os.fsync

    def noted(fd: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    return names


@pytest.fixture
def text_file(tmp_path: Path) -> Callable[[bytes], Path]:
    """Writes bytes to a file of this test's own."""

    def write(content: bytes) -> Path:
        path = tmp_path / "items.txt"
        path.write_bytes(content)
        return path

    return write
