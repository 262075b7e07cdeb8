"""Training without a screen: what is printed where, how it is ended, and that no output and no disk can stop it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from app import launch
from app.headless import Lines, follow, train_headless
from app.report import number
from makemore_core import checkpoint, control, rundir
from makemore_core.command import Channel
from makemore_core.config import Config
from makemore_core.dataset import read
from makemore_core.recorder import later_changes, load_attempt
from makemore_core.session import Session
from makemore_core.watch import Watch
from tests import canned
from tests.commands import ROOT, Commands, commands, strict
from tests.terminal import Terminal
from tests.trainers import differing, reference, snapshots, wait_for

SMALL = ["--set", "n_layer=1", "--set", "n_hidden=16", "--set", "batch_size=8", "--engine", "plain"]
ENDLESS = [*SMALL, "--steps", "1000000000", "--engine", "fast"]


@pytest.fixture(scope="module")
def makemore(tmp_path_factory: pytest.TempPathFactory, few_names_file: Path) -> Iterator[Commands]:
    """Commands that find torch in memory, in a folder of their own."""
    place = tmp_path_factory.mktemp("headless") / "here"
    place.mkdir()
    (place / "few.txt").write_bytes(few_names_file.read_bytes())
    with commands(place, "makemore_core.recorder", "makemore_core.fast") as started:
        yield started


def train(*more: str, run: str) -> list[str]:
    return ["train", "--headless", "--data", "few.txt", "--run", run, *SMALL, *more]


def objects(text: str) -> list[dict[str, object]]:
    """Every line as an object of strict JSON."""
    return [strict(line) for line in text.splitlines()]


def test_a_loss_has_four_decimals_and_a_vast_one_a_power_of_ten() -> None:
    assert [number(loss) for loss in (2.34567, 3.2e26, float("nan"), None)] == ["2.3457", "3.2000e+26", "nan", "-"]


# What is printed


def test_into_a_pipe_go_plain_lines(makemore: Commands) -> None:
    ended = makemore.run(*train("--steps", "60", run="plain"))

    assert ended.status == 0
    *_, last = lines = ended.out.splitlines()
    assert re.fullmatch(r"step 60/60  loss \d\.\d{4}  train \d\.\d{4}  val \d\.\d{4}  finished", last)
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert re.fullmatch(r"finished: saved in \S+/plain/checkpoints/000001-attempt0-step60\n", ended.err)


def test_json_lines_hold_every_loss_once(makemore: Commands) -> None:
    ended = makemore.run(*train("--steps", "60", "--json", "--probe-every", "7", run="json"))

    assert ended.status == 0
    told = objects(ended.out)
    assert [one["step"] for one in told] == [0, 7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert (told[-1]["state"], told[-1]["run"]) == ("finished", "json")
    losses = [loss for one in told for loss in one["losses"]]  # type: ignore[attr-defined]
    config = Config().replace({"n_layer": 1, "n_hidden": 16, "batch_size": 8, "engine": "plain"})
    assert losses == reference(config.replace({"steps": 0}), read(makemore.cwd / "few.txt"), []).advance(60)


def test_a_run_may_begin_in_slow_motion(makemore: Commands) -> None:
    ended = makemore.run(*train("--steps", "60", "--json", "--pace", "1000", run="slow"))

    assert ended.status == 0
    told = objects(ended.out)
    assert {one["pace"] for one in told} == {1000.0}
    assert told[-1]["step"] == 60


def test_a_run_that_diverges_is_told_and_exits_1(makemore: Commands) -> None:
    broken = ["--steps", "60", "--json", "--set", "lr=1e6", "--set", "norm=none", "--set", "nonlinearity=identity"]
    ended = makemore.run(*train(*broken, run="diverged"))

    assert ended.status == 1
    last = objects(ended.out)[-1]
    assert (last["state"], last["loss"], last["loss_kind"]) in [("diverged", None, kind) for kind in ("nan", "inf")]
    assert "diverged: the loss is no number from step" in ended.err
    listed = {row["run"]: row for row in objects(makemore.run("runs", "--json").out)}
    assert (listed["diverged"]["loss"], listed["diverged"]["loss_kind"]) == (None, last["loss_kind"])


def test_on_a_terminal_a_bar_and_ctrl_c_saves(tmp_path: Path, few_names_file: Path) -> None:
    argv = [sys.executable, "-m", "app", "train", "--headless", "--data", str(few_names_file), *ENDLESS]
    with Terminal([*argv, "--run", str(tmp_path / "bar")], columns=120) as terminal:
        terminal.wait_for("steps/s", 60)
        terminal.wait_until(lambda: re.search(r"loss \d\.\d{4}", terminal.text) is not None, 60, "a loss")
        assert "━" in terminal.text
        terminal.press("ctrl+c")
        assert terminal.wait_end(30) == 130
        assert "stopped: saved in" in terminal.text
        assert re.search(r"^step [\d,]+/1,000,000,000  loss .* stopped$", terminal.text, re.MULTILINE)
        assert terminal.not_restored() == []
    assert rundir.checkpoints(tmp_path / "bar")
    assert rundir.liveness(tmp_path / "bar") == "stopped"


def test_the_bar_fits_whatever_the_run_is_called(tmp_path: Path, few_names_file: Path) -> None:
    argv = [sys.executable, "-m", "app", "train", "--headless", "--ascii", "--data", str(few_names_file), *ENDLESS]
    with Terminal([*argv, "--run", str(tmp_path / ("long" * 20))], columns=80) as terminal:
        terminal.wait_until(lambda: re.search(r"loss \d\.\d{4}", terminal.text) is not None, 60, "a loss")
        bar = next(line for line in terminal.text.splitlines() if "loss" in line)
        assert bar.isascii()
        assert re.match(r"longlonglonglong\S+ -+ +[\d,]+/1000000000 [\d,]+ steps/s loss \d\.\d{4} \S+$", bar)
        terminal.press("ctrl+c")
        assert terminal.wait_end(30) == 130


@pytest.mark.parametrize(
    ("env", "options", "shown"),
    [({"TERM": "dumb"}, [], "step 60/60"), ({"LC_ALL": "C"}, [], "-"), ({}, ["--ascii"], "-")],
)
def test_a_poor_terminal_gets_what_it_can_show(
    tmp_path: Path, few_names_file: Path, env: dict[str, str], options: list[str], shown: str
) -> None:
    argv = [sys.executable, "-m", "app", "train", "--headless", "--data", str(few_names_file), *SMALL, *options]
    with Terminal([*argv, "--steps", "60", "--run", str(tmp_path / "poor")], env=env) as terminal:
        assert terminal.wait_end(60) == 0
        assert re.search(r"^step 60/60  loss \d\.\d+  train \d\.\d+  val \d\.\d+  finished$", terminal.text, re.M)
        assert (b"\x1b" in terminal.sent) == (shown == "-")
        assert terminal.text.isascii()


# How it is ended


def test_sigterm_saves_and_says_where(makemore: Commands) -> None:
    running = makemore.start(*train("--json", *ENDLESS, run="terminated"))
    wait_for(lambda: running.out.count("\n") > 2, "some lines")
    running.signal(signal.SIGTERM)
    ended = running.wait()

    assert ended.status == 143
    last = objects(ended.out)[-1]
    assert last["state"] == "stopped"
    assert re.search(rf"^stopped: saved in \S+-step{last['step']}$", ended.err, re.MULTILINE)
    assert load_attempt(makemore.cwd / "runs/terminated")[0].step == last["step"]


def test_a_finished_run_is_resumed_as_it_was(makemore: Commands) -> None:
    first = makemore.run(*train("--steps", "60", run="over"))
    again = makemore.run("resume", "over", "--headless")

    assert again.status == 0
    assert again.err == "finished already: --steps N trains on up to there\n"  # and nothing new to be saved
    assert again.out.splitlines() == first.out.splitlines()[-1:]
    assert len(list((makemore.cwd / "runs/over" / "checkpoints").iterdir())) == 1


def test_a_finished_run_is_given_more_steps(makemore: Commands) -> None:
    makemore.run(*train("--steps", "60", run="longer"))
    ended = makemore.run("resume", "longer", "--headless", "--steps", "90")
    assert ended.status == 0
    assert ended.err.startswith("going on from step 60\n")
    assert re.fullmatch(r"step 90/90 .* finished", ended.out.splitlines()[-1])

    again = makemore.run("resume", "longer", "--headless", "--steps", "90")
    assert (again.status, again.out) == (0, ended.out.splitlines()[-1] + "\n")
    assert again.err == "finished already: --steps N trains on up to there\n"
    for steps, said in {"80": "steps=80: the run is at step 90 already", "x": "steps=x: has to be a whole"}.items():
        ended = makemore.run("resume", "longer", "--headless", "--steps", steps)
        assert (ended.status, ended.out) == (2, "")
        assert ended.err.startswith(f"makemore: {said}")


def test_a_run_that_was_never_saved_begins_again_and_says_so(makemore: Commands) -> None:
    running = makemore.start(*train("--json", *ENDLESS, run="anew"))
    folder = makemore.cwd / "runs/anew"
    wait_for(lambda: getattr(rundir.read_state(folder), "step", 0) > 0, "training")
    running.signal(signal.SIGKILL)
    running.wait()
    again = makemore.start("resume", "anew", "--headless")
    wait_for(lambda: "\n" in again.out, "a line")
    again.signal(signal.SIGINT)
    assert again.wait().err.startswith("running: no checkpoint yet: begins again from the seed\n")


@pytest.mark.parametrize("how", ["--headless", "--detach"])
def test_no_folder_is_left_of_a_run_that_could_not_start(makemore: Commands, how: str) -> None:
    huge = ["--set", "n_hidden=16384", "--set", "n_layer=100", "--set", "n_embd=4096", "--set", "block_size=256"]
    ended = makemore.run("train", how, *huge, "--run", "huge", memory=6_000_000_000)
    assert (ended.status, ended.out) == (2, "")
    assert "there can be no such net here: " in ended.err
    assert not (makemore.cwd / "runs/huge").exists()


def test_no_folder_is_left_where_the_manifest_finds_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(rundir, "write_manifest", full)
    with pytest.raises(ValueError, match=r"^run=.*/run: cannot be written: No space left on device$"):
        launch.begin(launch.plan(None, {}, None), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_no_folder_is_left_where_a_key_ended_it_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rundir, "write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch.begin(launch.plan(None, {}, None), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_training_is_not_taken_for_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(_: Session) -> NoReturn:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(Session, "run", mistaken)
    folder = launch.begin(launch.plan(None, {}, None), str(tmp_path / "run"))
    with pytest.raises(RuntimeError, match=r"^the training failed: not enough values to unpack$") as told:
        train_headless(folder, False, Watch(), True, Channel())
    assert isinstance(told.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("n_hidden", "complaint"),
    [
        (16384, r"there can be no such net here: it takes about [\d,.]+ GiB of memory, and [\d,.]+ GiB are free"),
        (50, "not enough memory for a net and minibatches of this size"),
    ],
)
def test_minibatches_that_do_not_fit_are_told_in_one_line(makemore: Commands, n_hidden: int, complaint: str) -> None:
    huge = ["--set", "batch_size=1000000", "--set", f"n_hidden={n_hidden}", "--set", "n_layer=1", "--engine", "plain"]
    ended = makemore.run("train", "--headless", *huge, "--run", "huge", memory=2_500_000_000)
    assert ended.status == 2
    assert re.fullmatch(f"makemore: {complaint}\n", ended.err)


def test_what_was_stopped_is_resumed_to_the_same_end(makemore: Commands) -> None:
    running = makemore.start(*train("--json", "--steps", "400", "--probe-every", "10", run="twice"))
    wait_for(lambda: running.out.count("\n") > 3, "some lines")
    running.signal(signal.SIGINT)
    assert running.wait().status in (130, 0)
    ended = makemore.run("resume", "twice", "--headless")

    assert ended.status == 0
    assert "step 400/400" in ended.out
    folder = makemore.cwd / "runs/twice"
    config = Config().replace(rundir.read_manifest(folder).config)
    assert differing(load_attempt(folder)[0], reference(config, read(makemore.cwd / "few.txt"), [])) == []


def test_a_damaged_checkpoint_is_told_when_resuming(makemore: Commands) -> None:
    running = makemore.start(*train("--json", "--steps", "400", "--probe-every", "10", run="damaged"))
    wait_for(lambda: running.out.count("\n") > 3, "some lines")
    running.signal(signal.SIGINT)
    running.wait()
    folder = makemore.cwd / "runs/damaged"
    assert makemore.run("resume", "damaged", "--headless").status == 0
    newest = max((folder / rundir.CHECKPOINTS).iterdir())
    (newest / checkpoint.TENSORS).write_bytes(b"")
    ended = makemore.run("resume", "damaged", "--headless")
    assert ended.status == 0
    assert f"checkpoint {newest.name} was not taken" in ended.err
    for path in (folder / rundir.CHECKPOINTS).iterdir():
        (path / checkpoint.TENSORS).write_bytes(b"")
    ended = makemore.run("resume", "damaged", "--headless")
    assert (ended.status, ended.out) == (2, "")
    assert re.fullmatch(r"makemore: damaged: has no good checkpoint; [^\n]+\n", ended.err)


def test_in_the_background(tmp_path: Path, few_names_file: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MAKEMORE_RUNS": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-m", "app", "train", "--detach", "--probe-every=999", "--data", few_names_file, *ENDLESS],
        env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    said = re.fullmatch(
        r"training in the background, process (\d+); to look:\nmakemore attach (deep-batchnorm-1)\n", ran.stdout
    )
    assert said
    folder, pid = tmp_path / said[2], int(said[1])
    try:
        reply = control.ping(folder)
        assert reply is not None
        assert reply.pid == pid == getattr(rundir.held_by(folder), "pid", None)
        assert os.getsid(pid) == pid
        log = folder / "trainer.log"
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        wait_for(lambda: getattr(rundir.read_state(folder), "step", 0) > 1, "training")
        state = rundir.read_state(folder)
        assert state is not None
        assert state.step % 999 == 0
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: rundir.process_start(pid) == 0, "its end")
    assert rundir.liveness(folder) == "stopped"
    assert "stopped: saved in" in log.read_text()


def test_a_trainer_that_is_too_slow_to_start_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.setattr(launch, "STARTING", 0.0)
    folder = launch.begin(launch.plan(None, {}, None), str(tmp_path / "slow"))
    with pytest.raises(ValueError, match="the trainer did not start: it said nothing"):
        launch.in_background(folder, Watch(per_second=7.0, budget=0.5, every=9, pace=3.0))
    (process,) = started
    assert process.returncode == -signal.SIGKILL
    asked = {"--fps=7.0", "--budget=0.5", "--probe-every=9", "--pace=3.0"}
    assert asked <= {str(word) for word in process.args}


def test_a_short_run_in_the_background_may_be_over_at_once(makemore: Commands) -> None:
    ended = makemore.run(*[word for word in train("--steps", "5", "--detach", run="short") if word != "--headless"])
    assert (ended.status, ended.err) == (0, "")
    folder = makemore.cwd / "runs/short"
    wait_for(lambda: rundir.liveness(folder) == "finished", "its end")


def test_the_studio_hands_over_to_the_background_without_a_step_lost_or_done_twice(
    tmp_path: Path, few_names_file: Path
) -> None:
    argv = [sys.executable, "-m", "app", "train", "--data", str(few_names_file), *ENDLESS, "--set", "optimizer=adam"]
    folder = tmp_path / "handed-over"
    with Terminal([*argv, "--run", str(folder)], columns=110) as terminal:
        terminal.wait_until(lambda: getattr(rundir.read_state(folder), "step", 0) > 1000, 60, "training")
        terminal.press("-", "q")
        terminal.wait_for("background")
        terminal.press("k")
        assert terminal.wait_end(60) == 0
        said = re.search(r"in the background, process (\d+); to look:\s+makemore attach", terminal.text)
        assert said
        assert terminal.not_restored() == []
    handed_over = [snapshot for snapshot in snapshots(folder) if snapshot.state == "stopped"][-1]
    wait_for(lambda: getattr(rundir.read_state(folder), "step", 0) > handed_over.step + 1000, "training behind it")
    os.kill(int(said[1]), signal.SIGTERM)
    wait_for(lambda: rundir.liveness(folder) == "stopped", "its end")

    told = snapshots(folder)
    spans = [len(one.losses) if one.losses_span is None else one.losses_span for one in told]  # some may be thinned
    assert sum(spans) == told[-1].step
    changes = later_changes(folder, 0)
    assert [type(command).__name__ for _, _, command in changes] == ["Set"]
    config = Config().replace(rundir.read_manifest(folder).config).replace({"steps": told[-1].step})
    assert differing(load_attempt(folder)[0], reference(config, read(few_names_file), changes)) == []


def test_a_run_that_is_left_in_a_pause_waits_in_the_background(tmp_path: Path, few_names_file: Path) -> None:
    argv = [sys.executable, "-m", "app", "train", "--data", str(few_names_file), *ENDLESS, "--paused"]
    folder = tmp_path / "waiting"
    with Terminal([*argv, "--run", str(folder)], columns=110) as terminal:
        terminal.wait_for("paused", 60)
        terminal.press("d")
        assert terminal.wait_end(60) == 0
        said = re.search(r"the run waits, paused, in the background, process (\d+); to look:\s+makemore", terminal.text)
        assert said
    try:
        wait_for(lambda: rundir.liveness(folder) == "paused", "its pause")
        state = rundir.read_state(folder)
        assert state is not None
        assert (state.step, state.layers_step) == (1, 1)
    finally:
        os.kill(int(said[1]), signal.SIGTERM)
        wait_for(lambda: rundir.liveness(folder) == "stopped", "its end")


def test_a_run_can_be_resumed_in_the_background(makemore: Commands) -> None:
    folder = makemore.cwd / "runs/again"
    assert makemore.run(*train("--steps", "20", run="again")).status == 0
    ended = makemore.run("resume", "again", "--steps", "40", "--detach")
    assert (ended.status, ended.err) == (0, "")
    assert re.fullmatch(r"training in the background, process \d+; to look:\nmakemore attach again\n", ended.out)
    wait_for(lambda: getattr(rundir.read_state(folder), "step", 0) == 40, "its end")
    wait_for(lambda: rundir.liveness(folder) == "finished", "its end")
    ended = makemore.run("resume", "again", "--detach")
    assert (ended.status, ended.out, ended.err) == (0, "", "finished already: --steps N trains on up to there\n")
    for more, trains in (((), False), (("--steps", "60"), True)):
        ended = makemore.run("resume", "again", "--detach", "--json", *more)
        told = json.loads(ended.out)
        assert (ended.status, told["run"], told["folder"], bool(told["pid"])) == (0, "again", str(folder), trains)
    wait_for(lambda: getattr(rundir.read_state(folder), "step", 0) == 60, "its end")
    wait_for(lambda: rundir.liveness(folder) == "finished", "its end")
    assert makemore.run("resume", "again", "--steps", "", "--detach").status == 2


# Nobody listens, nothing can be written


def test_a_reader_that_leaves_does_not_end_the_training(makemore: Commands) -> None:
    pipe = makemore.cwd / "pipe"
    os.mkfifo(pipe)
    first: list[bytes] = []

    def read_a_line() -> None:
        with pipe.open("rb") as file:
            first.append(file.readline())

    reader = threading.Thread(target=read_a_line)
    reader.start()
    ended = makemore.run(*train("--json", "--steps", "300", "--probe-every", "2", run="unheard"), out=str(pipe))
    reader.join()

    assert ended.status == 0
    assert objects(first[0].decode())[0]["step"] == 0
    assert load_attempt(makemore.cwd / "runs/unheard")[0].step == 300


def test_a_full_stdout_does_not_end_the_training(makemore: Commands) -> None:
    for how in ([], ["--json"]):
        ended = makemore.run(*train(*how, "--steps", "60", run=f"devfull{len(how)}"), out="/dev/full")
        assert ended.status == 1
        assert ended.err.endswith("makemore: cannot write: No space left on device\n")
        assert load_attempt(makemore.cwd / f"runs/devfull{len(how)}")[0].step == 60
    ended = makemore.run("runs", out="/dev/full")
    assert (ended.status, ended.err) == (1, "makemore: cannot write: No space left on device\n")


def test_a_record_that_finds_no_room_is_told(makemore: Commands) -> None:
    ended = makemore.run(*train("--steps", "120", "--probe-every", "1", run="noroom"), most=100_000)

    assert ended.status == 1
    assert re.search(r"^running: 1 record lost: (No space left on device|File too large)$", ended.err, re.MULTILINE)
    assert ended.err.count("\n") <= 3
    folder = makemore.cwd / "runs/noroom"
    assert load_attempt(folder)[0].step == 120
    assert rundir.read_state(folder) is not None
    assert rundir.liveness(folder) == "finished"
    assert later_changes(folder, 0) == []


def test_a_run_whose_folder_is_removed_ends_and_is_no_success(makemore: Commands) -> None:
    running = makemore.start(*train(*ENDLESS, run="removed"))
    folder = makemore.cwd / "runs/removed"
    wait_for(lambda: getattr(rundir.read_state(folder), "step", 0) > 0, "training")
    folder.rename(makemore.cwd / "elsewhere")
    ended = running.wait()
    assert ended.status == 1
    assert re.search(r"^stopped: .*its folder is gone$", ended.err, re.MULTILINE)
    assert rundir.absent(folder) == "its folder is gone"
    assert rundir.liveness(makemore.cwd / "elsewhere") == "crashed"


def test_a_finished_run_that_cannot_be_saved_waits_and_is_no_success(makemore: Commands) -> None:
    running = makemore.start(*train("--steps", "30", run="unsaved"), most=8_000)
    wait_for(lambda: "waiting for space to save it; ctrl-c gives up\n" in running.err, "the complaint")
    assert re.search(r"^step 30/30 .* finished$", running.out, re.MULTILINE)
    running.signal(signal.SIGTERM)
    ended = running.wait()

    assert ended.status == 143
    assert re.search(r"^finished: .*the checkpoint could not be saved: File too large$", ended.err, re.MULTILINE)
    assert "saved in" not in ended.err


def test_a_notice_that_stands_is_remarked_once(capsys: pytest.CaptureFixture[str]) -> None:
    channel, states = Channel(), iter([False, True])
    for step, message in enumerate(("no GPU", "lr 0.1 → 0.05", "no GPU", "lr 0.05 → 0.1", "no GPU"), 1):
        channel.publish(canned.snapshot(step=step, message=message))
    worker = cast(launch.Worker, SimpleNamespace(join=lambda _: next(states), unsaved=lambda: False))
    follow(Path("runs/one"), channel, worker, Lines(), None, [])
    assert capsys.readouterr().err.splitlines() == [
        "running: no GPU", "running: lr 0.1 → 0.05", "running: lr 0.05 → 0.1",
    ]  # fmt: skip


def test_a_pause_is_remarked_once_however_many_steps_are_taken_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    channel, states = Channel(), iter([False, True])
    for step, state in enumerate(("running", "paused", "paused", "running", "paused"), 1):
        channel.publish(canned.snapshot(step=step, state=state))
    worker = cast(launch.Worker, SimpleNamespace(join=lambda _: next(states), unsaved=lambda: False))
    follow(Path("runs/one"), channel, worker, Lines(), None, [])
    assert [line.partition(";")[0] for line in capsys.readouterr().err.splitlines()] == ["paused", "paused"]
