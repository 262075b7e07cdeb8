"""The experiments: all there, each a valid configuration with its two lines, and different from every other."""

from __future__ import annotations

import pytest

from makemore_core.config import Config
from makemore_core.dataset import Dataset
from makemore_core.presets import DEFAULT, PRESETS, preset, preset_of, twin_changes
from makemore_core.trainer import Trainer

NAMES = """
mlp-original mlp-softmax mlp-tanh mlp-kaiming mlp-batchnorm
deep-tanh deep-tanh-gain1 deep-tanh-gain3 deep-tanh-gain05 deep-linear deep-linear-gain1 deep-no-fanin deep-slow
deep-batchnorm deep-batchnorm-gain02 deep-batchnorm-no-fanin deep-batchnorm-no-fanin-lr1 deep-batchnorm-after
fifty-layers-gain1 fifty-layers fifty-layers-batchnorm fifty-layers-residual
""".split()  # noqa: SIM905 - as they are listed


def test_the_names_are_part_of_the_interface() -> None:
    assert list(PRESETS) == NAMES
    assert preset(DEFAULT).config() == Config()


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_shows_and_what_to_look_at(name: str) -> None:
    for line in (preset(name).shows, preset(name).look_at):
        assert 10 < len(line) < 100
        assert line.isprintable()


def test_no_two_are_the_same_experiment() -> None:
    assert len({tuple(preset(name).config().as_dict().items()) for name in NAMES}) == len(NAMES)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^deep-tan: no such preset; did you mean deep-tanh\?$"):
        preset("deep-tan")
    with pytest.raises(ValueError, match=r"^qqq: no such preset; see makemore presets$"):
        preset("qqq")


def test_a_twin_of_a_preset_has_the_seed_the_engine_and_the_device_of_the_run() -> None:
    config = Config(seed=5, engine="plain", device="cpu", steps=77)
    changes = twin_changes(config, ["deep-tanh"])
    assert not changes.keys() & {"seed", "engine", "device", "steps"}
    assert preset_of(config.replace(changes).as_dict()) == "deep-tanh"


@pytest.mark.parametrize("name", NAMES)
def test_each_trains(name: str, few_names: Dataset) -> None:
    trainer = Trainer(preset(name).config().replace({"engine": "plain"}), few_names)
    trainer.advance(3, tap=True)
    layers = trainer.probe({}).layers
    assert len(layers) == trainer.config.n_layer
    assert all(layer.activation.std > 0 for layer in layers)


def statistics(name: str, few_names: Dataset) -> list[tuple[float, float]]:
    """Standard deviation and saturation of each layer at the start."""
    trainer = Trainer(preset(name).config().replace({"engine": "plain", "batch_size": 256}), few_names)
    trainer.advance(1, tap=True)
    return [(layer.activation.std, layer.activation.saturated) for layer in trainer.probe({}).layers]


def test_what_the_lecture_says_of_the_gains_is_seen_at_the_start(few_names: Dataset) -> None:
    good, small, large, tiny = (
        statistics(f"deep-tanh{gain}", few_names) for gain in ("", "-gain1", "-gain3", "-gain05")
    )
    assert good[-1][0] == pytest.approx(0.65, abs=0.05)
    assert good[-1][1] == pytest.approx(0.05, abs=0.03)
    assert 0.1 < good[0][1] < 0.3
    assert [std for std, _ in small] == sorted((std for std, _ in small), reverse=True)
    assert small[-1][0] < 0.5
    assert min(saturated for _, saturated in large) > 0.3
    assert tiny[-1][0] < 0.1


def test_fifty_layers_settle_where_they_were_measured(few_names: Dataset) -> None:
    fading, settled = statistics("fifty-layers-gain1", few_names), statistics("fifty-layers", few_names)
    assert fading[-1][0] == pytest.approx(0.10, abs=0.04)
    assert fading[-1][1] == 0.0
    assert settled[-1][0] == pytest.approx(0.65, abs=0.05)
    assert settled[-1][1] == pytest.approx(0.05, abs=0.03)
