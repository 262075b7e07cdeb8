"""The lectures' numbers once more: every experiment run again, its published number beside the measured one.

It stands alone because it is the project's proof: no engine but the reference, no setting but the presets'.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import msgspec
import torch

from makemore_core import dataset, part4
from makemore_core.config import Config, Value
from makemore_core.dataset import Dataset
from makemore_core.depth import through_depth
from makemore_core.diagnostics import Probe
from makemore_core.looking import at_once
from makemore_core.model import evaluate
from makemore_core.presets import PRESETS
from makemore_core.published import (
    DEEP_FIRST_LOSS,
    DEEP_LAYERS,
    DEEP_PARAMS,
    DEEP_STEPS,
    DEEP_WEIGHTS,
    EXPERIMENTS,
    FIFTY_LAYERS,
    LOSS_LOG,
    PART_4,
    SHA256,
    Seen,
)
from makemore_core.snapshot import Json
from makemore_core.trainer import Trainer

Expected: TypeAlias = Literal["published", "short"]

QUICK_STEPS = 2_000
QUICK_LOOK = 300  # steps after which the deep nets are looked at
# What `--quick` expects: the losses that this project measured after 2,000 steps (decay never reached) on the
# lectures' file with the plain engine. They were not published.
QUICK: dict[str, tuple[float, float]] = {
    "mlp-original": (3.0262, 3.0370),
    "mlp-softmax": (2.3785, 2.3901),
    "mlp-tanh": (2.3556, 2.3596),
    "mlp-kaiming": (2.3500, 2.3573),
    "mlp-batchnorm": (2.3705, 2.3697),
    "part 4": (2.3542, 2.3561),
    "manual": (2.3631, 2.3641),
}
QUICK_WITHIN = 0.05  # processors round differently, and a net that begins confidently wrong is still thrown about

# Part 4's own training, as a configuration; BatchNorm begins as the identity instead of slightly off it.
MANUAL: dict[str, Value] = {
    "engine": "manual", "bias": "on", "bias_init": 0.1, "last_shrink": 0.1, "last_bias_init": 0.1,
}  # fmt: skip


class Row(NamedTuple):
    """One number: what it was to be, what it is, and how far apart the two may lie (None: nothing is demanded).

    `expected` says who expects it: the lectures, or this project of a run cut short.
    """

    experiment: str
    quantity: str
    published: float | None
    measured: float
    within: float | None
    expected: Expected = "published"

    @property
    def difference(self) -> float | None:
        """Measured minus expected."""
        return None if self.published is None else self.measured - self.published

    @property
    def holds(self) -> bool | None:
        """Whether the difference is small enough; None where nothing is demanded."""
        if self.within is None or self.difference is None:
            return None
        return abs(self.difference) <= self.within


class Claim(NamedTuple):
    """What an experiment shows in words, the numbers measured, and whether they say so. Holds for any names."""

    experiment: str
    words: str
    measured: str
    holds: bool
    otherwise: str = ""


Line: TypeAlias = Row | Claim


def rows(data: Dataset, quick: bool) -> Iterator[Line]:
    """Every experiment, in the lectures' order; slow ones come as they are done."""
    yield from loss_log(data, quick)
    yield from deep_statistics(data)
    yield from experiments(data, QUICK_LOOK if quick else DEEP_STEPS)
    yield from fifty_layers()
    yield from gradients_by_hand(data)
    yield from training_by_hand(data, quick)


# --- the experiments -----------------------------------------------------------------------------------------------


def loss_log(data: Dataset, quick: bool) -> Iterator[Row]:
    """The five stages of the net with one hidden layer (part 3)."""
    for stage in LOSS_LOG:
        trainer, losses = _train(data, PRESETS[stage.preset].config(), QUICK_STEPS if quick else None)
        yield Row(stage.preset, "first loss", stage.first, losses[0], stage.first_within)
        train, val = evaluate(trainer.model, trainer.train), evaluate(trainer.model, trainer.val)
        yield from _losses(stage.preset, train, val, (stage.train, stage.val), QUICK.get(stage.preset), quick)


def _losses(
    name: str, train: float, val: float, published: tuple[float, float], short: tuple[float, float] | None, quick: bool
) -> Iterator[Row]:
    for which, measured, i in (("train", train, 0), ("val", val, 1)):
        if not quick:
            yield Row(name, f"{which} loss", published[i], measured, 0.01)
        else:
            quantity = f"{which} loss, {QUICK_STEPS:,} steps"
            yield Row(name, quantity, short[i] if short else None, measured, QUICK_WITHIN, "short")


def deep_statistics(data: Dataset) -> Iterator[Row]:
    """The six-layer BatchNorm net after 1,001 updates at lr 0.1 (part 3)."""
    name = "deep-batchnorm"
    trainer, losses = _train(data, PRESETS[name].config(), DEEP_STEPS)
    seen = trainer.probe({})
    yield Row(name, "parameters", DEEP_PARAMS, sum(p.numel() for p in trainer.model.parameters()), 0)
    yield Row(name, "first loss", DEEP_FIRST_LOSS, losses[0], 5e-5)
    for layer, lecture in zip(seen.layers, DEEP_LAYERS, strict=True):
        label = f"layer {lecture.row} tanh"
        yield Row(name, f"{label} mean", lecture.mean, layer.activation.mean, 0.01)
        yield Row(name, f"{label} std", lecture.std, layer.activation.std, 0.0051)
        yield Row(name, f"{label} saturated", lecture.saturated, layer.activation.saturated, 0.0005)
        yield Row(name, f"{label} gradient std", lecture.gradient_std, layer.gradient.std, 1e-6)
    for weight, published in zip(seen.weights, DEEP_WEIGHTS, strict=True):
        label = f"{weight.name} {published.shape[0]}x{published.shape[1]}"
        yield Row(name, f"{label} gradient std", published.grad_std, weight.grad_std, 1e-5)
        yield Row(name, f"{label} grad:data", published.grad_data_ratio, weight.grad_data_ratio, 1e-4)


def experiments(data: Dataset, steps: int) -> Iterator[Claim]:
    """What part 3 shows by changing the gain, the fan-in division, the rate: at the start and after some steps."""
    for seen in EXPERIMENTS:
        trainer = Trainer(PRESETS[seen.preset].config().replace({"engine": "plain"}), data)
        trainer.advance(1, tap=True)
        first = trainer.probe({})
        trainer.advance(steps - 1, tap=True)
        yield _claim(seen, first, trainer.probe({}))


def _claim(seen: Seen, first: Probe, later: Probe) -> Claim:
    std = [layer.activation.std for layer in first.layers]
    saturated = [layer.activation.saturated for layer in first.layers]
    gradient = [layer.gradient.std for layer in first.layers]
    ratios = [weight.update_data_log10 for weight in later.weights[1:-1]]  # the hidden ones
    ends = max(later.weights[0].update_data_log10, later.weights[-1].update_data_log10)
    spread, flow = std[-1] / std[0], gradient[0] / gradient[-1]
    holds = {
        "deep-tanh": 0.6 < std[-1] < 0.7 and saturated[-1] < 0.1 and 0.15 < saturated[0] < 0.25,
        "deep-tanh-gain1": spread < 0.6 and saturated[-1] < 0.01,
        "deep-tanh-gain3": min(saturated) > 0.3,
        "deep-tanh-gain05": spread < 0.1 and flow < 0.2,
        "deep-linear": spread > 5 and flow > 5,
        "deep-linear-gain1": 0.8 < spread < 1.2 and 0.8 < flow < 1.3,
        "deep-no-fanin": min(saturated) > 0.75 and max(ratios) - min(ratios) > 1 and -1.6 < ends < -0.5,
        "deep-slow": max(ratios) < -4,
        "deep-batchnorm": all(0.6 < x < 0.68 for x in std) and max(saturated) < 0.05,
        "deep-batchnorm-gain02": all(0.6 < x < 0.68 for x in std) and min(ratios) > -2,
        "deep-batchnorm-no-fanin": all(0.6 < x < 0.68 for x in std) and max(ratios) < -3.5,
        "deep-batchnorm-no-fanin-lr1": min(ratios) > -3.3 and max(ratios) < -2.2,
    }[seen.preset]
    measured = (
        f"std {std[0]:.2f} → {std[-1]:.2f}, saturated {saturated[0]:.0%} → {saturated[-1]:.0%}, gradient "
        f"{gradient[0]:.0e} → {gradient[-1]:.0e} from first layer to last, update:data {_span(ratios)}"
    )
    return Claim(seen.preset, seen.words, measured, holds, seen.otherwise)


def _span(values: list[float]) -> str:
    finite = [value for value in values if math.isfinite(value)]
    return f"{min(finite):.1f} to {max(finite):.1f}" if finite else "not a number: diverged"


def fifty_layers() -> Iterator[Row]:
    """Fifty tanh layers at initialisation for three gains."""
    shown = at_once(through_depth(PRESETS["fifty-layers"].config(), {}))
    for depth in FIFTY_LAYERS:
        row = next(row for row in shown.gains if row.gain == depth.gain)
        name = f"fifty tanh layers, gain {depth.gain:.3g}"
        yield Row(name, "std", depth.std, row.std[-1], 0.03)
        yield Row(name, "saturated", depth.saturated, row.saturated[-1], 0.02)


def gradients_by_hand(data: Dataset) -> Iterator[Row]:
    """Part 4's small net: 26 gradients, and the two in one expression."""
    net, x, y = part4.exercise(data)
    loss, gradients, (cross_entropy, batchnorm) = part4.examine(net, x, y)
    yield Row("part 4", "parameters", PART_4.params, sum(p.numel() for p in net), 0)
    # BatchNorm's gain and bias are drawn without a seed there: first losses spread by 0.015 (std of 400 draws)
    yield Row("part 4", "first loss", PART_4.first_loss, loss, 0.045)
    yield Row("part 4", "gradients close to autograd's, of 26", 26, sum(g.close for g in gradients), 0)
    largest = PART_4.cross_entropy_difference
    yield Row("part 4", "cross-entropy in one expression", largest, cross_entropy.largest, 5e-9)
    yield Row("part 4", "BatchNorm in one expression", PART_4.batchnorm_difference, batchnorm.largest, 2e-9)


def training_by_hand(data: Dataset, quick: bool) -> Iterator[Row]:
    """Part 4's training: in the lecture's own form, and by this project's bricks (`--engine manual`)."""
    steps, published = QUICK_STEPS if quick else 200_000, (PART_4.train, PART_4.val)
    train, val = (data.examples(items, 3) for items in (data.train, data.val))
    _say(f"part 4 by hand, {steps:,} steps")
    generator = torch.Generator().manual_seed(2147483647)
    trained = part4.train(part4.draw(data.vocabulary, 200, generator), train.x, train.y, steps, generator)
    own = part4.loss_of(trained, train.x, train.y), part4.loss_of(trained, val.x, val.y)
    yield from _losses("part 4, lecture's form", *own, published, QUICK.get("part 4"), quick)
    trainer, _ = _train(data, PRESETS["mlp-batchnorm"].config().replace(MANUAL), steps)
    losses = evaluate(trainer.model, trainer.train), evaluate(trainer.model, trainer.val)
    yield from _losses("part 4, --engine manual", *losses, published, QUICK.get("manual"), quick)


def _train(data: Dataset, config: Config, steps: int | None) -> tuple[Trainer, list[float]]:
    """A preset trained by the reference engine (or by hand, where it says so); its losses."""
    engine = "manual" if config.engine == "manual" else "plain"
    trainer = Trainer(config.replace({"engine": engine}), data)
    steps = config.steps if steps is None else steps
    losses: list[float] = []
    while trainer.step < steps:
        losses += trainer.advance(min(5_000, steps - trainer.step), tap=True)
        _say(f"{engine} engine: {trainer.step:,} of {steps:,} steps, loss {losses[-1]:.3f}")
    return trainer, losses


# --- the command -----------------------------------------------------------------------------------------------------


def run(data: str | None = None, quick: bool = False, json: bool = False) -> int:
    """Print published, measured and difference for each; 1 where a number is out of its bounds, else 0.

    The published numbers hold for the lectures' own file. With other data only what does not depend on the names is
    judged. Raises ValueError where `data` cannot be read.
    """
    names = dataset.read(data)
    lectures = names.sha256 == SHA256
    torch.set_num_threads(1)
    began = time.monotonic()
    lines: list[Line] = []
    if not json:
        print(_title(names, lectures, quick))
    experiment = ""
    for line in rows(names, quick):
        line = line if lectures else _unjudged(line)
        lines.append(line)
        if not json:
            _say("")
            print(("" if line.experiment == experiment else f"\n{line.experiment}\n") + _shown(line), flush=True)
            experiment = line.experiment
    wrong = [line for line in lines if line.holds is False]
    seconds = time.monotonic() - began
    if json:
        print(msgspec.json.encode(_plain(names, lectures, quick, lines)).decode())
    else:
        judged = sum(line.holds is not None for line in lines)
        print(f"\n{judged - len(wrong)} of {judged} hold, {len(lines) - judged} not judged; {seconds:.0f} s")
    return 1 if wrong else 0


def _unjudged(line: Line) -> Line:
    """Without a verdict where the number depends on the names."""
    if isinstance(line, Claim) or line.experiment.startswith("fifty") or line.quantity.startswith("gradients"):
        return line
    return line._replace(within=None, published=None if line.expected == "short" else line.published)


def _title(names: Dataset, lectures: bool, quick: bool) -> str:
    what = "the lectures' file" if lectures else "not the lectures' file, whose losses are only shown beside"
    words = len(names.train) + len(names.val) + len(names.test)
    lines = [f"{names.path}: {words:,} items, {what}"]
    if quick:
        lines.append(f"quick: losses after {QUICK_STEPS:,} steps, which are this project's own and not published")
    return "\n".join(lines)


def _shown(line: Line) -> str:
    verdict = {True: "holds", False: "DIFFERS", None: ""}[line.holds]
    if isinstance(line, Claim):
        otherwise = f" but for this: {line.otherwise}" if line.otherwise else ""
        return f"  {line.words}\n  {line.measured}  {verdict}{otherwise}"
    expected = "" if line.published is None else _number(line.published)
    difference = "" if line.difference is None else f"{line.difference:+.2g}"
    return f"  {line.quantity:38s} {expected:>10s} {_number(line.measured):>10s} {difference:>9s}  {verdict}".rstrip()


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) >= 10:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3e}"


def _plain(names: Dataset, lectures: bool, quick: bool, lines: list[Line]) -> dict[str, Json]:
    return {
        "data": names.path,
        "sha256": names.sha256,
        "lectures_file": lectures,
        "quick": quick,
        "rows": [
            {**line._asdict(), "difference": line.difference, "holds": line.holds}
            for line in lines
            if isinstance(line, Row)
        ],
        "claims": [line._asdict() for line in lines if isinstance(line, Claim)],
        "holds": all(line.holds is not False for line in lines),
    }


def _say(text: str) -> None:
    """How far it is, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
