"""A net in training together with what was last seen of it: one of a run, or two of a pair in lock-step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core.config import Config
from makemore_core.dataset import Dataset, distinct
from makemore_core.diagnostics import DeadUnits
from makemore_core.model import evaluation, sample
from makemore_core.snapshot import SMOOTHED, Seen, Snapshot, Splits, State
from makemore_core.trainer import Trainer

NAMES = 12  # sampled at a time: more of them would come less often
FORGETTING = 1 - math.exp(-1 / SMOOTHED)  # the weight of a loss in the smoothed one
LONGEST_SHOWN = 40  # characters of a name that is shown while the net learns


class Watched:
    """Everything that a snapshot says of one net."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self.trainer = Trainer(config, dataset)
        self.seen = Seen()
        self.diverged_at: int | None = None  # the first update, counted from 0, whose loss was no number
        self.losses: list[float] = []  # since the last snapshot
        self.tapped = False  # whether the last update can be probed
        self.dead: dict[int, int] = {}

    def advance(self, batches: Tensor, tap: bool) -> None:
        """One update for each row of `batches`; with `tap` the last one can be probed."""
        losses = self.trainer.advance(len(batches), tap, batches=batches)
        self.tapped = tap
        self.losses += losses
        first, smoothed = self.seen.first_loss, self.seen.smoothed_loss
        # One by one, so that it does not depend on how many come at once: a mean that forgets, at first the plain one.
        for step, loss in enumerate(losses, start=self.trainer.step - len(losses) + 1):
            if smoothed is None or not math.isfinite(smoothed + loss):
                smoothed = loss
            else:
                smoothed += (loss - smoothed) * max(FORGETTING, 1 / step)
        first = losses[0] if first is None else first
        self.see(loss=losses[-1], smoothed_loss=smoothed, first_loss=first)
        if self.diverged and self.diverged_at is None:
            first = next(at for at, loss in enumerate(losses) if not math.isfinite(loss))
            self.diverged_at = self.trainer.step - len(losses) + first

    @property
    def diverged(self) -> bool:
        """Whether the loss is no longer a number."""
        return self.seen.loss is not None and not math.isfinite(self.seen.loss)

    def see(self, **what: object) -> None:
        """Keep what is new, by its names in a snapshot."""
        self.seen = msgspec.structs.replace(self.seen, **what)

    def look(self) -> None:
        """Probe the last update, which was run with `tap`."""
        layers, weights = self.trainer.probe(self.dead)
        self.see(layers=layers, weights=weights, layers_step=self.trainer.step)

    def reconfigure(self, config: Config) -> None:
        """Go on with other settings on the weights as they are."""
        before = self.trainer.model
        self.trainer.reconfigure(config)
        self.tapped = False
        if self.trainer.model is not before:  # what was known is of another net
            self.dead = {}
            self.see(layers=(), weights=(), layers_step=None, splits=None, names_step=None)

    def survey(self, whole: bool) -> Iterator[None]:
        """Losses over the splits and the dead units, on a copy of the net as it is now, a slice at a time.

        `whole`: the test split too, as at the end of a run.
        """
        trainer, minibatches = self.trainer, self.seen.smoothed_loss
        model, step = trainer.model.clone(), trainer.step
        dead, val, train, test = DeadUnits(model), 0.0, 0.0, None
        for part in evaluation(model, trainer.val_contexts):
            val += part
            yield
        for part in evaluation(model, trainer.train_contexts, dead.look):
            train += part
            yield
        if whole:
            split, test = trainer.split(trainer.dataset.test), 0.0
            for part in evaluation(model, distinct(split)):
                test += part / len(split.y)
                yield
        self.dead = dead.counts()
        if self.tapped:
            self.look()
        means = train / len(trainer.train.y), val / len(trainer.val.y)
        self.see(splits=Splits(*means, test, step, minibatches))

    def was_surveyed(self) -> bool:
        """Whether what is shown of it is of its last step, as after the last update of all."""
        splits, step = self.seen.splits, self.trainer.step
        return splits is not None and splits.test is not None and splits.step == self.seen.names_step == step

    def ruined(self) -> bool:
        """Whether the net gives no numbers as it is trained, whatever its running statistics are."""
        trainer, size = self.trainer, self.trainer.config.batch_size
        x, y = trainer.train.x[:size], trainer.train.y[:size]
        return not bool(torch.isfinite(F.cross_entropy(trainer.model.clone()(x), y)))

    def sample(self, seed: int, temperature: float) -> Iterator[None]:
        """Fresh names, of a copy of the net as it is now, one at a time."""
        trainer, step = self.trainer, self.trainer.step
        net = trainer.model.clone(), trainer.dataset, trainer.config.block_size
        names = list[str]()
        for name in sample(*net, NAMES, seed, temperature, longest=LONGEST_SHOWN):
            names.append(name)
            yield
        self.see(names=tuple(names), names_step=step, names_temperature=temperature)

    def snapshot(
        self, run: str, state: State, attempt: int, origin: int | None = None, changed_at: int = 0
    ) -> Snapshot:
        """What was last seen of the net, and its losses since the snapshot before."""
        losses, self.losses = tuple(self.losses), []
        return Snapshot(
            run=run,
            state=state,
            step=self.trainer.step,
            steps=self.trainer.config.steps,
            time=time.time(),
            attempt=attempt,
            origin=origin,
            changed_at=changed_at,
            losses=losses,
            expected_loss=math.log(self.trainer.dataset.vocabulary),
            lr=self.trainer.config.lr_at(self.trainer.step),
            params=sum(parameter.numel() for parameter in self.trainer.model.parameters()),
            config=self.trainer.config.as_dict(),
            device=self.trainer.device.type,
            engine=self.trainer.engine.name,
            **msgspec.structs.asdict(self.seen),
        )
