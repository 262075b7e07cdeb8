"""The record as a table: of the net as it is now, and of nothing that was undone."""

from __future__ import annotations

import csv
import math

import pytest

from app.as_csv import row_of, rows, write
from makemore_core.snapshot import Splits
from tests import canned
from tests.canned import snapshot


def path(*seen: tuple[int, int, int | None]) -> list[tuple[float, float]]:
    """Step and attempt of each row, of snapshots with step, attempt and origin."""
    told = (snapshot(step=step, since=step, attempt=attempt, origin=origin) for step, attempt, origin in seen)
    return [(row["step"], row["attempt"]) for row in rows(told)]


def test_only_what_led_to_the_net_as_it_is_now_is_told() -> None:
    first = (10, 0, None), (20, 0, None)
    assert path() == []
    assert path(*first, (20, 1, 0), (30, 1, 0)) == [(10, 0), (20, 1), (30, 1)]  # changed live
    assert path(*first, (0, 1, None), (5, 1, None)) == [(0, 1), (5, 1)]  # from the seed
    assert path(*first, (0, 1, None), (20, 2, 0), (30, 2, 0)) == [(10, 0), (20, 2), (30, 2)]  # and back
    assert path(*first, (20, 1, 0), (50, 1, 0), (15, 0, None), (18, 0, None)) == [(10, 0), (15, 0), (18, 0)]
    # changed otherwise after a kill
    assert path(*first, (20, 1, 0), (30, 1, 0), (15, 0, None), (40, 1, 0)) == [(10, 0), (15, 0), (40, 1)]


def test_what_one_step_was_told_in_parts_is_one_row() -> None:
    looked = snapshot(step=200, since=100, splits=Splits(2.1, 2.2, None, 150))
    again = snapshot(step=200, since=200, attempt=1, origin=0, layers=(), weights=(), splits=looked.splits, lr=0.05)
    (row,) = rows([looked, again])
    layer, weight = looked.layers[0], looked.weights[1]
    assert row["lr"] == 0.05
    assert row["loss"] == sum(looked.losses) / 100
    assert (row["train"], row["val"], row["splits_step"], "test" in row) == (2.1, 2.2, 150, False)
    assert row[f"{layer.index}_{layer.kind}_saturated"] == layer.activation.saturated
    assert row[f"{weight.name}_update_data"] == weight.update_data_log10


def test_the_twin_has_columns_of_its_own() -> None:
    row = row_of(snapshot(twin=snapshot(canned.SICK)))
    assert {name.removeprefix("twin_") for name in row if name.startswith("twin_")} < set(row)


def test_the_table_is_read_by_other_programs_and_obeyed_by_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    write([{"step": 1, "0_\x1b[31m_std": math.nan}, {"step": 2, "C_update_data": -math.inf, "lr": 0.1}])
    told = capsys.readouterr().out
    assert told.splitlines()[0] == r"step,0_\x1b[31m_std,C_update_data,lr"
    first, second = csv.DictReader(told.splitlines())
    assert [*map(float, list(second.values())[2:])] == [-math.inf, 0.1]
    assert math.isnan(float(list(first.values())[1]))
    assert (first["C_update_data"], first["lr"]) == ("", "")
