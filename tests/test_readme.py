"""The README says what is there: every file has its place in the tree, and both commands are complete."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_module_has_its_place_in_the_tree() -> None:
    tree = README.split("## The files")[1].split("```")[1]
    named = set(re.findall(r"[\w]+\.(?:py|c)\b", tree)) | {"__init__.py"}
    files = [*ROOT.glob("app/**/*.py"), *ROOT.glob("makemore_core/*.py"), *ROOT.glob("makemore_core/*.c")]
    assert {path.name for path in files} - named == set()
    assert named - {path.name for path in [*files, *ROOT.glob("tests/*.py")]} == set()


def test_both_commands_go_through_the_pinned_versions() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert all("-c constraints.txt" in command for command in commands)
    assert re.search(r"^torch==2\.13\.0$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_the_picture_at_the_top_is_there() -> None:
    picture = re.search(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert picture is not None
    assert (ROOT / picture[1]).stat().st_size > 1000
