"""Control from other processes: in order, acknowledged, refused where it has to be, and never at the trainer's cost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from makemore_core import address, control, server
from makemore_core.address import ADDRESS, connect
from makemore_core.command import Command, Look, Pause, Resume, Set, Step, Stop
from makemore_core.control import ControlClient, Reply, ping
from makemore_core.files import replace_file
from makemore_core.server import LONGEST_LINE, MOST_BAD_LINES, MOST_CLIENTS, MOST_WAITING, ControlServer


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may answer late."""
    monkeypatch.setattr(control, "PATIENCE", 20.0)


class Run:
    """A run that applies what it is sent in a thread of its own, unless it is busy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.applied: list[tuple[Command, str]] = []
        self.busy = threading.Event()
        self.server = ControlServer(folder, wake=self.wake)
        self.server.tell("running", 41)

    def wake(self) -> None:
        if not self.busy.is_set():
            self.apply()

    def apply(self) -> None:
        for command, who, token in self.server.asked():
            if isinstance(command, Step) and command.n > 1000:
                self.server.acknowledge(token, "n: at most 1,000 here")
            else:
                self.applied.append((command, who))
                self.server.acknowledge(token, 41 + len(self.applied))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(server, "REST", 0.0)  # tests of order need no rest
    found = Run(tmp_path)
    yield found
    found.server.close()


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def all_replies(client: ControlClient, n: int) -> list[Reply]:
    """Waits for so many answers."""
    replies: list[Reply] = []

    def complete() -> bool:
        replies.extend(client.replies())
        return len(replies) >= n

    until(complete)
    return replies


def caller(folder: Path) -> socket.socket:
    """A connection without manners."""
    connections: list[socket.socket] = []

    def called() -> bool:
        with contextlib.suppress(BlockingIOError):  # many are calling at once
            connections.extend(filter(None, [connect(folder)]))
        return bool(connections)

    until(called)
    connections[0].settimeout(20)
    return connections[0]


def answers(connection: socket.socket) -> list[dict[str, object]]:
    """Everything until the server hangs up."""
    heard = b""
    try:
        while data := connection.recv(65536):
            heard += data
    except ConnectionResetError:
        pass
    return [json.loads(line) for line in heard.splitlines()]


def still_answers(run: Run) -> bool:
    found = ping(run.folder)
    return found is not None and found.step == 41


# -- what it is for


def test_a_command_is_answered_with_the_step_at_which_it_was_applied(run: Run) -> None:
    client = ControlClient(run.folder, who="anna")
    assert client.request(Set({"lr": 0.05})) == Reply(ok=True, id=1, step=42)
    assert run.applied == [(Set({"lr": 0.05}), "anna")]


def test_the_answer_comes_when_it_is_applied_not_when_it_is_queued(run: Run) -> None:
    run.busy.set()
    client = ControlClient(run.folder)
    name = client.send(Pause())
    until(lambda: run.server._asked)
    assert still_answers(run)
    assert client.replies() == []
    run.apply()
    assert all_replies(client, 1) == [Reply(ok=True, id=name, step=42)]


def test_two_people_at_once_are_heard_in_the_order_of_arrival_and_both_answered(run: Run) -> None:
    anna, bert = ControlClient(run.folder, who="anna"), ControlClient(run.folder, who="bert")
    steps: dict[str, list[int | None]] = {"anna": [], "bert": []}
    for i in range(20):
        for client, who in ((anna, "anna"), (bert, "bert")):
            steps[who].append(client.request(Pause() if i % 2 else Resume()).step)
    assert [who for _, who in run.applied] == ["anna", "bert"] * 20
    assert steps["anna"] == list(range(42, 82, 2))
    assert steps["bert"] == list(range(43, 83, 2))


def test_many_commands_of_one_client_keep_their_order(run: Run) -> None:
    client = ControlClient(run.folder)
    names = [client.send(Step(n)) for n in range(1, 101)]
    assert [reply.id for reply in all_replies(client, 100)] == names
    assert [command for command, _ in run.applied] == [Step(n) for n in range(1, 101)]


def test_who_waits_for_one_answer_loses_no_other(run: Run) -> None:
    client = ControlClient(run.folder)
    name = client.send(Pause())
    assert client.request(Resume()).ok
    assert [reply.id for reply in client.replies()] == [name]


def test_who_was_connected_to_a_trainer_that_ended_reaches_the_next_at_once(run: Run) -> None:
    client = ControlClient(run.folder)
    assert client.request(Pause()).ok
    run.server.close()
    run.server = ControlServer(run.folder, wake=run.wake)
    assert client.request(Resume()).ok


def test_a_trainer_that_ends_late_does_not_hide_the_next(run: Run) -> None:
    late, run.server = run.server, ControlServer(run.folder, wake=run.wake)
    late.close()
    assert ping(run.folder) is not None


def test_a_ping_tells_state_step_and_who_trains(run: Run) -> None:
    run.server.tell("paused", 41)
    found = ping(run.folder)
    assert found is not None
    assert (found.state, found.step, found.pid) == ("paused", 41, os.getpid())
    assert found.age is not None
    assert 0 <= found.age < 60


def test_a_refusal_of_the_run_reaches_the_asker_in_one_line(run: Run) -> None:
    found = ControlClient(run.folder).request(Step(5000))
    assert (found.ok, found.error) == (False, "n: at most 1,000 here")


def test_readonly_is_enforced_by_the_trainer(run: Run) -> None:
    client = ControlClient(run.folder, readonly=True)
    found = client.request(Pause())
    assert (found.ok, found.error) == (False, "this connection is read-only")
    cheat = caller(run.folder)
    cheat.sendall(b'{"hello":{"readonly":true}}\n{"hello":{"readonly":false}}\n{"id":7,"command":{"type":"stop"}}\n')
    cheat.shutdown(socket.SHUT_WR)
    assert [reply["ok"] for reply in answers(cheat)] == [True, True, False]
    assert run.applied == []
    assert client.request(Look("gain")).ok  # looking changes nothing
    assert [command for command, _ in run.applied] == [Look("gain")]


# -- the socket itself


def test_the_socket_is_private_short_and_gone_afterwards(run: Run) -> None:
    found = os.stat(run.server.path)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(run.server.path)).st_mode) == 0o700
    assert stat.S_IMODE((run.folder / ADDRESS).stat().st_mode) == 0o600
    assert len(os.fsencode(run.server.path)) <= 107
    run.server.close()
    assert not os.path.exists(os.path.dirname(run.server.path))
    assert not (run.folder / ADDRESS).exists()


def test_a_temporary_directory_with_a_long_name_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    listening = ControlServer(tmp_path, wake=lambda: None)
    assert ping(tmp_path) is not None
    listening.close()


def test_other_users_are_turned_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = caller(run.folder)
    monkeypatch.setattr(address, "peer", lambda _: os.geteuid() + 1)
    late = socket.socket(socket.AF_UNIX)
    late.settimeout(20)
    late.connect(run.server.path)
    assert late.recv(100) == b""
    assert connect(run.folder) is None, "nor does a client trust somebody else's server"
    stranger.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_else_cannot_even_connect(run: Run) -> None:
    program = "import os, socket, sys; os.setuid(65534); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    found = subprocess.run([sys.executable, "-c", program, run.server.path], stderr=subprocess.PIPE, text=True)
    assert "PermissionError" in found.stderr


def test_an_address_that_others_can_have_planted_is_not_called(tmp_path: Path) -> None:
    trap = socket.socket(socket.AF_UNIX)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    trap.bind(str(tmp_path / "open" / "control"))
    trap.listen()
    (tmp_path / ADDRESS).write_text(json.dumps({"path": str(tmp_path / "open" / "control")}))
    assert connect(tmp_path) is None
    trap.close()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"path":"\\u0000"}', b'{"path":3}', b"[" * 9999, b'{"path":"/"}'])
def test_a_damaged_address_is_nobody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ADDRESS).write_bytes(content)
    assert ping(tmp_path) is None
    with pytest.raises(ValueError, match="no trainer can be reached"):
        ControlClient(tmp_path).request(Pause())


def test_a_tidied_temporary_directory_is_healed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CHECK_ADDRESS", 0.0)
    monkeypatch.setattr(server, "TICK", 0.01)
    address.remove(run.server.path)
    assert ping(run.folder) is None
    until(lambda: ping(run.folder))


def test_an_address_that_could_not_be_written_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CHECK_ADDRESS", 0.0)
    monkeypatch.setattr(server, "TICK", 0.01)
    room = threading.Event()

    def replace(path: Path, data: bytes, *, sync: bool) -> None:
        if not room.is_set():
            raise OSError(28, "No space left on device")
        replace_file(path, data, sync=sync)

    monkeypatch.setattr(address, "replace_file", replace)
    listening = ControlServer(tmp_path, wake=lambda: None)
    assert ping(tmp_path) is None
    room.set()
    until(lambda: ping(tmp_path))
    listening.close()


LISTENS = """
import sys, time
from pathlib import Path
from makemore_core.server import ControlServer
server = ControlServer(Path(sys.argv[1]), wake=lambda: None)
print(server.path, flush=True)
time.sleep(60)
"""


def test_what_a_killed_trainer_left_is_swept_by_the_next(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LISTENS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = process.stdout.readline().strip()
        client = ControlClient(tmp_path)
        assert client.request(None).pid == process.pid
        name = client.send(Pause())
        process.send_signal(signal.SIGKILL)
    assert all_replies(client, 1) == [Reply(ok=False, id=name, error="no trainer can be reached")]
    listening = ControlServer(tmp_path, wake=lambda: None)
    assert not os.path.exists(os.path.dirname(left))
    assert client.request(None).pid == os.getpid(), "a client finds the next trainer by itself"
    listening.close()


def test_what_trainers_of_other_runs_left_is_swept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places = [tmp_path / f"{address.PREFIX}{name}" for name in ("dead", "empty", "young", "other")]
    for place in places:
        place.mkdir(mode=0o700)
        if place != places[1]:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(place / "control"))
        if place != places[2]:
            os.utime(place, (1, 1))
    places[3].chmod(0o755)
    listening = ControlServer(tmp_path, wake=lambda: None)
    assert [place.exists() for place in places] == [False, False, True, True]
    listening.close()


def test_what_others_listen_at_is_not_swept(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy")
    (copy / ADDRESS).write_bytes((run.folder / ADDRESS).read_bytes())
    listening = ControlServer(copy, wake=lambda: None)
    assert listening.path != run.server.path
    assert ping(run.folder) is not None
    listening.close()


def test_a_stopped_trainer_costs_a_client_no_more_than_its_patience(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LISTENS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        client = ControlClient(tmp_path)
        began = time.monotonic()
        for _ in range(3000):
            client.send(Pause())
            client.replies()
        assert time.monotonic() - began < 10
        with pytest.raises(ValueError, match=r"no answer from its trainer in 0\.1 s|no trainer can be reached"):
            client.request(None, 0.1)
        process.kill()


# -- peers that mean harm, or nothing

BAD_LINES = [
    b"", b"x", b"null", b"[]", b"{}", b'{"id":1}', b"\xff\xfe\x00", b"[" * 60_000, b'{"command":' * 5000,
    b'{"command":{"type":"fly"}}', b'{"command":{"type":"step","n":-1}}', b'{"command":{"type":"step","n":1e999}}',
    b'{"command":{"type":"set","changes":{"lr":"fast"}}}', b'{"command":{"type":"set","changes":{"__class__":1}}}',
    b'{"command":[1,2]}', b'{"hello":3}', b'{"id":{"a":[]},"ping":', b'{"command":{"type":"pause"}',
    b'cos\nsystem\n(S"true"\ntR.', b"GET / HTTP/1.1",
]  # fmt: skip


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_what_is_no_request_is_refused_in_one_line(run: Run, line: bytes) -> None:
    connection = caller(run.folder)
    connection.sendall(line + b"\n")
    connection.shutdown(socket.SHUT_WR)
    heard = answers(connection)
    assert heard
    for reply in heard:
        assert reply["ok"] is False
        assert str(reply["error"]).isprintable()
    assert run.applied == []
    assert still_answers(run)


def test_hostile_text_does_not_reach_a_screen(run: Run) -> None:
    connection = caller(run.folder)
    connection.sendall(b'{"who":"\\u001b]0;x\\u0007\\u009b31m\\nanna","command":{"type":"pause"}}\n')
    until(lambda: run.applied)
    assert run.applied[0][1].isprintable()
    assert run.applied[0][1].endswith("anna")


def test_a_line_without_end_is_cut_off(run: Run) -> None:
    connection = caller(run.folder)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        connection.sendall(b"x" * 1000 * LONGEST_LINE)
    assert still_answers(run)


def test_whoever_talks_nonsense_is_hung_up_on(run: Run) -> None:
    connection = caller(run.folder)
    connection.sendall(b"nonsense\n" * 1000)
    assert len(answers(connection)) == MOST_BAD_LINES


def test_silence_and_half_lines_end_but_a_viewer_may_be_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENCE", 0.05)
    monkeypatch.setattr(server, "TICK", 0.01)
    viewer = ControlClient(run.folder)
    viewer.request(None)
    silent, slow = caller(run.folder), caller(run.folder)
    slow.sendall(b'{"ping"')
    assert answers(silent) == answers(slow) == []
    assert len(run.server._clients) == 1
    assert viewer.request(None).ok


def test_who_was_quiet_for_long_has_time_for_its_next_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENCE", 60.0)
    viewer = caller(run.folder)
    viewer.sendall(b'{"ping":1}\n')
    assert viewer.recv(65536)
    later = SimpleNamespace(**vars(time) | {"monotonic": lambda: time.monotonic() + 1000})
    monkeypatch.setattr(server, "time", later)
    viewer.sendall(b'{"pi')
    for _ in range(20):
        assert still_answers(run)
    viewer.sendall(b'ng":1}\n')
    assert viewer.recv(65536)
    viewer.close()


def test_a_client_that_does_not_read_is_dropped(run: Run) -> None:
    connection = caller(run.folder)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        connection.sendall(b'{"ping":1}\n' * 1_000_000)
    assert still_answers(run)


def test_crowds_give_way_to_those_who_belong_there(run: Run) -> None:
    viewer = ControlClient(run.folder)
    crowd = []
    for n in range(3 * MOST_CLIENTS):
        crowd.append(caller(run.folder))
        crowd[-1].sendall(b'{"ping":1}\n' if n % 2 else b'{"pi')
        if n % 10 == 0:
            assert viewer.request(Pause()).ok
    assert still_answers(run)
    assert viewer.request(Pause()).ok
    assert len(run.server._clients) <= MOST_CLIENTS
    for connection in crowd:
        connection.close()


def test_commands_that_nobody_applies_do_not_pile_up(run: Run) -> None:
    run.busy.set()
    client = ControlClient(run.folder)
    for _ in range(MOST_WAITING + 10):
        client.send(Pause())
    assert {reply.error for reply in all_replies(client, 10)} == {"too many commands are waiting, try again"}
    run.apply()
    assert all(reply.ok for reply in all_replies(client, MOST_WAITING))


def test_an_answer_to_somebody_who_left_is_dropped(run: Run) -> None:
    run.busy.set()
    connection = caller(run.folder)
    connection.sendall(b'{"command":{"type":"pause"}}\n')
    until(lambda: run.server._asked)
    connection.close()
    until(lambda: not run.server._clients)
    run.apply()
    assert still_answers(run)
    assert not run.server._waiting


def harass(folder: Path, messages: int, dice: random.Random) -> None:
    """Malformed, huge and slow messages from changing peers."""
    peers: list[socket.socket] = []
    for _ in range(messages):
        if not peers or dice.random() < 0.1:
            peers.append(caller(folder))
        peer = dice.choice(peers)
        peer.setblocking(False)
        kind = dice.randint(0, 4)
        data = dice.choice(BAD_LINES) + b"\n" if kind < 2 else dice.randbytes(dice.randint(1, 300))
        data = b'{"ping":1}\n' * dice.randint(1, 50) if kind == 3 else data
        data = b"y" * dice.randint(1, 200_000) if kind == 4 else data
        try:
            peer.send(data[: dice.randint(1, len(data))] if dice.random() < 0.2 else data)
        except BlockingIOError:
            pass
        except OSError:
            peer.close()
            peers.remove(peer)
        if len(peers) > 40:
            peers.pop(0).close()
    for peer in peers:
        peer.close()


def test_harassment_leaves_no_trace(run: Run) -> None:
    handles, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    harass(run.folder, 1000, random.Random(5))
    assert still_answers(run)
    assert ControlClient(run.folder).request(Pause()).ok
    until(lambda: not run.server._clients)
    assert threading.active_count() == threads
    until(lambda: len(os.listdir("/proc/self/fd")) <= handles + 1)


def test_the_servers_thread_rests_many_times_as_long_as_it_works(tmp_path: Path) -> None:
    worked: list[float] = []
    run = Run(tmp_path)
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            harass(run.folder, 50, random.Random(6))

    thread = threading.Thread(target=flood)
    thread.start()
    ticks = Path(f"/proc/self/task/{run.server._thread.native_id}/stat")
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        worked.append(sum(map(int, ticks.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK"))
        time.sleep(0.05)
    stop.set()
    thread.join()
    assert worked[-1] - worked[0] < 0.25, "half of a core would be ten times what is promised"
    run.server.close()


def test_an_answer_that_comes_together_with_the_hanging_up_counts(tmp_path: Path) -> None:
    listening = ControlServer(tmp_path, wake=lambda: None)
    client = ControlClient(tmp_path)
    asked = client.send(Stop())
    until(lambda: listening._waiting)
    listening.acknowledge(next(iter(listening._waiting)), 7)
    listening.close()  # sends the answer and hangs up before the client looks
    assert [(reply.id, reply.ok, reply.step) for reply in client.replies()] == [(asked, True, 7)]
