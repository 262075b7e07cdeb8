"""What a run trains at one time: its net, and its twin in lock-step where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from makemore_core.config import Config, Value, check_twin
from makemore_core.dataset import Dataset
from makemore_core.looking import present_batch, train_pass
from makemore_core.memory import find_room
from makemore_core.optim import SLOTS
from makemore_core.trainer import pick_device
from makemore_core.watched import Watched


@dataclass
class Nets:
    """`twin` differs from `net` in the settings of `twin_changes`, and sees the same minibatches.

    `origin`: the attempt at whose end they were as they began here; None where they were drawn from the seed. `since`:
    the step at which they were changed live last. `note`: what there is to say of how they were read.
    """

    net: Watched
    twin: Watched | None
    twin_changes: dict[str, Value]
    origin: int | None = None
    since: int = 0
    note: str = ""

    @classmethod
    def fresh(cls, config: Config, dataset: Dataset, twin_changes: Mapping[str, Value]) -> Nets:
        """Nets as drawn from the seed. Raises ValueError where there can be none such here."""
        twin = _twin(config, twin_changes)
        with _fitting("there can be no such net here"):
            _find_room(*((config, twin) if twin_changes else (config,)), vocabulary=dataset.vocabulary)
            return cls(Watched(config, dataset), Watched(twin, dataset) if twin_changes else None, dict(twin_changes))

    def __iter__(self) -> Iterator[Watched]:
        yield self.net
        if self.twin is not None:
            yield self.twin

    def advance(self, batches: Tensor, tap: bool) -> None:
        """One update for each row of `batches`; with `tap` the last one can be probed."""
        for net in self:
            net.advance(batches, tap)

    def look(self) -> None:
        """Probe the last update, which was run with `tap`."""
        for net in self:
            net.look()

    def survey(self, whole: bool) -> Iterator[None]:
        """Losses over the splits and the dead units, a slice at a time; `whole`: the test split too."""
        return chain(*(net.survey(whole) for net in self))

    def sample(self, seed: int, temperature: float) -> Iterator[None]:
        """Fresh names, one at a time."""
        return chain(*(net.sample(seed, temperature) for net in self))

    def check(self, config: Config) -> None:
        """Raises ValueError where the two could not go on in lock-step with that."""
        _twin(config, self.twin_changes)

    def try_batch(self, batch_size: int) -> None:
        """Raises ValueError where so large a minibatch does not fit: an update that fails midway cannot be undone."""
        with _fitting(f"batch_size={batch_size}: does not fit here"):
            for trainer in (net.trainer for net in self):
                config = trainer.config.replace({"batch_size": batch_size})
                _find_room(config, vocabulary=trainer.dataset.vocabulary)
                train_pass(trainer.model.clone(), *present_batch(trainer, batch_size))

    def reconfigure(self, config: Config) -> None:
        """Go on with other settings on the weights as they are."""
        self.net.reconfigure(config)
        if self.twin is not None:
            self.twin.reconfigure(_twin(config, self.twin_changes))

    def untwin(self) -> None:
        """Go on with the run's own net."""
        self.twin, self.twin_changes = None, {}


def _twin(config: Config, changes: Mapping[str, Value]) -> Config:
    """Of a net that differs in `changes`. Raises ValueError where the two could not be trained in lock-step."""
    twin = config.replace(changes)
    check_twin(config, twin)
    return twin


def bytes_of(config: Config, vocabulary: int) -> int:
    """About what a net takes while it is trained and looked at, as measured with the fast engine; the others take more.

    For each weight: itself, its gradient, what the optimiser keeps, copies to look at, to save and to go back to. For
    each unit and example: what goes in and out forward and backward, what a norm keeps, and what a probe makes of it.
    """
    V, C, H = vocabulary, config.n_embd, config.n_hidden
    T, L, B = config.block_size, config.n_layer, config.batch_size
    weights = V * C + T * C * H + (L - 1) * H * H + H * V
    a_unit = 9 if config.norm == "none" else 14
    return 4 * (weights * (7 + SLOTS[config.optimizer]) + B * (T * C + L * H * a_unit + V))


def _find_room(*configs: Config, vocabulary: int) -> None:
    """Raises MemoryError where there is none for nets like these."""
    if pick_device(configs[0].device)[0].type == "cpu":  # a GPU says itself when it is full
        find_room(sum(bytes_of(config, vocabulary) for config in configs))


@contextlib.contextmanager
def _fitting(what: str) -> Iterator[None]:
    """A `with` block for what may be too large. Raises ValueError, in one line: what, and torch's words for it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"{what}: {(str(error) or 'no memory').splitlines()[0]}") from None
