"""`makemore sample` and `makemore eval`: the net of a run as it is now, put to use.

A trainer that is alive is asked to save first; what is read is the last good checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import click

from app.report import number
from app.terminal import Exit
from makemore_core import rundir
from makemore_core.command import Checkpoint
from makemore_core.config import printable
from makemore_core.control import ControlClient
from makemore_core.snapshot import to_json

ANSWERING = 10.0  # seconds that a trainer may take to save and to say so


def ask_to_save(folder: Path) -> None:
    """Have the run's trainer, if there is one, save what it has."""
    if rundir.held_by(folder) is not None:
        client = ControlClient(folder)
        try:
            reply = client.request(Checkpoint(), ANSWERING)
            if not reply.ok:
                raise ValueError(reply.error)
        except ValueError as error:  # it hangs, cannot be reached or cannot save: what it saved before has to do
            click.echo(f"not as it is now but as it was last saved: {error}", err=True)
        finally:
            client.close()


def sample_run(run: str | None, count: int, seed: int | None, temperature: float) -> int:
    """Print names from the model, one a line."""
    folder = rundir.find_run(run)
    from makemore_core.model import SAMPLING_SEED, sample
    from makemore_core.recorder import load_trainer

    ask_to_save(folder)
    trainer = load_trainer(folder)
    seed = SAMPLING_SEED if seed is None else seed
    drawn = 0
    for name in sample(trainer.model, trainer.dataset, trainer.config.block_size, count, seed, temperature):
        click.echo(printable(name))
        drawn += 1
    if drawn < count:
        raise click.ClickException("the model has diverged: its logits are no numbers, so there is nothing to sample")
    return Exit.DONE


def evaluate_run(run: str | None, as_json: bool) -> int:
    """Print the losses over the whole splits."""
    folder = rundir.find_run(run)
    from makemore_core.model import evaluate
    from makemore_core.recorder import load_trainer

    ask_to_save(folder)
    trainer = load_trainer(folder)
    data = trainer.dataset
    losses = {
        name: evaluate(trainer.model, trainer.split(items))
        for name, items in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    if as_json:
        click.echo(to_json({"step": trainer.step, **losses}))
    else:
        click.echo("  ".join(f"{name} {number(loss)}" for name, loss in losses.items()))
    return Exit.DONE
