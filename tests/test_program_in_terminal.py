"""The real program in real terminals: quitting saves, a lost terminal costs a view and nothing else."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import click
import pytest

from app import session_view
from app.launch import Worker
from app.session_view import save_and_leave
from app.studio import Studio
from app.terminal import Exit, by_signal
from makemore_core import control, rundir
from makemore_core.command import Channel, Stop
from makemore_core.config import Config
from makemore_core.watch import Watch
from tests.terminal import ROOT, Terminal
from tests.trainers import new_run, wait_for

MAKEMORE = [sys.executable, "-m", "app"]
TRAIN = [*MAKEMORE, "train", "--seed", "1", "--run"]
START = 30.0  # seconds for torch to load on a busy machine


def step(folder: Path) -> int:
    """The last step that the run's state file tells of."""
    snapshot = rundir.read_state(folder)
    return snapshot.step if snapshot else 0


def trains_on(folder: Path) -> Callable[[], bool]:
    """Whether the run has gone on since the call."""
    begin = step(folder)
    return lambda: step(folder) > begin + 100


@pytest.mark.parametrize(
    ("stdin", "stdout", "term", "reason"),
    [
        (False, True, "xterm-256color", "stdin is not a terminal"),
        (True, False, "xterm-256color", "stdout is not a terminal"),
        (True, True, "dumb", "TERM=dumb"),
        (True, True, "", "TERM=dumb"),
    ],
)
def test_without_a_terminal_one_line_and_exit_2(
    tmp_path: Path, stdin: bool, stdout: bool, term: str, reason: str
) -> None:
    command = ["sh", "-c", f"exec {' '.join(MAKEMORE)} {'' if stdin else '</dev/null'}"]
    out = None if stdout else tmp_path / "out"
    env = {"TERM": term, "PYTHONPATH": str(ROOT)}
    with Terminal(command, env=env, cwd=tmp_path, stdout=out, stderr=tmp_path / "err") as terminal:
        assert terminal.wait_end() == Exit.BAD_INPUT
        assert terminal.sent == b""
        assert stdout or (tmp_path / "out").read_bytes() == b""
        said = (tmp_path / "err").read_text()
        assert reason in said
        assert said.count("\n") == 1
        assert "\x1b" not in said
        assert not (tmp_path / "runs").exists()


def test_quitting_saves_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Terminal([*TRAIN, str(run)]) as terminal:
        terminal.wait_for("training", START)
        terminal.wait_until(lambda: step(run) > 0)
        terminal.press("q")
        terminal.wait_for("stop and save")
        terminal.press("s")
        assert terminal.wait_end() == 0
        assert terminal.not_restored() == []
        assert terminal.text.startswith("saved; to go on: makemore resume")
    assert rundir.liveness(run) == "stopped"


def test_who_stops_the_run_of_another_process_is_told_what_became_of_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Terminal([*TRAIN, str(run), "--headless"]) as trainer:
        trainer.wait_until(lambda: run.exists() and step(run) > 0, START)
        with Terminal([*MAKEMORE, "attach", str(run)]) as viewer:
            viewer.wait_for("training")
            viewer.press("q")
            viewer.wait_for("stop the run and save")
            viewer.press("s")
            assert viewer.wait_end(START) == 0
            assert viewer.text.startswith("saved; to go on: makemore resume")
        trainer.wait_end()
    assert rundir.liveness(run) == "stopped"


def test_quitting_before_the_training_begins_leaves_no_run(
    tmp_path: Path, few_names_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "run", Config(), few_names_file)
    save_and_leave(run, Worker(run, Channel(), watch=Watch(), stay=True), Watch(), waits=None)
    assert capsys.readouterr().out == "nothing was trained yet, so no run is kept\n"
    assert not run.exists()


@pytest.mark.parametrize("waits", [None, False, True])  # stopped, or to go on in the background, in a pause too
@pytest.mark.parametrize(("stopped", "said"), [(False, "did not stop within 30 s"), (True, "could not be saved")])
def test_what_could_not_be_saved_on_leaving_is_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool, said: str, waits: bool | None
) -> None:
    worker = Worker(tmp_path, Channel(), watch=Watch(), stay=True)
    monkeypatch.setattr(worker, "join", lambda _: stopped)
    monkeypatch.setattr(worker, "unsaved", lambda: True)
    with pytest.raises(click.ClickException, match=said) as told:
        save_and_leave(tmp_path, worker, Watch(), waits=waits)
    assert told.value.exit_code == Exit.TROUBLE


def test_a_run_that_was_stopped_from_elsewhere_says_so_and_one_without_a_checkpoint_is_not_called_saved(
    tmp_path: Path, few_names_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", Config(n_layer=1, engine="plain"), few_names_file)
    channel = Channel()

    def stopped(studio: Studio, _: object) -> int:
        assert studio.start is not None
        assert studio.absent() == ""
        studio.start()
        wait_for(lambda: control.ping(run) is not None, "its trainer")
        client = control.ControlClient(run)
        assert client.request(Stop(), 30).ok
        client.close()
        wait_for(lambda: bool(studio.absent()), "its end")
        assert studio.absent() == f"it was stopped; `makemore resume {run}` goes on"
        shutil.rmtree(run / rundir.CHECKPOINTS)  # as where it diverged before the first
        return 0

    monkeypatch.setattr(session_view, "run_studio", stopped)
    assert session_view.train_in_studio(run, Watch(), True, channel) == 0
    assert capsys.readouterr().out == f"nothing to save; to begin again from the seed: makemore resume {run}\n"


@pytest.mark.torture
def test_a_terminal_that_closes_while_the_run_is_saved_changes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Terminal([*TRAIN, str(run)]) as terminal:
        terminal.wait_for("training", START)
        terminal.wait_until(lambda: step(run) > 0)
        terminal.press("q")
        terminal.wait_for("stop and save")
        terminal.press("s")
        terminal.wait_until(lambda: "alternate screen" not in terminal.not_restored())
        terminal.close()
        terminal.wait_end()
    assert rundir.liveness(run) == "stopped"


def test_a_lost_terminal_costs_the_view_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Terminal([*TRAIN, str(run)]) as studio:
        studio.wait_for("training", START)
        studio.close()
        studio.wait_until(trains_on(run))
        with Terminal([*MAKEMORE, "attach", str(run)]) as viewer:
            viewer.wait_for("training")
            viewer.close()
            assert viewer.wait_end() == Exit.LOST
        studio.wait_until(trains_on(run))
        studio.signal(signal.SIGTERM)
        assert studio.wait_end() == by_signal(signal.SIGTERM)
    assert rundir.liveness(run) == "stopped"


def test_headless_training_outlives_its_terminal(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Terminal([*TRAIN, str(run), "--headless"]) as terminal:
        terminal.wait_until(lambda: run.exists() and step(run) > 0, START)
        terminal.close()
        terminal.wait_until(trains_on(run))
        terminal.signal(signal.SIGTERM)
        assert terminal.wait_end() == by_signal(signal.SIGTERM)
    assert rundir.liveness(run) == "stopped"


# Figures, printed by `pytest -s`. Speed is counted per second of the processor's time, which other work cannot take.


def steps_per_cpu_second(terminal: Terminal, run: Path) -> float:
    """Of the whole program, its view included: the best of some stretches, because others may slow the machine down."""
    found = []
    for _ in range(4):
        begin, burnt = step(run), terminal.cpu_seconds()
        terminal.read_for(3.0)  # the stretch that is measured
        found.append((step(run) - begin) / (terminal.cpu_seconds() - burnt))
    return max(found)


@pytest.mark.torture
@pytest.mark.parametrize(("controlling", "ignore_hup", "drawing"), list(product([True, False], repeat=3)))
def test_training_keeps_its_speed_when_the_terminal_closes(
    tmp_path: Path, controlling: bool, ignore_hup: bool, drawing: bool
) -> None:
    run = tmp_path / "run"
    with Terminal([*TRAIN, str(run), "--engine", "plain"], controlling=controlling, ignore_hup=ignore_hup) as studio:
        studio.wait_for("training", START)
        if not drawing:
            studio.press("p")  # the view is frozen
        studio.wait_until(trains_on(run), START)
        studio.read_for(2.0)
        before = steps_per_cpu_second(studio, run)
        studio.close()
        closed = time.monotonic()
        studio.wait_until(lambda: studio.fd(0) == "/dev/null", what="the view ended")
        gone = time.monotonic() - closed
        studio.read_for(2.0)  # the state file is a second behind
        after = steps_per_cpu_second(studio, run)
        print(f"\nview gone after {gone:.2f} s; {before:.0f} steps a CPU second before, {after:.0f} after")
        assert after > 0.75 * before, "a view that spins costs more, a shared machine wanders by less"
        studio.signal(signal.SIGTERM)
        assert studio.wait_end(START) == by_signal(signal.SIGTERM)


@pytest.mark.torture
def test_a_thousand_resizes_of_the_studio(tmp_path: Path) -> None:
    run = tmp_path / "run"
    subprocess.run([*TRAIN, str(run), "--headless", "--steps", "500"], cwd=ROOT, check=True, capture_output=True)
    with Terminal([*MAKEMORE, "attach", str(run)], columns=120, rows=40) as viewer:
        viewer.wait_for("finished")
        viewer.read_for(1.0)
        memory = viewer.rss_mb()
        for count in range(1000):
            viewer.resize(1 + count * 37 % 220, 1 + count * 23 % 60)
            viewer.read_for(0.01)
        viewer.resize(120, 40)
        with Terminal([*MAKEMORE, "attach", str(run)], columns=120, rows=40) as fresh:
            fresh.wait_for("finished")
            fresh.read_for(1.0)
            viewer.wait_until(lambda: viewer.text == fresh.text, what=f"the fresh picture\n{fresh.text}")
        more = viewer.rss_mb() - memory
        print(f"\n{more:+.1f} MB")
        assert more < 15
