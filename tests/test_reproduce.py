"""What `makemore reproduce` demands, prints and returns; the published digits themselves need the lectures' file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import msgspec
import pytest

from makemore_core import dataset, reproduce
from makemore_core.published import EXPERIMENTS, LOSS_LOG, Depth
from makemore_core.reproduce import Claim, Line, Row


@pytest.fixture(autouse=True)
def few_names_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = functools.cache(dataset.read)
    names = whole()
    monkeypatch.setattr(dataset, "read", lambda _: names._replace(train=names.train[::8], val=names.val[::8]))
    monkeypatch.setattr(reproduce, "QUICK_STEPS", 20)
    monkeypatch.setattr(reproduce, "QUICK_LOOK", 100)
    monkeypatch.setattr(reproduce, "DEEP_STEPS", 20)


def test_every_experiment_is_there_and_what_holds_for_any_names_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.run(quick=True, json=True) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert {row["experiment"] for row in told["rows"]} >= {stage.preset for stage in LOSS_LOG} | {
        "deep-batchnorm", "part 4", "part 4, lecture's form", "part 4, --engine manual", "fifty tanh layers, gain 1",
    }  # fmt: skip
    assert [claim["experiment"] for claim in told["claims"]] == [seen.preset for seen in EXPERIMENTS]
    assert all(claim["holds"] for claim in told["claims"])
    assert not told["lectures_file"]
    # other names have other losses: shown beside the published ones, without a verdict
    first = told["rows"][0]
    assert (first["published"], first["holds"]) == (27.0, None)
    assert all(row["measured"] == pytest.approx(3.3, abs=0.1) for row in told["rows"][3:13:3])


def few(rows: list[Line]) -> Callable[..., Iterator[Line]]:
    return lambda *_: iter(rows)


def test_a_number_out_of_its_bounds_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "FIFTY_LAYERS", (Depth(1.0, 0.5, 0.0),))
    monkeypatch.setattr(reproduce, "rows", lambda *_: reproduce.fifty_layers())
    assert reproduce.run() == 1
    out = capsys.readouterr().out
    assert "DIFFERS" in out
    assert "1 of 2 hold" in out


def test_a_claim_that_does_not_hold_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "rows", few([Claim("deep-tanh", "std 0.65", "std 0.1", False)]))
    assert reproduce.run() == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_what_is_measured_otherwise_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = Claim("deep-linear", "gradients shrink", "gradient 3e-03 → 3e-04", True, "they grow")
    monkeypatch.setattr(reproduce, "rows", few([claim]))
    assert reproduce.run() == 0
    assert "holds but for this: they grow" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        (Row("x", "loss", 2.07, 2.0796, 0.01), True),
        (Row("x", "loss", 2.07, 2.0904, 0.01), False),
        (Row("x", "loss", 2.07, 2.5, None), None),
        (Row("x", "loss", None, 2.5, 0.01), None),
    ],
)
def test_when_a_number_holds(row: Row, holds: bool | None) -> None:
    assert row.holds is holds


def test_the_lectures_own_file_is_judged_in_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "rows", few([Row("mlp-tanh", "val loss", 2.1027, 2.2, 0.01)]))
    assert reproduce.run() == 0
    monkeypatch.setattr(reproduce, "SHA256", dataset.read(None).sha256)
    assert reproduce.run() == 1
    assert "2.1027" in capsys.readouterr().out
