"""A number over the steps of a whole run, in memory of bounded size."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

MOST_BUCKETS = 2048


class Bucket(NamedTuple):
    """What was seen in a stretch of steps."""

    low: float
    high: float
    mean: float


def bridged(missed: int, at: int) -> bool:
    """Whether a curve goes on over so many columns before column `at` in which nothing was measured.

    Where they are more than half of the way there, nothing is known of how it came there.
    """
    return 2 * missed <= at


_Sums: TypeAlias = tuple[float, float, float, float]  # low, high, total, count


class Series:
    """Numbers by step in at most `most` stretches of equal length (a power of two), each with minimum,
    maximum and mean, so that no spike is lost however long the run. Numbers that are not finite are only counted, but
    for the -inf of `logarithms`: that of 0.
    """

    def __init__(self, most: int = MOST_BUCKETS, *, logarithms: bool = False) -> None:
        self.most = most
        self.logarithms = logarithms
        self.stride = 1
        self.start: int | None = None
        self.end = 0
        self.broken: int | None = None  # the first step with a number that is not finite
        self._buckets: list[_Sums | None] = []
        self._bounds: tuple[float, float] | None = None  # of all buckets but the last
        self._whole: dict[int, list[Bucket | None]] = {}  # by steps to a column: the columns that will not change

    def __len__(self) -> int:
        return len(self._buckets)

    def copy(self) -> Series:
        """A copy that stays as it is; it takes microseconds, for the stretches themselves never change."""
        other = copy.copy(self)
        other._buckets, other._whole = list(self._buckets), {}
        return other

    def add(self, step: int, value: float) -> None:
        """One number; steps may only grow, what was seen already is left out."""
        self.extend(step, (value,))

    def extend(self, first: int, values: Sequence[float]) -> None:
        """The numbers of the steps from `first` on; what was seen already is left out."""
        if self.start is not None and first < self.end:
            values, first = values[self.end - first :], self.end
        if not values:
            return
        self.end = first + len(values)
        if self.start is None:
            self.start = first
        at = 0
        while at < len(values):
            step = first + at
            until = at + self.stride - step % self.stride
            self._put(step, values[at:until])
            at = until

    def spread(self, first: int, span: int, values: Sequence[float], mean: float | None) -> None:
        """What is left of the numbers of `span` steps from `first` on: their extremes in order, and their mean."""
        if self.start is not None and first < self.end:
            first, span = self.end, span - (self.end - first)
        if not values or span <= 0:
            return
        self.end = first + span
        if self.start is None:
            self.start = first
        for i, value in enumerate(values):
            self._put(first + i * span // len(values), (value,), value if mean is None else mean, span / len(values))

    def cut(self, step: int) -> None:
        """Forget the numbers from a step on, and those before it in the stretch that it is in."""
        if self.start is None or step >= self.end:
            return
        del self._buckets[max(0, step // self.stride - self.start // self.stride) :]
        self.start, self.end = (self.start if self._buckets else None), step
        self.broken = None if self.broken is None or self.broken >= step else self.broken
        self._bounds, self._whole = None, {}

    def _put(self, step: int, values: Sequence[float], mean: float | None = None, weight: float = 1.0) -> None:
        total = sum(values)
        if not math.isfinite(total) and not (self.logarithms and total == -math.inf):
            if self.broken is None:
                self.broken = step + next(i for i, value in enumerate(values) if not math.isfinite(value))
            values = [value for value in values if math.isfinite(value)]
            total = sum(values)
        assert self.start is not None
        at = step // self.stride - self.start // self.stride
        while at >= self.most:
            self._merge()
            at = step // self.stride - self.start // self.stride
        if at >= len(self._buckets):
            self._bounds = None
            self._buckets.extend([None] * (at + 1 - len(self._buckets)))
        if not values:
            return
        bucket = self._buckets[at]
        low, high, count = min(values), max(values), weight * len(values)
        total = total if mean is None else mean * count
        if bucket is None:
            self._buckets[at] = low, high, total, count
        else:
            self._buckets[at] = min(bucket[0], low), max(bucket[1], high), bucket[2] + total, bucket[3] + count

    def _merge(self) -> None:
        assert self.start is not None
        old: list[_Sums | None] = [*([None] * (self.start // self.stride % 2)), *self._buckets]
        self.stride *= 2
        self._bounds = None
        old += [None] * (len(old) % 2)
        self._buckets = [
            b if a is None else a if b is None else (min(a[0], b[0]), max(a[1], b[1]), a[2] + b[2], a[3] + b[3])
            for a, b in zip(old[::2], old[1::2], strict=True)
        ]

    def columns(self, per_column: int) -> list[Bucket | None]:
        """Stretches of `per_column` steps from step 0 up to the last step seen; None where nothing was.

        A stretch shorter than a bucket repeats the bucket. Read the list, do not change it.
        """
        if self.start is None:
            return []
        whole = self._whole.get(per_column)
        if whole is None:
            if len(self._whole) > 8:
                self._whole.clear()
            whole = self._whole[per_column] = []
        complete = (
            self.end // per_column if per_column >= self.stride else self.end // self.stride * self.stride // per_column
        )
        for column in range(len(whole), complete):
            whole.append(self._column(column, per_column))
        return [*whole, *(self._column(column, per_column) for column in range(len(whole), -(-self.end // per_column)))]

    def _column(self, column: int, per_column: int) -> Bucket | None:
        assert self.start is not None
        base = self.start // self.stride
        left = column * per_column // self.stride - base
        right = max(left + 1, -(-(column + 1) * per_column // self.stride) - base)
        found = _joined(self._buckets[max(0, left) : max(0, right)])
        return None if found is None else Bucket(found[0], found[1], found[2] / found[3])

    def bounds(self) -> tuple[float, float] | None:
        """Smallest and largest mean of a stretch; None where there is nothing."""
        if not self._buckets:
            return None
        if self._bounds is None:
            means = [bucket[2] / bucket[3] for bucket in self._buckets[:-1] if bucket is not None]
            self._bounds = (min(means), max(means)) if means else (math.inf, -math.inf)
        (low, high), last = self._bounds, self._buckets[-1]
        if last is not None:
            low, high = min(low, last[2] / last[3]), max(high, last[2] / last[3])
        return (low, high) if low <= high else None


def _joined(buckets: Iterable[_Sums | None]) -> _Sums | None:
    found = [bucket for bucket in buckets if bucket is not None]
    if len(found) < 2:
        return found[0] if found else None
    low, high, total, count = zip(*found, strict=True)
    return min(low), max(high), sum(total), sum(count)
