"""The lines of a record: sealed with a number and a checksum, and thinned where there are too many.

Pure functions over bytes; what is on disk is the business of `record.py`.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from makemore_core.snapshot import Json, to_json

KEPT_LOSSES = 64  # of a thinned snapshot

_TAIL = re.compile(rb',"n":(\d{1,15}),"crc":"([0-9a-f]{8})"\}')
LONGEST_TAIL = 40  # bytes of what sealing adds

Fields: TypeAlias = dict[str, msgspec.Raw]
_object = msgspec.json.Decoder(Fields)


def seal(payload: bytes, n: int) -> bytes:
    """The line of a record: the same JSON object with its number and checksum as last members."""
    body = b'%b,"n":%d' % (payload[:-1], n)
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def unseal(line: bytes) -> tuple[int, bytes] | None:
    """The number and the payload of a line without its end; None where it is not exactly what `seal` made."""
    tail = _TAIL.search(line, max(0, len(line) - LONGEST_TAIL))
    if tail is None or tail.end() != len(line) or int(tail[2], 16) != zlib.crc32(line[: tail.end(1)]):
        return None
    return int(tail[1]), line[: tail.start()] + b"}"


def thinned(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Half of the lines, as pairs of bytes handled and lines to keep.

    A snapshot is merged into the next one of its attempt, which takes over its losses. Every command stays, and so
    do the first and the last snapshot of each attempt; of all else, every second line. Damaged lines go.
    """
    waiting: list[bytes] = []  # a snapshot that the next one may take the place of, and what came behind it
    fields: Fields = {}
    kept: dict[str, bool] = {}
    for line in lines:
        found = unseal(line)
        new = _fields(found[1]) if found else {}
        kind = _text(new, "type")
        out = b""
        if found is None or not new:
            pass
        elif kind == "snapshot":
            if waiting and (merged := _merged(fields, new)):
                out, waiting = b"".join([*waiting[1:], seal(msgspec.json.encode(merged), found[0])]), []
            else:
                out, waiting, fields = b"".join(waiting), [line + b"\n"], new
        elif kind == "command" or not kept.get(kind):
            kept[kind] = True
            out, waiting = (b"", [*waiting, line + b"\n"]) if waiting else (line + b"\n", [])
        else:
            kept[kind] = False
        yield len(line), out
    yield 0, b"".join(waiting)


def _fields(payload: bytes | msgspec.Raw) -> Fields:
    """The members of an object, undecoded; none where it is no object."""
    try:
        return _object.decode(payload)
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _text(fields: Fields, key: str) -> str:
    value = _value(fields, key)
    return value if isinstance(value, str) else ""


def _whole(fields: Fields, key: str) -> int:
    value = _value(fields, key)
    return value if isinstance(value, int) else 0


def _value(fields: Fields, key: str) -> Json:
    try:
        value: Json = msgspec.json.decode(fields.get(key, msgspec.Raw(b"null")))
    except (msgspec.MsgspecError, RecursionError):
        return None
    return value


def _merged(a: Fields, b: Fields) -> Fields | None:
    """Snapshot `b` with the losses of `a`, the one before it; None where both have to stay."""
    a_step, b_step = _whole(a, "step"), _whole(b, "step")
    a_losses, b_losses = _losses(a), _losses(b)
    a_span = _whole(a, "losses_span") or len(a_losses)
    b_span = _whole(b, "losses_span") or len(b_losses)
    if _whole(a, "attempt") != _whole(b, "attempt") or a_step > b_step or a_step <= a_span:
        return None
    merged, span = dict(b), a_span + b_span
    if bytes(b.get("layers", _NULL)) == b"[]" and _value(a, "layers_step") == _value(b, "layers_step"):
        # only the first of several snapshots with the same layers holds them
        merged |= {name: a[name] for name in ("layers", "weights") if name in a}
    if len(a_losses) + len(b_losses) > KEPT_LOSSES or len(a_losses) + len(b_losses) < span:
        share = min(KEPT_LOSSES - 2, max(2, round(KEPT_LOSSES * a_span / span)))
        losses = _extremes(a_losses, share) + _extremes(b_losses, KEPT_LOSSES - share)
        merged["losses_span"] = msgspec.Raw(b"%d" % span)
        merged["losses_mean"] = _mean([(_mean_of(a, a_losses), a_span), (_mean_of(b, b_losses), b_span)])
    else:
        losses = a_losses + b_losses
    merged |= _fields(to_json({"losses": [*losses]}))
    if twin := _merged(_fields(a.get("twin", _NULL)), _fields(b.get("twin", _NULL))):
        merged["twin"] = msgspec.Raw(msgspec.json.encode(twin))
    return merged


_NULL = msgspec.Raw(b"null")


def _mean_of(fields: Fields, losses: list[float]) -> float:
    """The mean of the losses that are numbers, also of those that thinning took away; NaN where there are none."""
    mean = _value(fields, "losses_mean")
    numbers = [loss for loss in losses if math.isfinite(loss)]
    return mean if isinstance(mean, float) else sum(numbers) / len(numbers) if numbers else math.nan


def _mean(parts: list[tuple[float, int]]) -> msgspec.Raw:
    known = [(mean, weight) for mean, weight in parts if math.isfinite(mean) and weight]
    total = sum(weight for _, weight in known)
    return msgspec.Raw(msgspec.json.encode(sum(mean * weight / total for mean, weight in known) if total else None))


def _extremes(values: list[float], most: int) -> list[float]:
    """At most about so many of the values, in order: of each stretch the smallest and the largest, and any NaN."""
    if len(values) <= most:
        return values
    pieces = max(1, most // 2)
    edges = [len(values) * i // pieces for i in range(pieces + 1)]
    out: list[float] = []
    for start, end in itertools.pairwise(edges):
        stretch = [value for value in values[start:end] if value == value]
        if stretch:
            low, high = min(stretch), max(stretch)
            out += [low, high] if stretch.index(low) <= stretch.index(high) else [high, low]
        if len(stretch) < end - start:
            out.append(math.nan)
    return out


def _losses(fields: Fields) -> list[float]:
    """The losses of a snapshot; those that are not finite are told by `losses_kind`."""
    raw, kinds = _value(fields, "losses"), _value(fields, "losses_kind")
    if not isinstance(raw, list):
        return []
    kinds = kinds if isinstance(kinds, dict) else {}
    values = [kinds.get(str(i)) if value is None else value for i, value in enumerate(raw)]
    return [float(v) for v in values if v in ("nan", "inf", "-inf") or (isinstance(v, float | int) and v is not True)]
