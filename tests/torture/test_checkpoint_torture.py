"""Checkpoints under hundreds of kills and well over a thousand injuries."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from makemore_core.checkpoint import save
from tests.test_checkpoint import TENSORS_OF_A_RUN, check_kills, check_mutated

pytestmark = pytest.mark.torture


def test_200_kills_while_saving(tmp_path: Path) -> None:
    print(f"\n{check_kills(tmp_path, 200).strip()}: always a good one, no litter")


def test_1500_damaged_checkpoints(tmp_path: Path) -> None:
    for step in (100, 200):
        save(tmp_path, TENSORS_OF_A_RUN, {"step": step})
    for n in range(1500):
        check_mutated(tmp_path, random.Random(n))
    print("\n1,500 damaged checkpoints: each refused in one line, and the one before taken")
