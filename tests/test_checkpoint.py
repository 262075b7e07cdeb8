"""Checkpoints: what was saved comes back to the bit, or is refused in one line and the one before is taken."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from makemore_core.checkpoint import REST, SUMS, TENSORS, load, save
from makemore_core.rundir import checkpoints

TENSORS_OF_A_RUN = {
    "C": torch.arange(12, dtype=torch.float32).reshape(4, 3) / 7,
    "running_mean": torch.tensor([math.nan, math.inf, -0.0]),
    "exp_avg": torch.linspace(0, 1, 5, dtype=torch.float64),
    "generator": torch.arange(256, dtype=torch.uint8),
    "count": torch.tensor(3),
    "none": torch.zeros(0, 4),
}


def rest(step: int) -> dict[str, object]:
    return {"step": step, "attempt": 1, "config": {"lr": 0.1}, "seed": 2**63 - 1, "first_loss": math.nan}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at steps 100 and 200."""
    for step in (100, 200):
        save(tmp_path, TENSORS_OF_A_RUN | {"step": torch.tensor(step)}, rest(step))  # type: ignore[arg-type]
    return tmp_path


def newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def reseal(path: Path) -> None:
    """The checksums of somebody who means harm are right."""
    names = (TENSORS, REST)
    (path / SUMS).write_text("".join(f"{hashlib.sha256((path / n).read_bytes()).hexdigest()}  {n}\n" for n in names))


def test_everything_comes_back_to_the_bit(run: Path) -> None:
    loaded = load(run)
    assert (loaded.rest["step"], loaded.skipped) == (200, [])
    for name, tensor in TENSORS_OF_A_RUN.items():
        found = loaded.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert found.flatten().view(torch.uint8).tolist() == tensor.flatten().view(torch.uint8).tolist()
    assert loaded.rest.pop("first_loss") != 0
    assert loaded.rest == {key: value for key, value in rest(200).items() if key != "first_loss"}


def test_parts_of_one_tensor_and_views_can_be_saved(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    save(tmp_path, {"whole": whole, "row": whole[1], "turned": whole.T}, {"step": 1})
    assert load(tmp_path).tensors["turned"].tolist() == whole.T.tolist()


def test_files_are_private_hold_no_code_and_their_sums_can_be_checked_by_hand(run: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in run.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in run.rglob("*") if path.is_dir()} == {0o700}
    assert subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=newest(run)).returncode == 0
    assert not any(b"pickle" in path.read_bytes() for path in newest(run).iterdir())


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_then_its_name_too(run: Path, synced: list[str]) -> None:
    save(run, TENSORS_OF_A_RUN, rest(300))
    assert synced == [TENSORS, REST, SUMS, ".tmp-000003-attempt1-step300", "checkpoints"]


def test_the_newest_two_are_kept_whatever_their_step(run: Path) -> None:
    for step in (300, 50, 40):  # as after a repair by hand
        save(run, {}, {"step": step, "attempt": 1})
    assert load(run).rest["step"] == 40
    assert [saved.step for saved in checkpoints(run)] == [40, 50]


def test_the_last_good_one_of_each_attempt_to_keep_stays(run: Path) -> None:
    for attempt in range(2, 7):
        for step in (10, 20, 30):
            save(run, {}, {"step": step, "attempt": attempt}, keep={3, 4})
        if attempt == 4:
            (checkpoints(run)[0].path / TENSORS).write_bytes(b"")  # before it is an earlier one
    assert [(saved.attempt, saved.step) for saved in checkpoints(run)] == [(6, 30), (6, 20), (4, 20), (3, 30)]
    assert load(run, 4).rest == {"step": 20, "attempt": 4}
    with pytest.raises(ValueError, match="no checkpoint"):
        load(run, 5)


def test_a_damaged_one_does_not_count_as_kept(run: Path) -> None:
    (newest(run) / TENSORS).write_bytes(b"")
    save(run, {}, {"step": 300})
    (newest(run) / TENSORS).write_bytes(b"")
    loaded = load(run)
    assert loaded.rest["step"] == 100
    assert len(loaded.skipped) == 2


def test_litter_of_a_kill_goes_with_the_next_save(run: Path) -> None:
    litter = run / "checkpoints" / ".tmp-000003-attempt0-step300"
    litter.mkdir()
    (litter / TENSORS).write_bytes(b"half")
    assert load(run).rest["step"] == 200
    assert litter.exists(), "whoever reads leaves alone what may be being written"
    save(run, {}, {"step": 300})
    assert not litter.exists()


def test_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no checkpoint"):
        load(tmp_path)


# -- damage


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._trace),)


def hostile_pickle(path: Path) -> None:
    (path / TENSORS).write_bytes(pickle.dumps(Bomb(path.parent.parent / "trace")))
    torch.save({"w": Bomb(path.parent.parent / "trace")}, path / REST)
    reseal(path)


def wrong_shapes(path: Path) -> None:
    tensors = safetensors.torch.load_file(path / TENSORS)
    safetensors.torch.save_file(tensors | {"C": torch.zeros(3, 4)}, path / TENSORS)
    reseal(path)


def wrong_dtype(path: Path) -> None:
    tensors = safetensors.torch.load_file(path / TENSORS)
    safetensors.torch.save_file(tensors | {"C": tensors["C"].double()}, path / TENSORS)
    reseal(path)


def missing_tensor(path: Path) -> None:
    safetensors.torch.save_file({}, path / TENSORS)
    reseal(path)


def zero_bytes(path: Path) -> None:
    for file in path.iterdir():
        file.write_bytes(b"")


def zeros(path: Path) -> None:
    for file in path.iterdir():
        file.write_bytes(bytes(file.stat().st_size))


def huge_header(path: Path) -> None:
    (path / TENSORS).write_bytes(b"\xff" * 7 + b"\x7f" + b"{}")
    reseal(path)


def deep_json(path: Path) -> None:
    (path / REST).write_bytes(b"[" * 200_000)
    reseal(path)


def other_json(path: Path) -> None:
    (path / REST).write_text(json.dumps({"rest": [], "tensors": 3}))
    reseal(path)


def folder_for_a_file(path: Path) -> None:
    (path / TENSORS).unlink()
    (path / TENSORS).mkdir()


def pipe_for_a_file(path: Path) -> None:
    (path / REST).unlink()
    os.mkfifo(path / REST)


def file_for_the_folder(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    path.write_bytes(b"not a folder")


def empty_folder(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


DAMAGES = [
    hostile_pickle, wrong_shapes, wrong_dtype, missing_tensor, zero_bytes, zeros, huge_header, deep_json, other_json,
    folder_for_a_file, pipe_for_a_file, file_for_the_folder, empty_folder, link,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_damaged_is_refused_in_one_line_and_the_one_before_is_taken(
    run: Path, damage: Callable[[Path], None]
) -> None:
    damage(newest(run))
    loaded = load(run)
    assert loaded.rest["step"] == 100
    (line,) = loaded.skipped
    assert line.startswith("checkpoint 000002-attempt1-step200 was not taken: ")
    assert line.isprintable()
    assert not (run / "trace").exists()
    save(run, {}, {"step": 300})
    assert load(run).rest["step"] == 300


def test_where_all_are_damaged_it_is_said_in_one_line(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        zero_bytes(path)
    with pytest.raises(ValueError, match="has no good checkpoint; checkpoint 000002") as refusal:
        load(run)
    assert str(refusal.value).isprintable()


def check_mutated(run: Path, dice: random.Random) -> None:
    """Injure one file of the newest checkpoint: it is refused."""
    path = dice.choice(sorted(newest(run).iterdir()))
    whole = path.read_bytes()
    data = bytearray(whole)
    at = dice.randrange(len(data))
    match dice.randint(0, 3):
        case 0:
            data[at] ^= 1 << dice.randint(0, 7)
        case 1:
            del data[at:]
        case 2:
            data[at:at] = dice.randbytes(dice.randint(1, 9))
        case _:
            data[at : at + dice.randint(1, 99)] = b""
    path.write_bytes(data)
    loaded = load(run)
    path.write_bytes(whole)
    if data == whole:
        assert loaded.rest["step"] == 200
    else:
        assert loaded.rest["step"] == 100
        assert len(loaded.skipped) == 1
        assert loaded.skipped[0].isprintable()


@settings(max_examples=100)
@given(dice=st.randoms(use_true_random=False))
def test_mutated_checkpoints_never_load(tmp_path_factory: pytest.TempPathFactory, dice: random.Random) -> None:
    folder = tmp_path_factory.mktemp("run")
    for step in (100, 200):
        save(folder, TENSORS_OF_A_RUN, {"step": step})
    check_mutated(folder, dice)


# -- disks and kills


def test_a_full_disk_at_every_write_is_loud_and_leaves_the_old_ones(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    for n in range(4):
        writes = iter(range(100))

        def failing(fd: int, data: bytes, fails: int = n, counted: object = writes) -> int:
            if next(counted) == fails:  # type: ignore[call-overload]
                write(fd, data[: len(data) // 2])
                raise OSError(28, "No space left on device")
            return write(fd, data)

        monkeypatch.setattr(os, "write", failing)
        if n < 3:
            with pytest.raises(OSError, match="No space left"):
                save(run, TENSORS_OF_A_RUN, {"step": 300})
            assert load(run).rest["step"] == 200
            assert not list((run / "checkpoints").glob(".*"))
        else:
            assert save(run, TENSORS_OF_A_RUN, {"step": 300}) == newest(run)


# Forks children that save until they are killed, so that torch is imported once.
SAVES = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from makemore_core.checkpoint import load, save
torch.set_num_threads(1)
folder, times, dice = Path(sys.argv[1]), int(sys.argv[2]), random.Random(3)

def saves(step, told):
    while True:
        step += 1
        tensors = {"w": torch.full((200, 200), float(step)), "g": torch.zeros(5000, dtype=torch.uint8)}
        save(folder, tensors, {"step": step})
        os.write(told, b"%d\\n" % step)

step = 0
for _ in range(times):
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        saves(step, told)
    os.close(told)
    with os.fdopen(heard, "rb") as file:
        lines = [file.readline() for _ in range(2)]
        time.sleep(dice.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        lines += file.readlines()
    os.waitpid(child, 0)
    loaded = load(folder)
    promised = int([line for line in lines if line.endswith(b"\\n")][-1])
    assert promised <= loaded.rest["step"] <= promised + 1, (promised, loaded)
    assert not loaded.skipped, loaded.skipped
    assert bool((loaded.tensors["w"] == loaded.rest["step"]).all())
    step = loaded.rest["step"]
save(folder, {}, {"step": step})
assert len(os.listdir(folder / "checkpoints")) == 2, os.listdir(folder / "checkpoints")
print(times, "kills,", step, "checkpoints")
"""


def check_kills(folder: Path, times: int) -> str:
    argv = [sys.executable, "-c", SAVES, str(folder), str(times)]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_kill_9_while_saving_always_leaves_a_good_checkpoint_and_no_litter(tmp_path: Path) -> None:
    assert check_kills(tmp_path, 10).startswith("10 kills")
