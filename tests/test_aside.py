"""A view of another process's run stays off the processor that the run is trained on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

# Holds a run's lock as a trainer does and works on the processors it is told, one after the other.
TRAINS = """
import os, sys, threading
from pathlib import Path
from makemore_core.rundir import RunLock

def train():
    RunLock(Path(sys.argv[1])).acquire()
    for line in sys.stdin:
        os.sched_setaffinity(0, {int(line)})
        sum(range(10**6))
        print("there", flush=True)

thread = threading.Thread(target=train)
thread.start()
thread.join()
"""

LOOKS = """
import sys, os
from pathlib import Path
from makemore_core import aside
aside.AGAIN = 0.0
view = aside.Aside(Path(sys.argv[1]))
print(os.nice(0), flush=True)
for line in sys.stdin:
    view.keep()
    print(sorted(os.sched_getaffinity(0)), flush=True)
"""


def run(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def ask(process: subprocess.Popen[str], line: object) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_a_view_goes_where_the_trainer_is_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    processors = sorted(os.sched_getaffinity(0))
    with run(TRAINS, tmp_path) as trainer, run(LOOKS, tmp_path) as view:
        try:
            assert view.stdout is not None
            assert int(view.stdout.readline()) == os.nice(0) + 10
            for at in [*processors[:2], processors[0]]:
                assert ask(trainer, at) == "there"
                left = [one for one in processors if one != at]
                assert ask(view, "") == str(left or processors)
            assert trainer.stdin is not None
            trainer.stdin.close()
            assert trainer.wait(10) == 0
            assert ask(view, "") == str(processors)
        finally:
            trainer.kill()
            view.kill()


def test_a_folder_without_a_trainer(tmp_path: Path) -> None:
    processors = sorted(os.sched_getaffinity(0))
    with run(LOOKS, tmp_path / "nothing") as view:
        assert view.stdout is not None
        view.stdout.readline()
        assert ask(view, "") == str(processors)
        view.kill()


@pytest.mark.parametrize("pid", [0, 2**22 + 1])
def test_nobody_knows_where_a_process_that_is_gone_runs(pid: int) -> None:
    from makemore_core.aside import processors
    from makemore_core.rundir import Holder

    assert processors(Holder(pid, 1)) == set()
