"""A run killed again and again ends with the weights of one that was left alone, to the bit."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from makemore_core import rundir
from makemore_core.command import Back, Command, Restart, Set, Stop
from makemore_core.config import Config, Optimizer
from makemore_core.dataset import read
from makemore_core.recorder import later_changes, load_attempt
from tests.trainers import Order, differing, new_run, reference, trainer_process, wait_for

KILLS = 20
CHANGES: tuple[Command, ...] = (
    Set({"lr": 0.03}),
    Set({"norm": "none"}, live=True),
    Restart(),
    Set({"gain": 1.5}),
    Back(attempt=3),
    Set({"optimizer": "adam", "gain": 2.0}, live=True),  # a change whatever the optimiser was
    Set({"nonlinearity": "relu"}, live=True),
    Set({"lr": 0.01}),
)


ORDERS = tuple(
    Order(attempt, step, command)
    for (attempt, step), command in zip(
        [(0, 300), (1, 500), (2, 700), (3, 400), (4, 300), (5, 600), (6, 700), (7, 800)], CHANGES, strict=True
    )
)
END = Order(8, 1500, Stop())


@pytest.mark.torture
@pytest.mark.parametrize("engine", ["plain", "fast"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adam", "adamw"])
def test_twenty_random_kills(few_names_file: Path, tmp_path: Path, engine: str, optimizer: Optimizer) -> None:
    config = Config(n_layer=2, n_hidden=16, n_embd=4, batch_size=8, steps=10**9, optimizer=optimizer, lr=0.02)
    config = config.replace({"engine": engine})
    folder = new_run(tmp_path / "run", config, few_names_file)
    dice = random.Random(f"{engine} {optimizer}")
    killed_at = [kill_at_random(folder, dice) for _ in range(KILLS)]

    last = trainer_process(folder, [*ORDERS, END])
    last.join(300)
    assert last.exitcode == 0

    changes = later_changes(folder, 0)
    trained = load_attempt(folder)[0]
    wanted = reference(config.replace({"steps": trained.step}), read(few_names_file), changes)
    differ = differing(trained, wanted)
    print(
        f"\n{engine} {optimizer}: {KILLS} kills at attempt:step {' '.join(killed_at)};"
        f" {len(changes)} changes; stopped at {trained.step:,}; tensors that differ: {len(differ)}"
    )
    assert differ == []
    assert len(changes) == len(ORDERS)


def kill_at_random(folder: Path, dice: random.Random) -> str:
    """A life of the run that ends with a kill: one in four while it is still being opened. Where that was."""
    trainer = trainer_process(folder, ORDERS)
    if dice.random() < 0.75:
        wait_for(lambda: (beat := rundir.read_beat(folder)) is not None and beat.pid == trainer.pid, "a sign of life")
    time.sleep(dice.uniform(0.0, 0.3))
    trainer.kill()
    trainer.join()
    snapshot = rundir.read_state(folder)
    return f"{snapshot.attempt}:{snapshot.step}" if snapshot else "-"
