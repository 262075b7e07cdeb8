"""The record under every cut, every flipped bit, thousands of injured files and hundreds of kills."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from makemore_core import record
from makemore_core.record import RecordReader, RecordWriter
from tests.test_record import (
    check_flip,
    check_kills,
    check_kills_while_thinning,
    check_mutated,
    check_pace,
    flipped,
    read_all,
    snapshot,
    written,
)

pytestmark = pytest.mark.torture


def test_every_bit_flipped(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            path.write_bytes(flipped(data, at, bit))
            check_flip(tmp_path, data, at)
    print(f"\n{8 * len(data):,} flipped bits: each lost its own record, none was delivered altered")


def test_a_long_record_cut_at_every_byte(tmp_path: Path) -> None:
    payloads = [snapshot(step, [step / 7] * 40) for step in range(100)]
    path = written(tmp_path, payloads)
    data = path.read_bytes()
    for cut in range(len(data), -1, -1):
        os.truncate(path, cut)
        reader = RecordReader(tmp_path)
        assert reader.read() == payloads[: data[:cut].count(b"\n")]
        assert reader.damaged == 0
        reader.close()
    print(f"\n{len(data):,} cuts: the exact prefix each time")


def test_5000_mutated_files(tmp_path: Path) -> None:
    for n in range(5000):
        folder = tmp_path / str(n % 50)
        for path in folder.glob("*"):
            path.unlink()
        check_mutated(folder, written(folder).read_bytes(), random.Random(n))
    print("\n5,000 mutated files: nothing altered was delivered, no exception")


def test_5000_random_files(tmp_path: Path) -> None:
    dice = random.Random(11)
    letters = [b'{"type":"snapshot"', b"}", b"\n", b',"n":3', b',"crc":"00000000"}', b"\x00", b"\xff", b"{", b"[", b'"']
    for _ in range(5000):
        noise = dice.randbytes(dice.randint(0, 2000))
        grammar = b"".join(dice.choices(letters, k=dice.randint(0, 200)))
        record.segment_path(tmp_path, 0).write_bytes(dice.choice([noise, grammar, noise + grammar]))
        assert read_all(tmp_path) == []
        RecordWriter(tmp_path).close()
    print("\n5,000 random files: nothing delivered, no exception")


def test_200_kills_while_recording(tmp_path: Path) -> None:
    records = 0
    for n in range(10):
        check_kills(tmp_path / str(n), 20, random.Random(n))
        records += len(read_all(tmp_path / str(n)))
    print(f"\n200 kills: {records:,} records, none that was acknowledged is missing, all in order")


def test_100_kills_while_thinning(tmp_path: Path) -> None:
    check_kills_while_thinning(tmp_path, 100, random.Random(13))
    print("\n100 kills of a writer that thins all the time: every acknowledged command is there, in order")


def test_2000_records_with_readers_at_every_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for n in range(2000):
        check_pace(tmp_path / str(n), random.Random(n))
    print("\n2,000 records rotated, thinned, torn and followed: every command reached every reader, in order")
