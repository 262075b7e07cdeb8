"""Which way imports may point: a viewer never waits for torch, the core knows no screen. Checked in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("makemore_core", "app")
    for path in sorted((ROOT / package).rglob("*.py"))
]
CORE = [module for module in MODULES if module.startswith("makemore_core")]
APP = [module for module in MODULES if module.startswith("app")]
# What a viewer of another process's run reads it with.
VIEWERS = [
    f"makemore_core.{name}"
    for name in (
        "config",
        "snapshot",
        "command",
        "answers",
        "presets",
        "dataset",
        "files",
        "record",
        "recordlines",
        "rundir",
        "address",
        "control",
        "attach",
        "watch",
        "aside",
        "doctor",
    )
]
SCREENLESS = ["app.__main__", "app.cli", "app.glyphs", "app.history", "app.headless", "app.report"]
OPTIONAL = ("jax", "triton")  # packages that a module may be for

TABLE = {
    "the app and what a viewer needs load no torch": (APP + VIEWERS, ("torch", "numpy", "safetensors")),
    "the core knows no screen": (CORE, ("textual", "plotext", "app")),
    "a command line without a screen loads no textual": (SCREENLESS + VIEWERS, ("textual", "plotext", "torch")),
}

IMPORT = """
import importlib, sys
optional, forbidden = sys.argv[1].split(","), sys.argv[2].split(",")
for name in sys.argv[3:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in optional:
            raise
    for module in forbidden:
        if module in sys.modules:
            sys.exit(f"{name} loads {module}")
"""

RUN = """
import sys
from app.__main__ import main
try:
    main()
except SystemExit as end:
    status = end.code or 0
loaded = [module for module in ("torch", "textual", "plotext", "numpy") if module in sys.modules]
sys.exit(f"loads {loaded}" if loaded else status)
"""


def python(code: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`code` in a fresh process that finds this repository's packages."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", *arguments],
        capture_output=True, text=True, cwd=cwd, timeout=120, check=False,
    )  # fmt: skip


def test_the_table_names_modules_that_are_there() -> None:
    assert len(CORE) > 10
    assert len(APP) > 1
    assert not set(VIEWERS + SCREENLESS) - set(MODULES)


@pytest.mark.parametrize("rule", TABLE)
def test_import_directions(rule: str) -> None:
    """All modules of a rule in one process: where that holds, it holds for each of them alone."""
    modules, forbidden = TABLE[rule]
    done = python(IMPORT, ",".join(OPTIONAL), ",".join(forbidden), *modules)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["presets"], ["--version"], ["runs"]], ids=" ".join
)
def test_commands_that_train_nothing_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    done = python(RUN, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.replace("no runs in runs yet; makemore begins one\n", "")) == (0, "")
