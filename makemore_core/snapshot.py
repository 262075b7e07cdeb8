"""What crosses from a training loop to whoever looks: plain frozen data, read and written without torch.

A snapshot says everything a view needs, so that a view can join at any moment, and nothing in it depends on the
net being ours: any loop that fills in these fields can be watched.
"""

from __future__ import annotations

import contextlib
import math
from typing import Literal, TypeAlias

import msgspec

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
State: TypeAlias = Literal["running", "paused", "finished", "stopped", "crashed", "diverged", "unresponsive"]

BINS = 40
SATURATED = 0.97
FLAT = 0.99
MOST_INTERVENTIONS = 200


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
    """Mean losses over whole splits, with the running statistics, taken at `step`; None where a split was not run."""

    train: float | None
    val: float | None
    test: float | None
    step: int


class Intervention(msgspec.Struct, frozen=True):
    """A change that somebody made to the run before the update number `step` (counted from 0)."""

    step: int
    what: str
    attempt: int = 0


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot", kw_only=True):
    """The state of a run after `step` updates; the statistics are those of the last update.

    `loss` is that of the last minibatch, `losses` those of the updates `step - len(losses) .. step - 1`, all since
    the snapshot before. `attempt` counts the restarts. `overhead` is the share (0..1) of the time that went into
    looking: probes, evaluations, samples. `expected_loss` is that of the uniform guess, ln V. `time` is seconds
    since the epoch. A snapshot taken before the first update has no layers.
    """

    run: str
    state: State
    step: int
    steps: int
    time: float
    attempt: int = 0
    loss: float | None = None
    first_loss: float | None = None
    losses: tuple[float, ...] = ()
    expected_loss: float | None = None
    lr: float | None = None
    params: int = 0
    preset: str | None = None
    config: dict[str, int | float | bool | str] = msgspec.field(default_factory=dict)
    device: str = "cpu"
    engine: str = ""
    steps_per_second: float = 0.0
    overhead: float = 0.0
    splits: Splits | None = None
    layers: tuple[Layer, ...] = ()
    weights: tuple[Weight, ...] = ()
    names: tuple[str, ...] = ()
    names_step: int | None = None
    interventions: tuple[Intervention, ...] = ()
    message: str = ""
    twin: Snapshot | None = None


class Exhibit(msgspec.Struct, frozen=True, tag="exhibit"):
    """The answer to a `look` command: something taken from the net on request, by its name."""

    name: str
    step: int
    data: dict[str, object]


Event: TypeAlias = Snapshot | Exhibit

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Snapshot | Exhibit)


def to_json(event: Event) -> bytes:
    """One JSON object on one line. A number that is not finite becomes null, its kind beside it as `<key>_kind`.

    In a list of numbers the kinds stand beside the list, by position: `"losses_kind": {"3": "nan"}`.
    """
    return msgspec.json.encode(_finite(msgspec.to_builtins(event)))


def from_json(line: bytes) -> Event:
    """The event that `to_json` wrote; keys it does not know are ignored. Raises ValueError for anything else."""
    try:
        if b'_kind"' not in line:
            return _decoder.decode(line)
        return msgspec.convert(_whole(msgspec.json.decode(line)), Snapshot | Exhibit)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a snapshot: {error}") from None


def _kind(number: float) -> str:
    return "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"


def _finite(value: Json) -> Json:
    if isinstance(value, dict):
        plain: dict[str, Json] = {}
        for key, item in value.items():
            if isinstance(item, float) and not math.isfinite(item):
                plain[key], plain[f"{key}_kind"] = None, _kind(item)
            elif isinstance(item, list | tuple) and not _all_finite(item):
                plain[key] = [None if isinstance(x, float) and not math.isfinite(x) else _finite(x) for x in item]
                plain[f"{key}_kind"] = {
                    str(i): _kind(x) for i, x in enumerate(item) if isinstance(x, float) and not math.isfinite(x)
                }
            else:
                plain[key] = _finite(item)
        return plain
    if isinstance(value, list | tuple) and any(isinstance(item, dict | list | tuple) for item in value[:1]):
        return [_finite(item) for item in value]
    return value


def _all_finite(items: list[Json] | tuple[Json, ...]) -> bool:
    """Whether no number of a list is NaN or infinite; quick for long lists of numbers."""
    if items and all(type(item) in (int, float) for item in (items[0], items[-1])):
        with contextlib.suppress(TypeError, OverflowError):
            if math.isfinite(sum(items)):  # type: ignore[arg-type]
                return True
    return all(math.isfinite(item) for item in items if isinstance(item, float))


def _whole(value: Json) -> Json:
    if isinstance(value, dict):
        for key in [key for key in value if key.endswith("_kind") and key[: -len("_kind")] in value]:
            kind, name = value.pop(key), key[: -len("_kind")]
            item = value[name]
            if isinstance(kind, str) and item is None:
                value[name] = _number(kind)
            elif isinstance(kind, dict) and isinstance(item, list):
                for position, word in kind.items():
                    if position.isdecimal() and int(position) < len(item) and isinstance(word, str):
                        item[int(position)] = _number(word)
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value] if any(isinstance(x, dict | list) for x in value) else value
    return value


def _number(kind: str) -> float | None:
    return float(kind) if kind in ("nan", "inf", "-inf") else None
