"""The bench compares what it says it compares, and its baselines are the loops they are named after."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from makemore_core import bench
from makemore_core.baselines import Jax, Modules, Notebook, OneLayer, Shape
from makemore_core.config import Config
from makemore_core.dataset import Dataset
from makemore_core.engine import PlainEngine
from makemore_core.figures import Asked, Effort, Figure, Report, compare, row, summary
from makemore_core.model import build
from makemore_core.optim import Optimizer
from makemore_core.turns import take_turns

WORDS = ("anna", "ben", "clara", "dora", "emil", "frida", "gustav", "hanna", "ida")
DATASET = Dataset("", "", WORDS, WORDS, WORDS, tuple(sorted(set("".join(WORDS)))))
TRAIN = DATASET.examples(WORDS, 3)


@pytest.mark.parametrize("statistics", [False, True])
def test_the_notebook_baseline_is_the_plain_engine_bit_for_bit(statistics: bool) -> None:
    config = Config(n_hidden=20)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(config.seed)
    model = build(config, DATASET.vocabulary, generator)
    batches = torch.randint(0, len(TRAIN.y), (30, config.batch_size), generator=generator)
    PlainEngine(model, Optimizer(config, model.parameters()), TRAIN).advance(batches, [0.1] * 30, False)
    notebook = Notebook(bench.shape_of(config, DATASET.vocabulary), TRAIN, statistics)
    notebook.run(30)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), notebook.parameters, strict=True))


@pytest.mark.parametrize("loop", [OneLayer, Modules])
def test_the_other_baselines_learn(loop: type[OneLayer] | type[Modules]) -> None:
    shape = Shape(1, 20, 32, False, DATASET.vocabulary)
    baseline = loop(shape, TRAIN)
    parameters = baseline.parameters if isinstance(baseline, OneLayer) else list(baseline.model.parameters())
    before = [p.detach().clone() for p in parameters]
    baseline.run(3)
    assert all(not torch.equal(p, b) and p.isfinite().all() for p, b in zip(parameters, before, strict=True))


def test_without_jax_its_row_is_left_out_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEMORE_JAX_PYTHON", "/bin/true")
    with pytest.raises(ValueError, match=r"^jax is not installed; MAKEMORE_JAX_PYTHON may name a Python that has it$"):
        Jax(Shape(1, 20, 32, False, DATASET.vocabulary), TRAIN)


def test_sides_take_turns_and_warm_up_outside_of_them() -> None:
    calls: list[str] = []

    def side(name: str, speed: float) -> bench.Stopwatch:
        def run(steps: int) -> float:
            calls.append(name)
            return steps / speed

        return run

    speeds = take_turns({"slow": side("slow", 100.0), "fast": side("fast", 500.0)}, Effort(turn=1.0, rounds=4))
    assert calls[-8:] == ["fast", "slow", "slow", "fast", "fast", "slow", "slow", "fast"]
    figure = compare("fast / slow", speeds, "fast", "slow", Asked(4, 6))
    assert figure.value == pytest.approx(5.0)
    assert figure.verdict == "reached"
    assert figure.sides == {"fast": pytest.approx(500.0), "slow": pytest.approx(100.0)}


def test_a_first_call_that_takes_long_does_not_make_the_turns_short() -> None:
    waits, turns = iter([10.0]), list[int]()

    def compiled(steps: int) -> float:
        turns.append(steps)
        return steps / 100.0 + next(waits, 0.0)

    take_turns({"compiled": compiled}, Effort(turn=1.0, rounds=1))
    assert turns[-1] == 100


@pytest.mark.parametrize(
    ("value", "asked", "verdict"),
    [
        (4.9, Asked(5, 7), "missed"),
        (5.0, Asked(5, 7), "reached"),
        (7.0, Asked(5, 7), "moonshot"),
        (31.0, Asked(30, 10, at_most=True), "missed"),
        (30.0, Asked(30, 10, at_most=True), "reached"),
        (9.0, Asked(30, 10, at_most=True), "moonshot"),
        (1.0, None, ""),
    ],
)
def test_a_figure_says_whether_it_is_what_was_asked(value: float, asked: Asked | None, verdict: str) -> None:
    assert summary("figure", [value], asked).verdict == verdict


def test_a_row_shows_value_spread_and_what_was_asked() -> None:
    figure = summary("fast engine / notebook", [9.0, 10.0, 12.0, 13.0, 11.0], Asked(5, 7))
    assert row(figure) == f"{'fast engine / notebook':<62}    11.00× [10.00–12.00]  asked ≥ 5, moonshot 7: moonshot"


def test_json_is_one_object_with_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(_: Effort, notes: list[str]) -> Iterator[Figure]:
        notes.append("no GPU")
        yield summary("a", [1.0, 2.0, 3.0])

    monkeypatch.setattr(bench, "measure", measure)
    assert bench.run(quick=True, json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == set(Report.__struct_fields__)
    assert report["figures"][0]["value"] == 2.0
    assert report["notes"] == ["no GPU"]
    assert {"cpu", "cores", "torch", "python"} <= set(report["machine"])
    assert bench.run(quick=True, json=False) == 0
    assert capsys.readouterr().out.rstrip().endswith("not measured: no GPU")


@pytest.mark.torture
def test_the_whole_bench_runs() -> None:
    notes: list[str] = []
    figures = list(bench.measure(Effort(0.05, 1), notes))
    names = {figure.name for figure in figures}
    assert "six layers, batch 32: fast engine / notebook" in names
    assert "first training step" in names
    assert all(figure.value >= 0 for figure in figures)
