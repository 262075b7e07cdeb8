"""`makemore show --csv`: what was recorded of the net as it is now, as one table for other programs."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from makemore_core.config import printable
from makemore_core.snapshot import Snapshot

Row: TypeAlias = dict[str, int | float]


def write(found: Sequence[Row]) -> None:
    """The rows to stdout, under the names of all their columns; what a row does not tell is left empty."""
    columns = dict.fromkeys(name for row in found for name in row)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(map(printable, columns))
    table.writerows([row.get(name, "") for name in columns] for row in found)


def rows(snapshots: Iterable[Snapshot]) -> list[Row]:
    """A row for each step that was told of, oldest first: of the net as it is now, and of those it goes on from.

    What was undone, left for another net, or trained again after a kill is not among them.
    """
    ways: dict[int, list[Row]] = {}  # what led to the latest of each attempt
    way: list[Row] = []
    for snapshot in snapshots:
        for later in [attempt for attempt in ways if attempt > snapshot.attempt]:
            del ways[later]  # the run went on from a checkpoint
        way = ways.setdefault(snapshot.attempt, [*ways.get(-1 if snapshot.origin is None else snapshot.origin, ())])
        known: Row = {}
        while way and way[-1]["step"] >= snapshot.step:
            known = way.pop()
        way.append((known if known.get("step") == snapshot.step else {}) | row_of(snapshot))
    return way


def row_of(snapshot: Snapshot) -> Row:
    """What a snapshot tells in numbers; of what it does not tell there is no column."""
    told: dict[str, int | float | None] = {
        "step": snapshot.step,
        "attempt": snapshot.attempt,
        "lr": snapshot.lr,
        "loss": _mean(snapshot),
    }
    if splits := snapshot.splits:
        told |= {"splits_step": splits.step, "train": splits.train, "val": splits.val, "test": splits.test}
    if snapshot.layers or snapshot.weights:
        told["layers_step"] = snapshot.step if snapshot.layers_step is None else snapshot.layers_step
    for layer in snapshot.layers:
        a, row = layer.activation, f"{layer.index}_{layer.kind}"
        told |= {f"{row}_mean": a.mean, f"{row}_std": a.std, f"{row}_saturated": a.saturated, f"{row}_dead": a.dead}
        told[f"{row}_grad_std"] = layer.gradient.std
    for weight in snapshot.weights:
        told |= {f"{weight.name}_grad_data": weight.grad_data_ratio, f"{weight.name}_data_std": weight.data_std}
        told[f"{weight.name}_update_data"] = weight.update_data_log10
    if snapshot.twin:
        told |= {f"twin_{name}": value for name, value in row_of(snapshot.twin).items()}
    return {name: value for name, value in told.items() if value is not None}


def _mean(snapshot: Snapshot) -> float | None:
    """Of the minibatches since the snapshot before."""
    if snapshot.losses_mean is not None or not snapshot.losses:
        return snapshot.losses_mean
    return sum(snapshot.losses) / len(snapshot.losses)
