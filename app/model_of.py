"""`makemore sample` and `makemore eval`: the net of a run as it is now, put to use.

A trainer that is alive is asked to save first; what is read is the last good checkpoint.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.report import number
from app.terminal import Exit
from makemore_core import rundir
from makemore_core.command import Checkpoint
from makemore_core.config import printable
from makemore_core.control import ANSWERING, ControlClient
from makemore_core.snapshot import to_json

if TYPE_CHECKING:
    from makemore_core.trainer import Trainer


def net_of(run: str | None, data: str | None) -> tuple[Trainer, int]:
    """The net of a run and the number of its attempt; where it is not the run's latest, a line on stderr says so."""
    folder = rundir.find_run(run)
    from makemore_core.recorder import load_attempt

    is_latest = saved(folder)
    trainer, attempt = load_attempt(folder, data)
    last = rundir.read_state(folder)
    if not is_latest and last is not None and (last.attempt, last.step) != (attempt, trainer.step):
        seen = f"the run was last seen at step {last.step:,}, attempt {last.attempt}"
        click.echo(f"of step {trainer.step:,}, attempt {attempt}; {seen}", err=True)
    return trainer, attempt


def saved(folder: Path) -> bool:
    """Have the trainer of a run, if there is one, save what it has; whether it did."""
    if rundir.held_by(folder) is None:
        return False
    client = ControlClient(folder)
    try:
        reply = client.request(Checkpoint(), ANSWERING)
        if not reply.ok:
            raise ValueError(reply.error)
    except ValueError as error:  # it hangs, cannot be reached or cannot save: what it saved before has to do
        click.echo(f"not as it is now but as it was last saved: {error}", err=True)
        return False
    finally:
        client.close()
    return True


def sample_run(run: str | None, data: str | None, count: int, seed: int | None, temperature: float, start: str) -> int:
    """Print names from the model, one a line, all of which begin with `start`."""
    trainer, _ = net_of(run, data)
    from makemore_core.model import SAMPLING_SEED, sample

    seed = SAMPLING_SEED if seed is None else seed
    net = trainer.model, trainer.dataset, trainer.config.block_size
    drawn = 0
    for name in sample(*net, count, seed, temperature, start=start):
        click.echo(printable(name))
        drawn += 1
    if drawn < count:
        raise click.ClickException("the model has diverged: its logits are no numbers, so there is nothing to sample")
    return Exit.DONE


def evaluate_run(run: str | None, data: str | None, as_json: bool) -> int:
    """Print the losses over the whole splits."""
    trainer, attempt = net_of(run, data)
    from makemore_core.model import evaluate

    dataset = trainer.dataset
    losses = {
        name: evaluate(trainer.model, trainer.split(items))
        for name, items in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
    }
    if as_json:
        click.echo(to_json({"step": trainer.step, "attempt": attempt, **losses}))
    else:
        told = (f"{name} {number(loss)}" for name, loss in losses.items())
        click.echo("  ".join([f"step {trainer.step:,}", *told]))
    return Exit.DONE if all(map(math.isfinite, losses.values())) else Exit.TROUBLE
