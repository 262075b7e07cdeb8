"""What crosses from a training loop to whoever looks: plain frozen data, read and written without torch.

A snapshot says everything a view needs, so that a view can join at any moment, and nothing in it depends on the
net being ours: any loop that fills in these fields can be watched.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from makemore_core.config import Value, keeps_weights

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
State: TypeAlias = Literal["running", "paused", "finished", "stopped", "crashed", "diverged", "unresponsive"]
ENDED: tuple[State, ...] = ("finished", "stopped", "crashed", "diverged")

BINS = 40
SATURATED = 0.97
SMOOTHED = 500  # minibatches: the smoothed loss is the mean of about so many
FLAT = 0.99
MOST_INTERVENTIONS = 200
AS_PLANNED = ", as planned"  # how an intervention that nobody made ends
LOST = "it cannot be undone"  # in the message of a change before which the net could not be saved
UNSAVED = "the checkpoint could not be saved"  # in the words of trouble, and of what is refused for it


class Histogram(msgspec.Struct, frozen=True):
    """Counts in equal bins from `low` to `high`; what lies outside is counted in the edge bins, NaN nowhere."""

    low: float
    high: float
    counts: tuple[int, ...]


class Activation(msgspec.Struct, frozen=True):
    """The output of a module for one minibatch. `saturated` is a share 0..1, of |tanh| > 0.97 or the like.

    `dead` counts the units (of `units`) that were in their flat region for every example of the training split at
    the last check, None before one.
    """

    mean: float
    std: float
    saturated: float
    units: int
    dead: int | None
    histogram: Histogram


class Gradient(msgspec.Struct, frozen=True):
    """The derivative of the minibatch's loss by a module's output."""

    mean: float
    std: float
    histogram: Histogram


class Layer(msgspec.Struct, frozen=True):
    """A module worth a row. `index` counts the modules after the embedding from 0, as the lecture does."""

    index: int
    kind: str
    activation: Activation
    gradient: Gradient


class Weight(msgspec.Struct, frozen=True):
    """A weight matrix. `layer` is the index of the first row at or behind the module that holds it, None at the end.

    `grad_data_ratio` is std(gradient) / std(data); `update_data_log10` is log10(std(data after - data before) /
    std(data)) over the last update. Data and ratios are those after the update.
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None
    grad_mean: float
    grad_std: float
    data_std: float
    grad_data_ratio: float
    update_data_log10: float


class Splits(msgspec.Struct, frozen=True):
    """Mean losses over whole splits, with the running statistics, taken at `step`; None where a split was not run.

    `minibatches` is the smoothed loss of the minibatches at that step.
    """

    train: float | None
    val: float | None
    test: float | None
    step: int
    minibatches: float | None = None


class Intervention(msgspec.Struct, frozen=True):
    """A change that somebody made, or had planned, to the run before the update number `step` (counted from 0)."""

    step: int
    what: str
    attempt: int = 0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was last seen of a net; a checkpoint keeps it.

    `layers` and `weights` are of the update that led to `layers_step`. `loss` is that of the last minibatch,
    `smoothed_loss` the mean of about the last 500.
    """

    loss: float | None = None
    smoothed_loss: float | None = None
    first_loss: float | None = None
    splits: Splits | None = None
    layers: tuple[Layer, ...] = ()
    weights: tuple[Weight, ...] = ()
    layers_step: int | None = None
    names: tuple[str, ...] = ()
    names_step: int | None = None
    names_temperature: float = 1.0


class Snapshot(Seen, frozen=True, tag="snapshot", kw_only=True):
    """The state of a run after `step` updates, and what was last seen of its net.

    `losses` are those of the updates `step - len(losses) .. step - 1`, all since the snapshot before. Where an old part
    of a long record was thinned, they are only the extremes, in order, of the last `losses_span` updates, whose mean is
    `losses_mean`. `attempt` counts restarts, live changes and going back; `origin` is the attempt whose net
    this one goes on from, None for one from the seed; `changed_at` the step at which the net was changed live last, 0
    where it never was. `overhead` is the share (0..1) of the time that went into
    looking: probes, evaluations, samples; `pace` the steps a second that the run is held to, if it is. `expected_loss`
    is that of the uniform guess, ln V. `message` is what there is to be said, `answered` how many commands had been
    answered by then. `time` is seconds since the epoch. A snapshot taken before the first update has no layers, nor has
    one in a record whose layers are those of the one before.
    """

    run: str
    state: State
    step: int
    steps: int
    time: float
    attempt: int = 0
    origin: int | None = None
    changed_at: int = 0
    losses: tuple[float, ...] = ()
    losses_span: int | None = None
    losses_mean: float | None = None
    expected_loss: float | None = None
    lr: float | None = None
    params: int = 0
    preset: str | None = None
    config: dict[str, Value] = msgspec.field(default_factory=dict)
    device: str = "cpu"
    engine: str = ""
    steps_per_second: float = 0.0
    pace: float | None = None
    overhead: float = 0.0
    interventions: tuple[Intervention, ...] = ()
    message: str = ""
    answered: int = 0
    twin: Snapshot | None = None


class Exhibit(msgspec.Struct, frozen=True, tag="exhibit"):
    """The answer to a `look` command: something taken from the net on request, by its name.

    `data` is one of `answers`, as plain JSON for any front end; `options` are those it was asked for with.
    """

    name: str
    step: int
    data: dict[str, object]
    options: dict[str, Value] = {}


Event: TypeAlias = Snapshot | Exhibit

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Snapshot | Exhibit)


def to_json(event: Event | dict[str, Json]) -> bytes:
    """One JSON object on one line. A number that is not finite becomes null, its kind beside it as `<key>_kind`.

    In a list the kinds stand beside the list, by position: `"losses_kind": {"3": "nan"}`.
    """
    return msgspec.json.encode(_parted(msgspec.to_builtins(event))[0])


def from_json(line: bytes) -> Event:
    """The event that `to_json` wrote; keys it does not know are ignored. Raises ValueError for anything else."""
    try:
        if b'_kind"' not in line:
            return _decoder.decode(line)
        return msgspec.convert(_whole(msgspec.json.decode(line)), Snapshot | Exhibit)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a snapshot: {error}") from None


def gist(message: str) -> frozenset[str]:
    """What a message says, one by one, without the number that grows while it lasts."""
    return frozenset(re.sub(r"^[\d,]+ records? (?=lost)", "", part) for part in message.split("; ") if part)


def joined(message: str, trouble: str) -> str:
    """A message with what there is trouble with, in its latest words."""
    others = [part for part in message.split("; ") if not gist(part) <= gist(trouble)]
    return "; ".join(filter(None, (*others, trouble)))


def same_net(before: Snapshot, now: Snapshot) -> bool:
    """Whether a new attempt goes on with the net as it was shown: only what the coming updates do was changed."""
    changed = [name for name, value in now.config.items() if before.config.get(name) != value]
    return now.origin == before.attempt and keeps_weights(changed, live=False)


def snapshots(lines: Iterable[bytes]) -> Iterator[Snapshot]:
    """Those among the entries of a record; what else is in it is passed over, also what a later program wrote."""
    for line in lines:
        with contextlib.suppress(ValueError):
            event = from_json(line)
            if isinstance(event, Snapshot):
                yield event


PLAIN = (int, str, bool, type(None))


def _parted(value: Json) -> tuple[Json, Json]:
    """`value` with null for every number that is not finite, and the kind of that: of a list by position."""
    if isinstance(value, dict):
        return _finite(value), None
    if isinstance(value, list | tuple):
        if _numbers(value):
            return list(value), None
        parts = [_parted(item) for item in value]
        return [part for part, _ in parts], {str(at): kind for at, (_, kind) in enumerate(parts) if kind}
    if isinstance(value, float) and not math.isfinite(value):
        return None, "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value, None


def _finite(value: dict[str, Json]) -> dict[str, Json]:
    """The same of an object, with the kinds beside what they are of."""
    plain: dict[str, Json] = {}
    for key, item in value.items():
        if type(item) in PLAIN or (type(item) is float and math.isfinite(item)):  # most are, and quickly told
            plain[key] = item
            continue
        plain[key], kind = _parted(item)
        if kind:
            plain[f"{key}_kind"] = kind
    return plain


def _numbers(items: list[Json] | tuple[Json, ...]) -> bool:
    """Whether these are finite numbers all through; quick, since most lists are, and long."""
    if items and isinstance(items[0], int | float):
        with contextlib.suppress(TypeError, OverflowError):
            return math.isfinite(sum(items))  # type: ignore[arg-type]
    return False


def _whole(value: Json) -> Json:
    """What `_finite` made, as it was."""
    if isinstance(value, dict):
        told = {key: _told(item, value.get(f"{key}_kind")) for key, item in value.items()}
        used = {f"{key}_kind" for key, item in told.items() if item is not value[key]}
        return {key: _whole(item) for key, item in told.items() if key not in used}
    if isinstance(value, list):
        return value if _numbers(value) else [_whole(item) for item in value]
    return value


def _told(item: Json, kind: Json) -> Json:
    """`item` with the numbers that `kind` tells of; `item` itself where that is none."""
    if item is None and isinstance(kind, str) and kind in ("nan", "inf", "-inf"):
        return float(kind)
    if isinstance(item, list) and isinstance(kind, dict):
        told = [_told(inner, kind.get(str(position))) for position, inner in enumerate(item)]
        return told if any(a is not b for a, b in zip(told, item, strict=True)) else item
    return item
