"""The range test finds the valley and leaves no trace."""

from __future__ import annotations

import math
import re

import msgspec
import pytest
import torch

from makemore_core import dataset, find_lr, looking
from makemore_core.config import Config
from makemore_core.dataset import Dataset
from makemore_core.looking import at_once
from makemore_core.presets import PRESETS
from makemore_core.trainer import Trainer


@pytest.fixture(scope="module")
def names() -> dataset.Dataset:
    whole = dataset.read()
    return whole._replace(train=whole.train[::20], val=whole.val[::20])


def test_the_lectures_net_wants_a_rate_near_a_tenth(names: dataset.Dataset) -> None:
    test = at_once(find_lr.range_test(Trainer(PRESETS["mlp-kaiming"].config(), names)))
    assert test.rates[0] == pytest.approx(1e-3)
    assert test.rates[-1] == pytest.approx(1.0)
    ratios = {round(b / a, 9) for a, b in zip(test.rates, test.rates[1:], strict=False)}
    assert len(ratios) == 1
    assert test.suggestion is not None
    assert 0.05 <= test.suggestion <= 0.5
    assert "rises" in test.reason


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adam", "adamw"])
def test_the_run_goes_on_as_if_nothing_had_been(names: dataset.Dataset, optimizer: str) -> None:
    config = PRESETS["mlp-batchnorm"].config().replace({"optimizer": optimizer, "n_hidden": 20, "engine": "plain"})
    tested, alone = Trainer(config, names), Trainer(config, names)
    for trainer in (tested, alone):
        trainer.advance(3)
    at_once(find_lr.range_test(tested, 30))
    assert tested.optimizer.count == alone.optimizer.count
    assert tested.step == alone.step
    assert tested.advance(10) == alone.advance(10)
    assert all(bool((a == b).all()) for a, b in zip(tested.tensors().values(), alone.tensors().values(), strict=True))


def test_minibatches_are_drawn_a_few_at_a_time_and_are_those_of_training(
    names: dataset.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(PRESETS["mlp-kaiming"].config().replace({"n_hidden": 20, "engine": "plain"}), names)
    whole = at_once(find_lr.range_test(trainer, 30))
    monkeypatch.setattr(looking, "DRAWN", 4 * trainer.config.batch_size)
    drawn = list(looking.upcoming(trainer, 10, trainer.config.batch_size))
    assert [len(batches) for batches in drawn] == [4, 4, 2]
    assert at_once(find_lr.range_test(trainer, 30)) == whole
    assert torch.equal(torch.cat(drawn), trainer.draw(10))


@pytest.mark.parametrize(
    ("smooth", "suggestion"),
    [
        ([3.3, 3.0, 2.5, 2.4, 2.9, 5.0], 0.2),
        ([3.3, 3.0, 2.5, math.nan, math.nan, math.nan], 0.05),
        ([3.3, 3.2, 3.0, 2.8, 2.6, 2.5], 1.0),
        ([3.3, 3.3, 3.3, 3.4, 3.5, 9.0], None),
        ([math.nan] * 6, None),
    ],
)
def test_suggestions(smooth: list[float], suggestion: float | None) -> None:
    rates = [0.001, 0.01, 0.05, 0.2, 0.5, 1.0]
    found, reason = find_lr.suggest(rates, smooth, 0.01)
    assert found == suggestion
    assert reason


def test_what_is_suggested_lies_below_where_the_loss_rises() -> None:
    smooth = [3.0, 2.9, 2.44, 2.6, 2.8]
    assert find_lr.suggest([0.001, 0.02, 0.0452, 0.046, 0.1], smooth, 0.01) == (
        0.04,
        "the loss is lowest, 2.44, at lr 0.045; from 0.05 on it clearly rises",
    )
    assert find_lr.suggest([0.001, 0.02, 0.0962, 0.0975, 0.1], smooth, 0.01)[0] == 0.09
    assert find_lr.suggest([0.001, 0.02, 0.0962, 0.13, 0.2], smooth, 0.01)[0] == 0.1


@pytest.mark.parametrize(("noise", "rises"), [(0.001, "0.1"), (0.05, "0.5"), (0.06, "1")])
def test_the_loss_does_not_rise_before_it_is_clear_of_the_noise(noise: float, rises: str) -> None:
    found, reason = find_lr.suggest([0.001, 0.01, 0.05, 0.1, 0.5, 1.0], [3.0, 2.9, 2.5, 2.6, 2.78, 5.0], noise)
    assert found == 0.05
    assert reason.endswith(f"; from {rises} on it clearly rises")


def test_nothing_is_suggested_where_the_loss_only_rises() -> None:
    rates = [10 ** (-3 + 3 * k / 99) for k in range(100)]
    found, reason = find_lr.suggest(rates, [2.6, 2.4, *(2.41 + k / 100 for k in range(98))], 0.01)
    assert (found, reason[:14]) == (None, "the loss rises")


def test_nothing_is_suggested_where_noise_alone_moves_the_loss() -> None:
    """The losses of a net that no rate helps, until the largest ones harm it."""
    rates = [10 ** (-3 + 3 * k / 999) for k in range(1000)]
    for seed in range(100):
        drawn = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
        losses = [1.9 + 0.2 * float(x) + max(0.0, (k - 800) / 200) for k, x in enumerate(drawn)]
        found, reason = find_lr.suggest(rates, find_lr.smoothed(losses), find_lr.noise(losses))
        assert found is None
        assert re.fullmatch(r"no rate up to 0[.][1-6] stands out of the noise", reason)
        valley = [loss + 0.6 * (1 - min(1.0, k / 600)) for k, loss in enumerate(losses)]
        found, _ = find_lr.suggest(rates, find_lr.smoothed(valley), find_lr.noise(valley))
        assert found is not None


def test_past_its_planned_decay_a_run_is_given_the_rate_itself(few_names: Dataset) -> None:
    config = Config(n_layer=1, n_hidden=20, n_embd=4, lr=0.02, lr_decay_at=50)
    trainer = Trainer(config, few_names)
    for steps, decayed in ((40, False), (20, True)):
        trainer.advance(steps)
        test = at_once(find_lr.range_test(trainer, 300))
        assert test.suggestion is not None
        assert trainer.config.replace(test.fix).lr_at(trainer.step) == test.suggestion
        assert ("lr_decay_at" in test.fix) == decayed


def test_a_running_mean_has_no_pull_to_its_start() -> None:
    assert find_lr.smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert all(math.isnan(mean) for mean in find_lr.smoothed([2.0, math.inf, 2.0])[1:])


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    config = PRESETS["mlp-kaiming"].config().replace({"n_hidden": 20})
    net = Trainer(config, dataset.read())
    assert find_lr.run(net, updates=300, json=True) == 0
    told = msgspec.json.decode(capsys.readouterr().out)["data"]
    assert len(told["rates"]) == len(told["losses"]) == len(told["smooth"]) == 300
    assert told["fix"] == {"lr": told["suggestion"]}
    assert find_lr.run(net, updates=300) == 0
    printed = capsys.readouterr().out
    assert f"try lr={told['suggestion']:g}" in printed
    lowest, rate = re.search(r"is lowest, (\d\.\d\d), at lr ([\d.e-]+)", printed).groups()  # type: ignore[union-attr]
    rows = [line.split()[:2] for line in printed.splitlines()[1:-2]]
    assert lowest in [f"{float(loss):.2f}" for at, loss in rows if at == rate]
    with pytest.raises(ValueError, match="updates=3"):
        find_lr.run(net, updates=3)
    ruined = config.replace({"gain": 1e38, "n_layer": 2, "nonlinearity": "identity", "norm": "none"})
    assert find_lr.run(Trainer(ruined, net.dataset), updates=100) == 1  # no rate helps
    assert "is no number, from the smallest rates on" in capsys.readouterr().out
