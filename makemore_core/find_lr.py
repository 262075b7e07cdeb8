"""The learning-rate range test of part 2: train a copy at rates from 1e-3 to 1 in equal exponents, and look.

It stands alone because it must leave the run as it was: net, buffers, optimiser and generators.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec
import torch

from makemore_core.answers import RangeTest
from makemore_core.config import Value
from makemore_core.engine import PlainEngine
from makemore_core.fast import FastEngine
from makemore_core.looking import Options, Parts, at_once, copy_of, upcoming
from makemore_core.snapshot import Exhibit, to_json
from makemore_core.trainer import Trainer

LOW, HIGH = -3.0, 0.0  # exponents (part 2: lre = torch.linspace(-3, 0, 1000))
UPDATES = 1000
LINES = 19  # of the printed table
FEWEST = 100  # that still give a curve
LONGEST = 5.0  # seconds of a range test that is shown of a run
PIECE = 0.03  # seconds of updates between two of which the run may go on
SMOOTHING = 0.95  # of the running mean of the losses, which are noisy
RISEN = 0.1  # of the fall above the lowest smoothed loss: from there on a rate is too large
RISEN_CLEARLY = 5  # times the noise of the smoothed losses, at least
CLEAR = 8  # times that noise: the fall is less (1 to 7) on nets that no rate helps, more (15 and up) on others


def range_test(trainer: Trainer, updates: int = UPDATES, together: int = UPDATES) -> Parts[RangeTest]:
    """One update at each of `updates` rates on a copy of the net as it stands, so many `together` in a part.

    Nothing of `trainer` changes.

    Raises ValueError for fewer than 10 updates, from which nothing can be read, and for more than 100,000.
    """
    if not 10 <= updates <= 100_000:
        raise ValueError(f"updates={updates}: has to be at least 10 and at most 100,000")
    copied, config = copy_of(trainer), trainer.config
    rates = [10 ** (LOW + (HIGH - LOW) * i / (updates - 1)) for i in range(updates)]
    kind = FastEngine if isinstance(trainer.engine, FastEngine) else PlainEngine
    engine, losses = kind(copied.model, copied.optimizer, trainer.train), list[float]()
    for drawn in upcoming(trainer, updates, config.batch_size):
        for batches in torch.split(drawn, together):
            losses += engine.advance(batches, rates[len(losses) : len(losses) + len(batches)], False).tolist()
            yield
    smooth = smoothed(losses)
    suggestion, reason = suggest(rates, smooth, noise(losses))
    fix: dict[str, Value] | None = None if suggestion is None else {"lr": suggestion}
    if fix and config.lr_at(trainer.step) != config.lr:
        fix["lr_decay_at"] = 0
    return RangeTest(rates, losses, smooth, suggestion, reason, fix)


def smoothed(losses: Sequence[float]) -> list[float]:
    """Running mean of losses, without the pull of its start; from the first that is not finite on, NaN."""
    mean, out = 0.0, []
    for count, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss if math.isfinite(loss) else math.nan
        out.append(mean / (1 - SMOOTHING**count))
    return out


def noise(losses: Sequence[float]) -> float:
    """Standard deviation of that running mean, by how far a loss is from the one before in the first half."""
    pairs = itertools.pairwise(losses[: max(2, len(losses) // 2)])
    squares = [(b - a) ** 2 / 2 for a, b in pairs if math.isfinite(b - a)]
    return math.sqrt(sum(squares) / max(1, len(squares)) * (1 - SMOOTHING) / (1 + SMOOTHING))


def suggest(rates: Sequence[float], smooth: Sequence[float], noise: float) -> tuple[float | None, str]:
    """The rate at the bottom of the valley, and why; None where there is no valley deeper than the noise explains."""
    first, bottom = _first(smooth), _bottom(smooth)
    start, lowest = smooth[first], smooth[bottom]
    if not start - lowest > CLEAR * noise:
        risen = _risen(smooth, first, start + RISEN_CLEARLY * noise)
        if risen is not None and risen <= 2 * first:
            return None, "the loss rises, or is no number, from the smallest rates on"
        most = rates[-1] if risen is None else _round(rates[risen - 1], rates[risen])
        return None, f"no rate up to {most:g} stands out of the noise"
    risen = _risen(smooth, bottom, lowest + max(RISEN * (start - lowest), RISEN_CLEARLY * noise))
    reason = f"the loss is lowest, {lowest:.2f}, at lr {rates[bottom]:.2g}"
    if risen is None:
        return _round(rates[bottom], math.inf), f"{reason}, and does not rise again up to {rates[-1]:g}"
    return _round(rates[bottom], rates[risen]), f"{reason}; from {_round_up(rates[risen]):g} on it clearly rises"


def _first(smooth: Sequence[float]) -> int:
    """From where on they are judged: what came before is a mean of few losses."""
    return len(smooth) // 10


def _bottom(smooth: Sequence[float]) -> int:
    """Where the valley is lowest."""
    return min(range(_first(smooth), len(smooth)), key=lambda at: smooth[at] if math.isfinite(smooth[at]) else math.inf)


def _risen(smooth: Sequence[float], first: int, high: float) -> int | None:
    """Where the loss first is above `high`, or no number, from `first` on."""
    return next((at for at in range(first, len(smooth)) if not smooth[at] <= high), None)


def _round(rate: float, below: float) -> float:
    """One digit is all that such a test can tell; rounded down where up would be where the loss rises."""
    rounded = float(f"{rate:.0e}")
    return rounded if rounded < below else float(f"{rounded - 10.0 ** math.floor(math.log10(rate)):.0e}")


def _round_up(rate: float) -> float:
    rounded = float(f"{rate:.0e}")
    return rounded if rounded >= rate else float(f"{rounded + 10.0 ** math.floor(math.log10(rate)):.0e}")


def learning_rates(trainer: Trainer, _: Options) -> Parts[RangeTest]:
    """The range test of part 2 on a copy: 1,000 updates, or fewer where they would take too long."""
    one = yield from _seconds(trainer)
    updates = min(UPDATES, max(FEWEST, int(LONGEST / one)))
    return (yield from range_test(trainer, updates, max(1, int(PIECE / one))))


def _seconds(trainer: Trainer) -> Parts[float]:
    """What an update takes, by ten of them."""
    ten, seconds, more = range_test(trainer, 10, 1), 0.0, True
    while more:
        began = time.monotonic()
        more = next(ten, "done") != "done"
        seconds += time.monotonic() - began
        yield
    return seconds / 10


def run(trainer: Trainer, updates: int = UPDATES, json: bool = False) -> int:
    """Print the test of a net as it stands; 1 where it suggests nothing, else 0. Raises ValueError for bad input."""
    if trainer.notice:
        print(trainer.notice, file=sys.stderr)
    test = at_once(range_test(trainer, updates))
    if json:
        print(to_json(Exhibit("find-lr", trainer.step, msgspec.to_builtins(test))).decode())
    else:
        print("\n".join(_table(test)))
    return 0 if test.suggestion is not None else 1


def _table(test: RangeTest) -> Iterator[str]:
    yield f"{'lr':>8s}  loss (mean of the latest)"
    finite = [loss for loss in test.smooth if math.isfinite(loss)]
    low, high = min(finite, default=0.0), max(finite[:1], default=1.0)
    shown = {round(i * (len(test.rates) - 1) / (LINES - 1)) for i in range(LINES)}
    for position in sorted(shown | {_bottom(test.smooth)}):  # the sentence below names it
        loss = test.smooth[position]
        if not math.isfinite(loss):
            yield f"{test.rates[position]:8.2g}  not a number"
            continue
        share = (loss - low) / (high - low) if high > low else 0.0
        yield f"{test.rates[position]:8.2g}  {loss:6.3f} {'#' * round(40 * min(max(share, 0.0), 1.0))}".rstrip()
    yield ""
    yield test.reason if test.suggestion is None else f"try lr={test.suggestion:g}: {test.reason}"
