"""What a record promises: whatever happens to writer, disk and files, nothing altered is ever delivered."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.history import History
from makemore_core import record
from makemore_core.record import RecordReader, RecordWriter, segment_path, segments
from makemore_core.recordlines import KEPT_LOSSES, seal, thinned, unseal
from makemore_core.snapshot import Snapshot, from_json, to_json

PAYLOADS = [
    b'{"type":"snapshot","step":1,"losses":[3.25]}',
    b'{"type":"command","step":1,"attempt":0,"who":"anna","command":{"type":"pause"}}',
    b'{"type":"exhibit","name":"dead \xe2\x80\xa8"}',
    b'{"type":"from the future"}',
]


def written(folder: Path, payloads: list[bytes] = PAYLOADS) -> Path:
    """The only file of a record of these payloads."""
    writer = RecordWriter(folder)
    assert all(writer.append(payload) for payload in payloads)
    writer.close()
    (path,) = folder.glob("*.jsonl")
    return path


def snapshot(step: int, losses: list[float], **more: object) -> bytes:
    fields = {"type": "snapshot", "attempt": 0, "step": step, "losses": losses} | more
    return msgspec.json.encode(fields)


def read_all(folder: Path) -> list[bytes]:
    return RecordReader(folder).read()


def is_part(found: list[bytes], whole: list[bytes]) -> bool:
    """Whether `found` is `whole` with some left out."""
    rest = iter(whole)
    return all(payload in rest for payload in found)


def test_each_line_is_the_same_object_for_jq_with_its_number_and_checksum(tmp_path: Path) -> None:
    lines = written(tmp_path).read_bytes().split(b"\n")
    assert lines.pop() == b""
    for n, (line, payload) in enumerate(zip(lines, PAYLOADS, strict=True)):
        found = json.loads(line)
        assert len(found.pop("crc")) == 8
        assert found.pop("n") == n
        assert found == json.loads(payload)


def test_files_are_private(tmp_path: Path) -> None:
    assert written(tmp_path / "record").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "record").stat().st_mode & 0o777 == 0o700


def test_a_durable_record_is_on_the_disk_at_once_and_others_when_they_are_synced(
    tmp_path: Path, synced: list[str]
) -> None:
    writer, file = RecordWriter(tmp_path / "record"), "000000000000000.jsonl"
    writer.append(PAYLOADS[0])
    assert synced == []
    writer.append(PAYLOADS[1], durable=True)
    assert synced == [file, "record"]
    writer.sync()
    writer.close()
    assert synced[2:] == [file, file]


def test_the_name_of_a_new_file_is_on_the_disk_once_it_is_synced(tmp_path: Path, synced: list[str]) -> None:
    writer, file = RecordWriter(tmp_path / "record"), "000000000000000.jsonl"
    writer.append(PAYLOADS[0])
    writer.sync()
    assert writer._syncing is not None
    writer._syncing.join()
    assert synced == [file, "record"]


def test_a_follower_gets_each_record_once_while_it_is_written(tmp_path: Path) -> None:
    reader, writer = RecordReader(tmp_path), RecordWriter(tmp_path, segment=100)
    assert reader.read() == []
    for payload in PAYLOADS * 5:
        assert writer.append(payload)
        assert reader.read() == [payload]
        assert reader.read() == []
    assert len(segments(tmp_path)) > 5
    assert reader.damaged == 0


@pytest.mark.parametrize("folder_too", [False, True])
def test_a_record_that_is_removed_goes_on_for_its_followers_and_the_loss_is_counted(
    tmp_path: Path, folder_too: bool
) -> None:
    folder = tmp_path / "record"
    writer, reader = RecordWriter(folder, segment=100), RecordReader(folder)
    assert all(writer.append(payload) for payload in PAYLOADS * 3)
    assert reader.read() == PAYLOADS * 3
    for path in folder.iterdir():
        path.unlink()
    if folder_too:
        folder.rmdir()
    for payload in PAYLOADS:
        assert writer.append(payload)
        assert reader.read() == [payload]
    assert (writer.dropped, reader.damaged) == (3 * len(PAYLOADS), 0)
    assert read_all(folder) == PAYLOADS


@pytest.mark.parametrize("gone", [(), (1,), (1, 3), "all"])
def test_only_what_is_gone_of_a_record_is_told_lost(tmp_path: Path, gone: tuple[int, ...] | str) -> None:
    writer = RecordWriter(tmp_path, segment=100)
    assert all(writer.append(payload) for payload in PAYLOADS * 3)
    *sealed, last = (segment_path(tmp_path, segment.first) for segment in segments(tmp_path))
    removed = sealed if gone == "all" else [sealed[int(at)] for at in gone]
    lines = sum(path.read_bytes().count(b"\n") for path in removed)
    for path in removed:
        path.unlink()
    shutil.copy(last, tmp_path / "copy")
    (tmp_path / "copy").replace(last)  # as tools do that put a file back
    assert writer.append(PAYLOADS[0])
    assert (writer.dropped, len(read_all(tmp_path))) == (lines, 3 * len(PAYLOADS) - lines + 1)


def test_a_long_record_can_be_opened_in_pieces(tmp_path: Path) -> None:
    payloads = [snapshot(step, [1.0] * 500) for step in range(2000)]
    writer = RecordWriter(tmp_path)
    assert all(writer.append(payload) for payload in payloads)
    reader, pieces = RecordReader(tmp_path), []
    while piece := reader.read(most=1):
        pieces.append(piece)
    assert len(pieces) > 3
    assert [payload for piece in pieces for payload in piece] == payloads


def test_cut_at_every_byte_gives_the_exact_prefix_and_goes_on_there(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        reader = RecordReader(tmp_path)
        assert reader.read() == PAYLOADS[:whole]
        writer = RecordWriter(tmp_path)
        assert writer.append(PAYLOADS[0])
        writer.close()
        assert reader.read() == PAYLOADS[:1]
        assert reader.damaged == 0
        assert read_all(tmp_path) == [*PAYLOADS[:whole], PAYLOADS[0]]


def test_a_flipped_bit_loses_its_record_and_no_other(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(flipped(data, at, at % 8))
        check_flip(tmp_path, data, at)


def test_a_line_torn_at_the_end_of_a_file_with_others_behind_it_is_counted(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path, segment=1)
    assert all(writer.append(payload) for payload in PAYLOADS)
    writer.close()
    torn = segment_path(tmp_path, 1)
    torn.write_bytes(torn.read_bytes()[:-9])
    reader = RecordReader(tmp_path)
    assert reader.read() == [PAYLOADS[0], *PAYLOADS[2:]]
    assert reader.damaged == 1


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def check_flip(folder: Path, data: bytes, at: int) -> None:
    """A line's end holds it apart from the next one, so that without it both are lost; the last one is then torn."""
    reader = RecordReader(folder)
    hit = data[:at].count(b"\n")
    lost = {hit, hit + 1} if data[at] == 10 else {hit}
    assert reader.read() == [payload for n, payload in enumerate(PAYLOADS) if n not in lost]
    assert reader.damaged == 1 or at == len(data) - 1


def mutate(data: bytes, dice: random.Random) -> bytes:
    """A few random injuries: bytes changed, cut out, doubled, moved or put in."""
    for _ in range(dice.randint(1, 4)):
        i, j = sorted((dice.randint(0, len(data)), dice.randint(0, len(data))))
        k = dice.randint(0, len(data))
        match dice.randint(0, 5):
            case 0:
                data = data[:i] + dice.randbytes(1) + data[i + 1 :]
            case 1:
                data = data[:i] + data[j:]
            case 2:
                data = data[:j] + data[i:j] + data[j:]
            case 3:
                data = data[:k] + data[i:j] + data[k:]
            case 4:
                data = data[:i] + dice.randbytes(dice.randint(1, 40)) + data[i:]
            case _:
                data = data[:i] + bytes(j - i) + data[j:]
    return data


def check_mutated(folder: Path, data: bytes, dice: random.Random) -> None:
    path = next(folder.glob("*.jsonl"))
    path.write_bytes(mutate(data, dice))
    reader = RecordReader(folder)
    found = reader.read()
    assert is_part(found, PAYLOADS)
    writer = RecordWriter(folder)
    assert writer.append(PAYLOADS[3])
    writer.close()
    assert reader.read() in ([PAYLOADS[3]], [])
    assert is_part(read_all(folder), [*PAYLOADS, PAYLOADS[3]])


@settings(max_examples=200)
@given(st.randoms(use_true_random=False))
def test_mutated_files_deliver_nothing_that_was_not_written(
    tmp_path_factory: pytest.TempPathFactory, dice: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("record")
    check_mutated(folder, written(folder).read_bytes(), dice)


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=400), min_size=1, max_size=3))
def test_random_files_deliver_nothing(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("record")
    for n, content in enumerate(contents):
        record.segment_path(folder, 7 * n).write_bytes(content)
    assert read_all(folder) == []
    writer = RecordWriter(folder)
    assert writer.append(PAYLOADS[0])
    assert read_all(folder) == PAYLOADS[:1]


def test_who_had_read_the_last_line_before_it_was_damaged_gets_the_next(tmp_path: Path) -> None:
    path, follower = written(tmp_path), RecordReader(tmp_path)
    assert follower.read() == PAYLOADS
    path.write_bytes(path.read_bytes()[:-9] + b"damaged.\n")
    writer = RecordWriter(tmp_path)
    assert writer.append(PAYLOADS[0])
    assert follower.read() == PAYLOADS[:1]


def test_what_is_no_file_is_no_segment_and_stalls_nobody(tmp_path: Path) -> None:
    os.mkfifo(record.segment_path(tmp_path, 0))
    record.segment_path(tmp_path, 1).mkdir()
    record.segment_path(tmp_path, 2).symlink_to("/dev/zero")
    writer = RecordWriter(tmp_path)
    assert not writer.append(PAYLOADS[0])
    assert writer.problem
    assert RecordReader(tmp_path).read() == []
    assert RecordReader(tmp_path / "nowhere").read() == []


def test_a_line_without_end_is_passed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "CHUNK", 16)
    monkeypatch.setattr(record, "LONGEST", 256)
    path = written(tmp_path)
    path.write_bytes(b"x" * 5000 + b"\n" + path.read_bytes())
    reader = RecordReader(tmp_path)
    assert reader.read() == PAYLOADS
    assert reader.damaged == 1


# -- a disk that refuses


class Disk:
    """`os.write` on a disk with room for so many bytes; `os.ftruncate` can be made to fail as well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room, self.cuts = 10**9, True
        self._write, self._ftruncate = os.write, os.ftruncate
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "ftruncate", self.ftruncate)

    def write(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = self._write(fd, bytes(data)[: self.room])
        self.room -= done
        return done

    def ftruncate(self, fd: int, size: int) -> None:
        if not self.cuts:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._ftruncate(fd, size)


class Time:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_disk_full_at_every_byte_of_a_write_leaves_no_torn_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, clock = Disk(monkeypatch), Time(monkeypatch)
    line = len(seal(PAYLOADS[1], 1))
    for room in range(line):
        folder = tmp_path / str(room)
        writer, reader = RecordWriter(folder), RecordReader(folder)
        assert writer.append(PAYLOADS[0])
        disk.room = room
        assert not writer.append(PAYLOADS[1])
        assert (writer.dropped, writer.problem) == (1, "No space left on device")
        assert next(folder.glob("*.jsonl")).read_bytes().endswith(b"}\n")
        assert reader.read() == PAYLOADS[:1]
        disk.room = 10**9
        clock.now += 10
        assert writer.append(PAYLOADS[2])
        assert writer.problem == ""
        assert reader.read() == PAYLOADS[2:3]
        assert reader.damaged == 0


def test_a_full_disk_is_tried_ever_more_rarely_but_within_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, clock = Disk(monkeypatch), Time(monkeypatch)
    writer = RecordWriter(tmp_path)
    disk.room = 0
    tries: list[float] = []
    write = disk.write

    def counted(fd: int, data: bytes) -> int:
        tries.append(clock.now)
        return write(fd, data)

    monkeypatch.setattr(os, "write", counted)
    for _ in range(6000):
        clock.now += 0.01
        assert not writer.append(PAYLOADS[0])
    assert writer.dropped == 6000
    assert len(tries) < 20
    assert max(b - a for a, b in itertools.pairwise(tries)) < 10
    assert not writer.append(PAYLOADS[1], durable=True)
    assert tries[-1] == clock.now, "what has to be on the disk is tried at once"


def test_a_torn_line_that_cannot_be_cut_off_yet_is_cut_off_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, clock = Disk(monkeypatch), Time(monkeypatch)
    writer, reader = RecordWriter(tmp_path), RecordReader(tmp_path)
    assert writer.append(PAYLOADS[0])
    disk.room, disk.cuts = 20, False
    assert not writer.append(PAYLOADS[1])
    disk.room = 10**9
    clock.now += 10
    assert not writer.append(PAYLOADS[2])
    disk.cuts = True
    clock.now += 10
    assert writer.append(PAYLOADS[3])
    assert reader.read() == [PAYLOADS[0], PAYLOADS[3]]
    assert reader.damaged == 0


def test_a_record_too_long_for_any_reader_is_counted_and_left_out(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    assert not writer.append(b'{"type":"' + b"x" * record.LONGEST + b'"}')
    assert writer.dropped == 1
    assert writer.append(PAYLOADS[0])


# -- a record of days


def losses_of(payloads: list[bytes]) -> list[float]:
    kept = []
    for payload in payloads:
        found = json.loads(payload)
        for i, loss in enumerate(found.get("losses", [])):
            kept.append(loss if loss is not None else float(found["losses_kind"][str(i)]))
    return kept


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days pass quickly here; the disk has to keep up."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def run_of_days(folder: Path, n: int, budget: int, look: Callable[[int], None] = lambda _: None) -> list[bytes]:
    """A record many times its budget; returns the commands in it."""
    dice, commands = random.Random(7), []
    writer = RecordWriter(folder, budget=budget)
    for i in range(1, n + 1):
        losses = [dice.random() for _ in range(20)]
        if i == n // 3:
            losses[7], losses[9] = 99.0, -99.0
        writer_waits(writer, snapshot(20 * i, losses, pad="." * dice.randint(0, 600)))
        if i % 500 == 0:
            commands.append(b'{"type":"command","step":%d,"who":"anna"}' % i)
            assert writer.append(commands[-1], durable=True)
        assert i % 7 or sum(path.stat().st_size for path in folder.iterdir()) <= budget
        look(i)
    writer.close()
    return commands


def writer_waits(writer: RecordWriter, payload: bytes) -> None:
    """Nobody records at the speed of this loop: wait for the disk where thinning does."""
    deadline = time.monotonic() + 60
    while not writer.append(payload):
        assert "used up" in writer.problem
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@pytest.mark.usefixtures("quick_disk")
def test_a_record_of_days_stays_in_its_budget_with_extremes_commands_and_ends(tmp_path: Path) -> None:
    commands = run_of_days(tmp_path, 2500, 150_000)
    reader = RecordReader(tmp_path)
    found = reader.read()
    assert reader.damaged == 0
    assert [payload for payload in found if b'"command"' in payload] == commands
    losses = losses_of(found)
    assert (min(losses), max(losses)) == (-99.0, 99.0)
    steps = [json.loads(payload)["step"] for payload in found if b'"snapshot"' in payload]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (20, 50_000)
    # how far apart depends on when the disk let it be thinned
    assert max(b - a for a, b in itertools.pairwise(steps)) < 50_000 / 4, "the whole run is still there"
    assert len(segments(tmp_path)) < 40
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("quick_disk")
def test_beside_commands_that_fill_whole_segments_the_rest_is_thinned(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path, budget=150_000)
    commands = [b'{"type":"command","step":%d,"who":"%s"}' % (i, b"anna" * 200) for i in range(60)]
    assert all(writer.append(command, durable=True) for command in commands)
    for step in range(20, 40_000, 20):
        writer_waits(writer, snapshot(step, [3.0] * 20))
    writer.close()
    found = read_all(tmp_path)
    assert [payload for payload in found if b'"command"' in payload] == commands
    assert json.loads(found[-1])["step"] == 39_980


@pytest.mark.usefixtures("quick_disk")
def test_followers_are_not_confused_by_thinning(tmp_path: Path) -> None:
    quick, slow = RecordReader(tmp_path), RecordReader(tmp_path)
    got: dict[RecordReader, list[bytes]] = {quick: [], slow: []}

    def look(i: int) -> None:
        got[quick] += quick.read()
        if i % 501 == 0:
            got[slow] += slow.read(most=100_000)

    run_of_days(tmp_path, 2000, 150_000, look)
    while more := slow.read(most=100_000):
        got[slow] += more
    assert quick.damaged == slow.damaged == 0
    assert len(got[quick]) == 2000 + 4, "who keeps up gets everything"
    steps = [json.loads(payload)["step"] for payload in got[slow] if b'"snapshot"' in payload]
    assert all(a < b for a, b in itertools.pairwise(steps))
    assert steps[-1] == 40_000
    assert sum(b'"command"' in payload for payload in got[slow]) == 4


def check_pace(folder: Path, dice: random.Random) -> None:
    """A writer that rotates, thins, merges, tears and begins again, and readers that look now and then."""
    n = commands = 0
    budget = dice.choice([3_000, 10_000, 30_000])
    writer = RecordWriter(folder, budget=budget)
    readers = [RecordReader(folder) for _ in range(3)]
    got: dict[RecordReader, list[bytes]] = {reader: [] for reader in readers}
    for _ in range(dice.randint(1, 300)):
        n += 1
        pad = "." * dice.randint(0, budget // 60)
        writer.append(snapshot(n, [dice.random()], attempt=dice.randint(0, 1), pad=pad))
        if dice.random() < 0.1:
            n, commands = n + 1, commands + 1
            assert writer.append(b'{"type":"command","step":%d}' % n, durable=True)
        if dice.random() < 0.03:
            writer.close()
            last = max(folder.glob("*.jsonl"))
            last.write_bytes(last.read_bytes() + dice.randbytes(5).replace(b"\n", b""))
            writer = RecordWriter(folder, budget=budget)
        reader = dice.choice(readers)
        if dice.random() < 0.2:
            got[reader] += reader.read(most=dice.choice([1, 500, None]))
    writer.close()
    for reader, payloads in got.items():
        while more := reader.read(most=2000):
            payloads += more
        assert reader.damaged == 0
        steps = [json.loads(payload)["step"] for payload in payloads]
        assert all(a < b for a, b in itertools.pairwise(steps))
        assert sum(b'"command"' in payload for payload in payloads) == commands
        assert payloads[-1] == read_all(folder)[-1]


@settings(max_examples=50)
@given(st.randoms(use_true_random=True))
def test_whoever_reads_at_whatever_pace_gets_every_command_in_order(
    tmp_path_factory: pytest.TempPathFactory, dice: random.Random
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        check_pace(tmp_path_factory.mktemp("record"), dice)


def thin(payloads: list[bytes]) -> list[bytes]:
    lines = [seal(payload, n).removesuffix(b"\n") for n, payload in enumerate(payloads)]
    out = b"".join(kept for _, kept in thinned(lines))
    found = [unseal(line) for line in out.split(b"\n")[:-1]]
    numbers = [n for n, _ in filter(None, found)]
    assert numbers == sorted(numbers)
    return [payload for _, payload in filter(None, found)]


@pytest.mark.parametrize("scarce", ["descriptors", "threads"])
def test_a_system_that_has_nothing_left_loses_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scarce: str
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files") if scarce == "descriptors" else RuntimeError("no new thread")

    writer = RecordWriter(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "dup") if scarce == "descriptors" else (threading.Thread, "start")), none_left)
        assert writer.append(PAYLOADS[0])
        handles = len(os.listdir("/proc/self/fd"))
        writer.sync()
        assert len(os.listdir("/proc/self/fd")) == handles
    writer.sync()
    assert writer.append(PAYLOADS[1])
    writer.close()
    assert read_all(tmp_path) == PAYLOADS[:2]


def test_thinning_keeps_how_an_attempt_began_and_ended() -> None:
    first = [snapshot(step, [1.0] * bool(step), attempt=0) for step in range(6)]
    second = [snapshot(step, [1.0] * bool(step), attempt=1) for step in range(5)]
    kept = [(json.loads(p)["attempt"], json.loads(p)["step"]) for p in thin(first + second)]
    assert kept == [(0, 0), (0, 1), (0, 3), (0, 5), (1, 0), (1, 1), (1, 3), (1, 4)]


def test_thinning_keeps_losses_that_are_no_numbers() -> None:
    before = snapshot(200, [2.0] * 99 + [1.0])
    broken = msgspec.json.encode(
        {"type": "snapshot", "attempt": 0, "step": 300, "losses": [2.0] * 98 + [None, None]}
        | {"losses_kind": {"98": "inf", "99": "nan"}}
    )
    (merged,) = thin([before, broken])
    found = json.loads(merged)
    assert found["losses_span"] == 200
    assert len(found["losses"]) <= KEPT_LOSSES + 1
    losses = losses_of([merged])
    assert 1.0 in losses
    assert losses[-2] == float("inf")
    assert losses[-1] != losses[-1]


def test_thinning_keeps_the_mean_of_all_losses() -> None:
    """However many each snapshot had, and however often they are thinned."""
    (once,) = thin([snapshot(500, [1.0] * 300), snapshot(600, [3.0] * 100)])
    found = json.loads(once)
    assert (found["losses_span"], found["losses_mean"]) == (400, 1.5)
    (twice,) = thin([once, snapshot(1000, [4.0] * 400)])
    found = json.loads(twice)
    assert (found["losses_span"], found["losses_mean"]) == (800, 2.75)


def test_thinning_keeps_the_layers_that_later_snapshots_leave_out() -> None:
    rows, kept = [{"index": 2}], []
    for step in range(20, 100, 20):
        kept.append(snapshot(step, [2.0], layers=rows, weights=rows, layers_step=step))
        kept.append(snapshot(step + 10, [2.0], layers=[], weights=[], layers_step=step))
    found = [json.loads(payload) for payload in thin(kept)]
    assert [s["layers_step"] for s in found if s.get("layers") == s.get("weights") == rows] == [20, 40, 60, 80]


def test_thinning_keeps_the_extremes_of_a_twin_too() -> None:
    twin = [json.loads(snapshot(step, [9.0 if step == 200 else 1.0] * 100)) for step in (200, 300)]
    (merged,) = thin([snapshot(t["step"], [1.0] * 100, twin=t) for t in twin])
    found = json.loads(merged)["twin"]
    assert (found["step"], max(found["losses"]), min(found["losses"])) == (300, 9.0, 1.0)


@settings(max_examples=100)
@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=150), max_size=12))
def test_thinning_never_loses_an_extreme(parts: list[list[float]]) -> None:
    step, payloads = 1, [snapshot(1, [])]
    for losses in parts:
        step += len(losses)
        payloads.append(snapshot(step, losses))
    losses = [loss for part in parts for loss in part]
    while len(thinner := thin(payloads)) < len(payloads):
        payloads = thinner
        found = losses_of(payloads)
        assert not losses or (min(found), max(found)) == (min(losses), max(losses))
    spans = [json.loads(p).get("losses_span") or len(json.loads(p)["losses"]) for p in payloads]
    assert sum(spans) == len(losses)


def test_a_thinned_record_draws_the_same_curve() -> None:
    dice, payloads, drawn, redrawn = random.Random(3), [], History(), History()
    for step in range(0, 20_001, 100):
        losses = [3 / (1 + step / 5000) + dice.random() ** 4 for _ in range(100 * bool(step))]
        if step == 7000:
            losses[50] = 99.0
        event = Snapshot(run="r", state="running", step=step, steps=20_000, time=0.0, losses=tuple(losses))
        payloads.append(to_json(event))
        drawn.feed([event])
    for _ in range(4):
        payloads = thin(payloads)
    assert len(payloads) < 20
    redrawn.feed(map(from_json, payloads))
    assert redrawn.attempt.loss.end == drawn.attempt.loss.end
    for before, after in zip(drawn.attempt.loss.columns(2000), redrawn.attempt.loss.columns(2000), strict=True):
        assert before is not None
        assert after is not None
        assert abs(before.mean - after.mean) < 0.1
        assert after.high <= 99.0
    assert max(bucket.high for bucket in redrawn.attempt.loss.columns(2000) if bucket) == 99.0


# -- kill -9

KEEPS_WRITING = """
import os, sys
from pathlib import Path
from makemore_core.record import RecordWriter
assert "torch" not in sys.modules
writer = RecordWriter(Path(sys.argv[1]), segment=30_000)
n = int(sys.argv[2])
while True:
    payload = b'{"type":"snapshot","step":%d,"pad":"%s"}' % (n + 1, b"." * (n * 37 % 3000))
    if writer.append(payload, durable=n % 50 == 0):
        n += 1
        os.write(1, b"%d\\n" % n)
"""

KEEPS_THINNING = """
import os, sys, time
from pathlib import Path
from makemore_core.record import RecordWriter
writer = RecordWriter(Path(sys.argv[1]), budget=100_000)
n = int(sys.argv[2])
while True:
    for i in range(20):
        now = time.monotonic_ns()  # goes on where a killed writer was, though the same commands are made again
        writer.append(b'{"type":"snapshot","step":%d,"losses":[1.5],"pad":"%s"}' % (now, b"." * (i * 53)))
    if writer.append(b'{"type":"command","step":%d}' % (n + 1), durable=True):
        n += 1
        os.write(1, b"%d\\n" % n)
"""


def killed(program: str, folder: Path, start: int, most: int, dice: random.Random) -> int:
    """Start a writer that goes on behind number `start`, kill it at a random moment; the last number it promised."""
    with subprocess.Popen([sys.executable, "-c", program, str(folder), str(start)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(dice.randint(1, most))]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return int([line for line in lines if line.endswith(b"\n")][-1])


def steps_of(payloads: list[bytes], kind: str) -> list[int]:
    found = [json.loads(payload) for payload in payloads]
    return [event["step"] for event in found if event["type"] == kind]


def check_kills(folder: Path, times: int, dice: random.Random) -> None:
    reader, followed, promised = RecordReader(folder), list[int](), 0
    for _ in range(times):
        promised = killed(KEEPS_WRITING, folder, promised, 400, dice)
        followed += steps_of(reader.read(), "snapshot")
        found = steps_of(read_all(folder), "snapshot")
        assert found == list(range(1, len(found) + 1)) == followed
        assert promised <= len(found) <= promised + 1
        promised = len(found)
    assert reader.damaged == 0


def check_kills_while_thinning(folder: Path, times: int, dice: random.Random) -> None:
    promised = 0
    for _ in range(times):
        promised = killed(KEEPS_THINNING, folder, promised, 60, dice)
        found = steps_of(read_all(folder), "command")
        assert found == list(range(1, len(found) + 1))
        assert promised <= len(found) <= promised + 1
        promised = len(found)
    RecordWriter(folder).close()
    assert not list(folder.glob(".*"))
    steps = steps_of(read_all(folder), "snapshot")
    assert steps == sorted(steps)


def test_kill_9_loses_no_acknowledged_record(tmp_path: Path) -> None:
    check_kills(tmp_path, 5, random.Random(1))


def test_kill_9_while_thinning_loses_no_command(tmp_path: Path) -> None:
    check_kills_while_thinning(tmp_path, 5, random.Random(2))


def test_readers_that_nobody_holds_let_go_of_their_file(tmp_path: Path) -> None:
    written(tmp_path)
    handles = len(os.listdir("/proc/self/fd"))
    assert all(read_all(tmp_path) == PAYLOADS for _ in range(50))
    assert len(os.listdir("/proc/self/fd")) <= handles + 5


def test_a_reader_that_was_closed_closes_no_file_of_somebody_else(tmp_path: Path) -> None:
    written(tmp_path)
    reader = RecordReader(tmp_path)
    assert reader.read() == PAYLOADS
    reader.close()
    with open(tmp_path / "other", "wb") as other:  # gets the descriptor that is free now
        del reader
        os.fstat(other.fileno())
