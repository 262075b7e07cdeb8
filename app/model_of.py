"""`makemore sample` and `makemore eval`: the net of a run's last good checkpoint, put to use."""

from __future__ import annotations

import click
import msgspec

from app.headless import number
from app.terminal import Exit, visible
from makemore_core import rundir


def sample_run(run: str | None, count: int, seed: int | None, temperature: float) -> int:
    """Print names from the model, one a line."""
    folder = rundir.find_run(run)
    from makemore_core.model import SAMPLING_SEED, sample
    from makemore_core.recorder import load_trainer

    trainer = load_trainer(folder)
    seed = SAMPLING_SEED if seed is None else seed
    names = sample(trainer.model, trainer.dataset, trainer.config.block_size, count, seed, temperature)
    if not names:
        raise ValueError("the model has diverged: its logits are not finite, so there is nothing to sample from")
    for name in names:
        click.echo(visible(name))
    return Exit.DONE


def evaluate_run(run: str | None, as_json: bool) -> int:
    """Print the losses over the whole splits."""
    folder = rundir.find_run(run)
    from makemore_core.model import evaluate
    from makemore_core.recorder import load_trainer

    trainer = load_trainer(folder)
    data = trainer.dataset
    losses = {
        name: evaluate(trainer.model, trainer.split(items))
        for name, items in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    if as_json:
        click.echo(msgspec.json.encode({"step": trainer.step} | losses))
    else:
        click.echo("  ".join(f"{name} {number(loss)}" for name, loss in losses.items()))
    return Exit.DONE
