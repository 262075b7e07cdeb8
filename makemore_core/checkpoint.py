"""Checkpoints: tensors in safetensors, everything else in JSON, no code in either, and never half of one.

A checkpoint is a folder that gets its name when all of it is on the disk. What is read is checked against the
SHA-256 beside it, because a damaged file can load without a complaint and train on with wrong weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError

from makemore_core.config import printable
from makemore_core.files import read_file, sync_folder, write_file
from makemore_core.rundir import CHECKPOINTS, checkpoints
from makemore_core.snapshot import Json

TENSORS, REST, SUMS = "tensors.safetensors", "rest.json", "SHA256SUMS"
LONGEST_REST = 64 * 1024 * 1024
KEEP = 2  # good checkpoints of a run

_TEMPORARY = ".tmp-"


class Loaded(NamedTuple):
    """What was saved; `skipped` says in a line each why newer checkpoints were not taken."""

    tensors: dict[str, torch.Tensor]
    rest: dict[str, Json]
    skipped: list[str]


def save(
    folder: Path, tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Json], keep: Collection[int] = ()
) -> Path:
    """Save a run's checkpoint and remove old ones; `rest` has `step` and `attempt`.

    The newest `KEEP` good ones stay, and the newest good one of each of the attempts to `keep`.
    Only the process that trains the run may call this. Raises OSError where the disk refuses; the checkpoints
    that are there then stay as they are.
    """
    inside = folder / CHECKPOINTS
    inside.mkdir(mode=0o700, exist_ok=True)
    sweep(folder)
    newest = next((saved.number for saved in checkpoints(folder)), 0)
    name = f"{newest + 1:06}-attempt{int(str(rest.get('attempt', 0)))}-step{int(str(rest['step']))}"
    temporary = inside / f"{_TEMPORARY}{name}"
    try:
        temporary.mkdir(mode=0o700)
        _write(temporary, tensors, rest)
        os.rename(temporary, inside / name)
        sync_folder(inside)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _prune(folder, keep)
    return inside / name


def load(folder: Path, attempt: int | None = None) -> Loaded:
    """The newest good checkpoint of a run, or of one of its attempts.

    Raises ValueError, in one line, where there is none.
    """
    skipped: list[str] = []
    for saved in checkpoints(folder):
        if attempt not in (None, saved.attempt):
            continue
        try:
            return _read(saved.path, skipped)
        except ValueError as error:
            skipped.append(f"checkpoint {saved.path.name} was not taken: {error}")
    if skipped:
        raise ValueError(f"{folder.name}: has no good checkpoint; {skipped[0]}")
    raise ValueError(f"{folder.name}: has no checkpoint")


def sweep(folder: Path) -> None:
    """Remove what a killed save left; only for the process that trains the run."""
    for litter in (folder / CHECKPOINTS).glob(f"{_TEMPORARY}*"):
        shutil.rmtree(litter, ignore_errors=True)


def _write(inside: Path, tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Json]) -> None:
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    table = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in plain.items()}
    files = {
        TENSORS: safetensors.torch.save(plain),
        REST: json.dumps({"rest": dict(rest), "tensors": table}).encode(),
    }
    for name, data in (files | {SUMS: _sums(files)}).items():
        write_file(inside / name, data)
    sync_folder(inside)


def _sums(files: Mapping[str, bytes]) -> bytes:
    """What `sha256sum` prints for these files, one after the other."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()


def _read(path: Path, skipped: list[str]) -> Loaded:
    """Raises ValueError, in one line, for whatever is not as it was saved."""
    try:
        data = _checked(path)
        kept = json.loads(data[REST])
        rest, table = kept["rest"], kept["tensors"]
        tensors = safetensors.torch.load(data[TENSORS])
    except OSError as error:
        raise ValueError(_line(f"{error.strerror or error}")) from None
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(_line(f"{error}")) from None
    if not isinstance(rest, dict) or not isinstance(table, dict):
        raise ValueError(f"{REST} does not say what was saved")
    for name in sorted(table.keys() | tensors.keys()):
        found = [str(tensors[name].dtype), *tensors[name].shape] if name in tensors else None
        if found != table.get(name):
            raise ValueError(_line(f"tensor {name} is {found}, and {table.get(name)} was saved"))
    return Loaded(tensors, rest, skipped)


def _checked(path: Path) -> dict[str, bytes]:
    """The two files' contents, which are what the checksums say. Raises OSError, ValueError."""
    if path.is_symlink():
        raise ValueError("is a link")
    data = {TENSORS: read_file(path / TENSORS), REST: read_file(path / REST, LONGEST_REST)}
    lines = _sums(data).splitlines(keepends=True)
    found = read_file(path / SUMS, 4096)
    if found != b"".join(lines):
        name = next((name for name, line in zip(data, lines, strict=True) if line not in found), SUMS)
        raise ValueError(f"{name} is damaged: its SHA-256 is not the one that was written")
    return data


def _line(text: str) -> str:
    """An error in one line that can be shown anywhere."""
    return printable(text, 200) or "it cannot be read"


def _prune(folder: Path, keep: Collection[int]) -> None:
    """Remove what `save` does not promise to keep; damaged ones do not count, and go with the rest."""
    newest, *older = checkpoints(folder)
    attempts = [saved.attempt for saved in older]
    good, spared = 1, {newest.attempt}  # the newest was written a moment ago
    for _, attempt, _, path in older:
        recent, last = good < KEEP, attempt in keep and attempt not in spared
        # the only one of its attempt is the best there is, and need not be read each time
        if (recent and _is_sound(path)) or (last and (attempts.count(attempt) == 1 or _is_sound(path))):
            good += recent
            spared.add(attempt)
        elif not recent:
            with contextlib.suppress(OSError):  # a file or a link, which is no checkpoint
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)


def _is_sound(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(_checked(path))
    return False
