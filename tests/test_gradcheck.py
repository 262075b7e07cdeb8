"""The gradients by hand are right, and a wrong one does not go unnoticed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import torch

from makemore_core import gradcheck, layers, part4
from makemore_core.layers import Brick


@pytest.fixture(scope="module")
def report() -> gradcheck.Report:
    return gradcheck.check()


def test_all_26_pieces_in_the_lectures_order(report: gradcheck.Report) -> None:
    order = (
        "logprobs probs counts_sum_inv counts_sum counts norm_logits logit_maxes logits h W2 b2 hpreact bngain bnbias "
        "bnraw bnvar_inv bnvar bndiff2 bndiff bnmeani hprebn embcat W1 b1 emb C"
    )
    assert [comparison.name for comparison in report.gradients] == order.split()
    assert report.params == 4137
    assert report.loss == pytest.approx(3.34, abs=0.05)
    assert all(comparison.close for comparison in report.gradients)
    assert [comparison.exact for comparison in report.gradients[:3]] == [True] * 3
    # softmax takes out a shift of the logits, BatchNorm the bias before it: only rounding is left
    assert {comparison.name for comparison in report.gradients if comparison.size < 1e-7} == {"logit_maxes", "b1"}


def test_the_short_forms_are_as_close_as_in_the_lecture(report: gradcheck.Report) -> None:
    cross_entropy, batchnorm = report.one_expression
    assert cross_entropy.largest < 2e-8
    assert batchnorm.largest < 5e-9


def test_every_brick_is_checked(report: gradcheck.Report) -> None:
    def kinds(kind: type[Brick]) -> Iterator[type[Brick]]:
        yield from (kind, *(found for inner in kind.__subclasses__() for found in kinds(inner)))

    abstract = {Brick, layers.Norm, layers.Nonlinearity}
    checked = {brick.brick.split(",")[0].split(" without")[0] for brick in report.bricks}
    assert checked >= {kind.__name__ for kind in kinds(Brick) if kind.__module__ == layers.__name__} - {
        kind.__name__ for kind in abstract
    }
    assert checked == set(gradcheck.BACKWARD)
    assert report.wrong == []
    inputs = {b.brick: b.formula for b in report.bricks if b.tensor == "input"}
    assert "/ (n-1)" in inputs["BatchNorm1d"]
    assert "/ n)" in inputs["BatchNorm1d, PyTorch's variance"]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert gradcheck.run(json=False) == 0
    assert "all 57 gradients are right" in capsys.readouterr().out
    assert gradcheck.run(json=True) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert told["wrong"] == []
    assert len(told["gradients"]) == 26
    assert told["gradients"][8]["formula"] == "dlogits @ W2.T"


def copy_of(module: ModuleType, right: str, wrong: str) -> ModuleType:
    """The module as it would be with a slip in its source."""
    source = Path(str(module.__file__)).read_text()
    assert source.count(right) == 1
    copy = ModuleType("copy_" + module.__name__)
    sys.modules[copy.__name__] = copy  # NamedTuple looks its module up
    exec(source.replace(right, wrong), copy.__dict__)
    return copy


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        ("(1.0 - v[\"h\"] ** 2)", "(1.0 - v[\"h\"])", "hpreact"),
        ("(1.0 / (n - 1)) * torch", "(1.0 / n) * torch", "bndiff2"),
        ("ones_like(v[\"counts\"]) * d[\"counts_sum\"]", "zeros_like(v[\"counts\"])", "counts"),
        ("v[\"bnvar_inv\"] * d[\"bnraw\"] + ", "", "bndiff"),
        ("= d[\"bndiff\"].clone() + ", "= d[\"bndiff\"].clone() - ", "hprebn"),
        ("n / (n - 1) * v[\"bnraw\"]", "v[\"bnraw\"]", "hprebn in one expression"),
    ],
)  # fmt: skip
def test_a_slip_in_part_4_is_caught(
    right: str, wrong: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gradcheck, "part4", copy_of(part4, right, wrong))
    assert gradcheck.run(json=True) == 1
    assert name in msgspec.json.decode(capsys.readouterr().out)["wrong"]


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        ("return (1.0 - self.out**2) * dout", "return (1.0 - self.out) * dout", "Tanh: input"),
        ("(n - 1 if self.unbiased else n)", "n", "BatchNorm1d: input"),
        ("return dout @ self.weight.T", "return dout @ self.weight.T * 1.00001", "Linear: input"),
        ("return dout + through", "return through", "Residual: input"),
        ("(self.out + 1.0))", "(self.out + 0.99))", "ELU: input"),
    ],
)
def test_a_slip_in_a_brick_is_caught(
    right: str, wrong: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gradcheck, "layers", copy_of(layers, right, wrong))
    assert gradcheck.run(json=False) == 1
    assert name in capsys.readouterr().out.splitlines()[-1]


def test_a_largest_difference_is_told_for_any_wrong_gradient() -> None:
    right = torch.ones(3)
    assert part4.compare("x", right, right) == part4.Comparison("x", (3,), True, True, 0.0, 1.0, False)
    assert not part4.compare("x", right + 1e-3, right).close
    assert [part4.compare("x", hand, right * torch.nan).nan for hand in (right, right * torch.nan)] == [False, True]
