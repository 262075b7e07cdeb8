"""A run's folder: private, found by name, one trainer at a time, and honest about what has become of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from makemore_core import control, rundir
from makemore_core.rundir import (
    Manifest,
    RunLock,
    find_run,
    list_runs,
    liveness,
    new_run,
    read_manifest,
    read_state,
    write_manifest,
    write_state,
)
from makemore_core.server import ControlServer
from makemore_core.snapshot import Snapshot, State, to_json

MANIFEST = Manifest(name="emma", preset="deep-tanh", config={"lr": 0.1, "gain": "auto"}, torch="2.13.0")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAKEMORE_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may answer late."""
    monkeypatch.setattr(control, "PATIENCE", 20.0)
    monkeypatch.setattr(rundir, "STALE", 60.0)


@pytest.fixture
def run() -> Path:
    folder = new_run("emma", "deep-tanh")
    write_manifest(folder, MANIFEST)
    return folder


def snapshot(state: State, step: int = 7) -> bytes:
    return to_json(Snapshot(run="emma", state=state, step=step, steps=10, time=time.time()))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    lock = RunLock(folder)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}


# -- folders and names


def test_a_new_run_is_for_its_owner_only(run: Path) -> None:
    assert write_state(run, snapshot("running"))
    with locked(run):
        assert {path.stat().st_mode & 0o777 for path in (run, *run.glob("*/"))} == {0o700}
        assert modes(run) == {0o600}


def test_names_count_up_by_preset(runs: Path) -> None:
    for n in (1, 2, 3):
        folder = new_run(None, "deep-tanh")
        assert folder == runs / f"deep-tanh-{n}"
        write_manifest(folder, MANIFEST)
    assert new_run(None, "deep-tanh-gain1") == runs / "deep-tanh-gain1-1"


def test_two_runs_may_be_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir, names = Path.mkdir, list[str]()

    def meanwhile(folder: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if folder.name == "deep-tanh-1":
            monkeypatch.setattr(Path, "mkdir", mkdir)
            names.append(new_run(None, "deep-tanh").name)
        mkdir(folder, mode, parents, exist_ok)

    monkeypatch.setattr(Path, "mkdir", meanwhile)
    names.append(new_run(None, "deep-tanh").name)
    assert names == ["deep-tanh-1", "deep-tanh-2"]


def test_a_run_can_be_put_anywhere_also_into_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir(mode=0o755)
    assert new_run(str(tmp_path / "here"), "deep-tanh").stat().st_mode & 0o777 == 0o700
    assert new_run(str(tmp_path / "deep" / "there"), "deep-tanh").is_dir()


@pytest.mark.parametrize("name", ["up/..", "-rf", ".hidden", "a\x1b[31mb", "a\nb", "x" * 101, "", " ", "a\0b"])
def test_bad_names_are_refused_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="run") as refusal:
        new_run(name, "deep-tanh")
    assert str(refusal.value).isprintable()
    assert ("at most 100 characters, not 101" in str(refusal.value)) == (len(name) > 100)


@pytest.mark.usefixtures("run")
def test_a_run_is_never_written_over() -> None:
    with pytest.raises(ValueError, match="is there already"):
        new_run("emma", "deep-tanh")


def test_a_run_cannot_be_in_what_is_no_folder() -> None:
    with pytest.raises(ValueError, match=r"^run=/dev/null/emma: /dev/null is no folder$"):
        new_run("/dev/null/emma", "deep-tanh")


def test_folders_that_others_can_write_to_are_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for path in ("open", "open/inside"):
        with pytest.raises(ValueError, match="others can write"):
            new_run(str(tmp_path / path), "deep-tanh")
    (tmp_path / "open").chmod(0o1777)  # sticky, like /tmp
    assert new_run(str(tmp_path / "open" / "fine"), "deep-tanh")


def test_the_folder_of_all_runs_is_the_owners_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for name in ("first", "second"):
            assert new_run(str(tmp_path / "runs" / name), "deep-tanh").is_dir()
        (tmp_path / "open").mkdir()
        with pytest.raises(ValueError, match="others can write"):
            new_run(str(tmp_path / "open" / "third"), "deep-tanh")
        assert not (tmp_path / "open" / "third").exists()
    finally:
        os.umask(before)


def test_a_lock_is_not_taken_where_others_can_write(run: Path) -> None:
    run.chmod(0o770)
    with pytest.raises(ValueError, match="others can write"):
        RunLock(run).acquire()


def test_a_run_is_found_by_name_by_path_or_as_the_latest(run: Path) -> None:
    other = new_run("olivia", "deep-tanh")
    write_manifest(other, MANIFEST)
    for folder in (run, other):
        write_state(folder, snapshot("stopped"))
    os.utime(run / rundir.MANIFEST, (1, 1))
    os.utime(run / rundir.STATE, (1, 1))
    assert find_run("emma") == find_run(str(run)) == run
    assert find_run(None) == other
    os.utime(run / rundir.MANIFEST, (2e9, 2e9))
    assert find_run(None) == run
    assert list_runs() == [run, other]
    os.utime(other / rundir.STATE, (3e9, 3e9))  # it is trained on
    assert list_runs() == [other, run]


def test_the_latest_is_one_that_can_be_read_and_was_recorded_or_is_beginning(run: Path) -> None:
    write_state(run, snapshot("stopped"))
    never, damaged = new_run("never", "deep-tanh"), new_run("damaged", "deep-tanh")
    write_manifest(never, MANIFEST)
    (damaged / rundir.MANIFEST).write_bytes(b"null")
    write_state(damaged, snapshot("stopped"))
    assert find_run(None) == run
    with locked(never):
        os.utime(never / rundir.MANIFEST, (2e9, 2e9))
        assert find_run(None) == never


def test_what_cannot_be_a_folder_of_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEMORE_RUNS", os.devnull)
    with pytest.raises(ValueError, match=r"^runs=/dev/null: Not a directory$"):
        list_runs()


@pytest.mark.usefixtures("run")
def test_a_run_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean emma"):
        find_run("ema")
    with pytest.raises(ValueError, match="no such run"):
        find_run("/nowhere/at/all")


def test_no_run_at_all() -> None:
    assert list_runs() == []
    with pytest.raises(ValueError, match="has been recorded yet"):
        find_run(None)


# -- manifest and state


def test_the_manifest_is_on_the_disk_itself_and_comes_back(run: Path, synced: list[str]) -> None:
    write_manifest(run, MANIFEST)
    assert synced == [".manifest.json.tmp", "emma"]
    assert read_manifest(run) == MANIFEST


def test_a_renamed_folder_is_a_renamed_run(run: Path) -> None:
    write_state(run, snapshot("stopped"))
    renamed = run.rename(run.with_name("olivia"))
    assert (read_manifest(renamed).name, getattr(read_state(renamed), "run", "")) == ("olivia", "olivia")


def test_a_newer_major_format_is_refused_in_one_sentence_and_unknown_keys_are_ignored(run: Path) -> None:
    path = run / rundir.MANIFEST
    text = path.read_text()
    path.write_text(text.replace('"1.0"', '"1.7", "colour": "blue"'))
    assert read_manifest(run).name == "emma"
    path.write_text('{"format": "2.0", "name": ["of", "another", "kind"]}')
    with pytest.raises(ValueError, match=r"a newer makemore wrote it, in format 2\.0") as refusal:
        read_manifest(run)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"format": 3}', b'{"format": "1.0"}'])
def test_a_damaged_manifest_is_one_line(run: Path, content: bytes) -> None:
    (run / rundir.MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged") as refusal:
        read_manifest(run)
    assert "\n" not in str(refusal.value)


def test_the_state_comes_back_with_a_sign_of_life(run: Path) -> None:
    assert read_state(run) is None
    assert write_state(run, snapshot("running", 42))
    found, beat = read_state(run), rundir.read_beat(run)
    assert found is not None
    assert found.step == 42
    assert beat is not None
    assert (beat.pid, beat.started) == (os.getpid(), rundir.process_start(os.getpid()))
    assert abs(beat.heartbeat - time.time()) < 60


def test_readers_see_the_old_state_or_the_new_one(run: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            write_state(run, snapshot("running"))

    assert write_state(run, snapshot("running"))
    thread = threading.Thread(target=write)
    thread.start()
    assert all(read_state(run) for _ in range(500))
    stop.set()
    thread.join()
    assert not list(run.glob(".*"))


@settings(max_examples=100)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_a_damaged_state_is_none(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / rundir.STATE).write_bytes(content)
    assert read_state(folder) is None
    assert liveness(folder) == "crashed"


def test_a_full_disk_leaves_the_old_state_and_still_a_sign_of_life(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_state(run, snapshot("running", 1))
    os.utime(run / rundir.STATE, (1, 1))
    monkeypatch.setattr(os, "write", lambda _fd, _data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert not write_state(run, snapshot("running", 2))
    found, beat = read_state(run), rundir.read_beat(run)
    assert found is not None
    assert found.step == 1
    assert beat is not None
    assert abs(beat.heartbeat - time.time()) < 60
    assert not list(run.glob(".*"))


def test_no_folder_is_no_error(tmp_path: Path) -> None:
    assert not write_state(tmp_path / "gone", b"{}")


# -- the lock and liveness, seen from outside

TRAINS = """
import sys, time
from pathlib import Path
from makemore_core import rundir
from makemore_core.server import ControlServer
assert "torch" not in sys.modules and "textual" not in sys.modules
folder, snapshot, listens = Path(sys.argv[1]), sys.argv[2].encode(), sys.argv[3] == "listens"
lock = rundir.RunLock(folder)
try:
    lock.acquire()
except ValueError as error:
    sys.exit(str(error))
server = ControlServer(folder, wake=lambda: None) if listens else None
while True:
    rundir.write_state(folder, snapshot)
    if server:
        server.tell("running", 7)
    print("trains", flush=True)
    time.sleep(0.05)
"""


@pytest.fixture
def train(run: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a stand-in for a trainer in another process, and waits until it is at work."""
    started = []

    def start(state: State = "running", listens: bool = True) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", TRAINS, str(run), snapshot(state).decode(), "listens" if listens else "deaf"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "trains\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


Train = Callable[..., "subprocess.Popen[str]"]


def test_a_second_trainer_is_refused_with_the_first_ones_process(run: Path, train: Train) -> None:
    first = train()
    with pytest.raises(ValueError, match=f"by process {first.pid}$"):
        RunLock(run).acquire()
    with pytest.raises(ValueError, match=f"by process {first.pid}$"):
        RunLock(run).acquire()


def test_a_lock_left_by_a_kill_is_taken_over(run: Path, train: Train) -> None:
    first = train()
    first.kill()
    first.wait()
    with locked(run):
        holder = rundir.held_by(run)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert rundir.held_by(run) is None


def test_where_nothing_can_be_locked_the_process_named_in_the_file_holds_it_while_it_lives(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlockable(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", unlockable)
    monkeypatch.setattr(fcntl, "fcntl", unlockable)
    with locked(run):
        pass
    assert rundir.held_by(run) is None
    parent = rundir.Holder(os.getppid(), rundir.process_start(os.getppid()))
    (run / rundir.LOCK).write_bytes(msgspec.json.encode(parent))
    with pytest.raises(ValueError, match=f"by process {parent.pid}$"):
        RunLock(run).acquire()
    another = msgspec.structs.replace(parent, started=parent.started - 1)  # its number was given anew
    (run / rundir.LOCK).write_bytes(msgspec.json.encode(another))
    with locked(run):
        pass


def test_looking_does_not_loosen_the_lock_of_this_process(run: Path) -> None:
    with locked(run):
        assert rundir.held_by(run) is not None
        assert liveness(run) == "running"
        with pytest.raises(ValueError, match=f"by process {os.getpid()}$"):
            RunLock(run).acquire()
        check = "import sys; from pathlib import Path; from makemore_core.rundir import held_by; "
        check += "sys.exit(held_by(Path(sys.argv[1])).pid != int(sys.argv[2]))"
        assert subprocess.run([sys.executable, "-c", check, str(run), str(os.getpid())]).returncode == 0


def test_a_child_does_not_keep_the_lock(run: Path) -> None:
    program = """
import os, sys, time
from pathlib import Path
from makemore_core.rundir import RunLock
RunLock(Path(sys.argv[1])).acquire()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
os._exit(0)
"""
    with subprocess.Popen([sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.wait()
        try:
            RunLock(run).acquire()
        finally:
            os.kill(child, signal.SIGKILL)


def test_what_listens_says_what_it_does(run: Path) -> None:
    server = ControlServer(run, wake=lambda: None)
    states: tuple[State, ...] = ("running", "paused", "finished", "diverged")
    for state in states:
        server.tell(state, 3)
        assert liveness(run) == state
    server.close()


def test_what_holds_the_lock_but_does_not_answer_is_judged_by_its_heartbeat(
    run: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = train("paused", listens=False)
    assert liveness(run) == "paused"
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(rundir, "STALE", 0.2)
    until(lambda: liveness(run) == "unresponsive")
    process.send_signal(signal.SIGCONT)
    until(lambda: liveness(run) == "paused")


def test_a_stopped_process_is_unresponsive_though_its_socket_takes_calls(
    run: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = train()
    assert liveness(run) == "running"
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(control, "PATIENCE", 0.1)
    monkeypatch.setattr(rundir, "STALE", 0.2)
    until(lambda: liveness(run) == "unresponsive")


def test_a_trainer_that_no_longer_tells_is_unresponsive(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ControlServer(run, wake=lambda: None)
    server.tell("running", 3)
    monkeypatch.setattr(rundir, "STALE", 0.0)
    assert liveness(run) == "unresponsive"
    server.tell("finished", 10)  # there is nothing more to tell
    assert liveness(run) == "finished"
    server.close()


def test_a_process_that_ended_is_gone_though_nobody_has_waited_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert rundir.process_start(process.pid) > 0
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert rundir.process_start(process.pid) == 0


@pytest.mark.parametrize("last", ["running", "paused", "finished", "stopped", "diverged", "crashed"])
def test_a_process_that_is_gone_crashed_unless_it_said_its_last_word(run: Path, train: Train, last: State) -> None:
    process = train(last, listens=False)
    process.kill()
    process.wait()
    assert liveness(run) == ("crashed" if last in ("running", "paused") else last)


def test_a_resumed_run_is_not_taken_for_the_finished_one(run: Path) -> None:
    program = f"""
from makemore_core import rundir
from pathlib import Path
rundir.write_state(Path({str(run)!r}), {snapshot("finished")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert liveness(run) == "finished"
    with locked(run):
        assert liveness(run) == "running"


def test_a_copy_of_a_live_run_is_not_alive(run: Path, runs: Path, train: Train) -> None:
    train()
    copy = runs / "copy"
    subprocess.run(["cp", "-a", run, copy], check=True)
    assert liveness(run) == "running"
    assert liveness(copy) == "crashed"
