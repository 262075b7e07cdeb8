"""Settings: read from text, checked, and refused in one line that names the field, the value and what is allowed."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.report import command_of
from makemore_core import config as module
from makemore_core.command import Set
from makemore_core.config import (
    LIVE_FIELDS,
    LIVE_IF_ASKED_FIELDS,
    Config,
    Value,
    allowed,
    describe,
    keeps_weights,
    pair,
    parse,
    printable,
)
from makemore_core.presets import twin_changes

FIELDS = Config.__struct_fields__


def refusal(name: str, value: object) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is what each test looks at
        parse(name, value)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_defaults_are_the_lectures_six_layer_net() -> None:
    config = Config()
    assert (config.n_layer, config.n_hidden, config.n_embd, config.block_size) == (5, 100, 10, 3)
    assert (config.norm, config.nonlinearity, config.batch_size, config.seed) == ("batch", "tanh", 32, 2147483647)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_says_what_it_is_for_and_what_it_takes(name: str) -> None:
    assert 4 < len(describe(name)) < 120
    assert describe(name).isprintable()
    assert allowed(name)


@pytest.mark.parametrize("name", FIELDS)
def test_every_default_is_read_back_from_its_text(name: str) -> None:
    default = getattr(Config(), name)
    again = parse(name, str(default))
    assert again == default
    assert type(again) is type(default)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n_layer", "50", 50), ("steps", "200,000", 200_000), ("steps", "200_000", 200_000), ("n_layer", " 7 ", 7),
        ("lr", "1e-3", 0.001), ("lr", "1", 1.0), ("lr", 1, 1.0), ("gain", 10**30, 1e30),
        ("gain", "auto", "auto"), ("gain", "AUTO", "auto"),
        ("gain", "-1.5", -1.5), ("norm", " Batch ", "batch"), ("residual", "on", True), ("residual", "No", False),
        ("residual", "1", True), ("residual", False, False), ("fan_in", True, "on"), ("bias", False, "off"),
        ("bias", "auto", "auto"), ("norm_output", "off", False), ("seed", str(2**63 - 1), 2**63 - 1),
    ],
)  # fmt: skip
def test_values_as_people_write_them(name: str, text: Value, value: Value) -> None:
    parsed = parse(name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_layer", "0", "n_layer=0: has to be a whole number at least 1 and at most 100"),
        ("n_layer", "101", "n_layer=101: has to be a whole number at least 1 and at most 100"),
        ("n_layer", "2.5", "n_layer=2.5: has to be a whole number at least 1 and at most 100"),
        ("n_layer", 2.0, "n_layer=2.0: has to be a whole number at least 1 and at most 100"),
        ("n_layer", True, "n_layer=True: has to be a whole number at least 1 and at most 100"),
        ("n_layer", "", "n_layer=: has to be a whole number at least 1 and at most 100"),
        ("lr", "0", "lr=0.0: has to be a number above 0 and at most 1e+06"),
        ("lr", "nan", "lr=nan: has to be a number above 0 and at most 1e+06"),
        ("lr", "0,05", "lr=0,05: has to be a number above 0 and at most 1e+06"),
        ("steps", "1,00", "steps=1,00: has to be a whole number at least 0 and at most 1,000,000,000,000"),
        ("gain", "inf", "gain=inf: has to be a number or auto"),
        ("gain", "automatic", "gain=automatic: has to be a number or auto"),
        ("norm", "batchnorm", "norm=batchnorm: has to be none, batch, layer, group"),
        ("residual", "maybe", "residual=maybe: has to be on or off"),
        ("residual", 1, "residual=1: has to be on or off"),
        ("momentum", 1.0, "momentum=1.0: has to be a number at least 0 and below 1"),
        ("steps", 10**400, "steps=a huge number: has to be a whole number at least 0 and at most 1,000,000,000,000"),
        ("lr", 10**400, "lr=a huge number: has to be a number above 0 and at most 1e+06"),
        ("gain", 10**400, "gain=a huge number: has to be a number or auto"),
        ("norm", "a\x1b[31m\nb", r"norm=a\x1b[31m\nb: has to be none, batch, layer, group"),
        ("norm", "x" * 500, f"norm={'x' * 59}…: has to be none, batch, layer, group"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(name: str, value: object, message: str) -> None:
    assert refusal(name, value) == message


def test_a_misspelt_field_is_answered_with_the_nearest() -> None:
    assert refusal("n_layers", "5") == "n_layers: no such setting; did you mean n_layer?"
    assert refusal("qqqq", "5").endswith("qqqq: no such setting; `makemore settings` lists them")
    assert "\n" not in refusal("a\nb", 1)


def test_a_number_may_be_written_as_a_fraction() -> None:
    assert Config().replace({"gain": "5/3", "lr": "1 / 8"}).as_dict().items() >= {"gain": 5 / 3, "lr": 0.125}.items()
    for text in ("5/", "/3", "1/0", "5/3/2", "inf/inf"):
        assert refusal("gain", text).endswith(": has to be a number or auto")
    assert refusal("n_layer", "4/2").startswith("n_layer=4/2: ")


def test_groups_have_to_divide_the_units() -> None:
    assert Config().replace({"norm": "group", "norm_groups": "20"}).norm_groups == 20
    with pytest.raises(ValueError, match=r"^norm_groups=7: has to divide n_hidden=100 without a remainder$"):
        Config().replace({"norm": "group", "norm_groups": 7})
    assert Config().replace({"norm_groups": 7}).norm_groups == 7  # nothing is grouped


def test_a_config_made_directly_is_checked_too() -> None:
    with pytest.raises(ValueError, match="n_layer=0"):
        Config(n_layer=0)
    with pytest.raises(ValueError, match="lr=nan"):
        Config(lr=math.nan)


def test_a_config_is_frozen_and_round_trips_through_plain_values() -> None:
    config = Config().replace({"gain": "5", "norm": "layer", "lr": "0.3"})
    with pytest.raises(AttributeError):
        config.lr = 1.0  # type: ignore[misc]
    assert Config().replace(config.as_dict()) == config
    assert list(config.as_dict()) == list(FIELDS)


def test_the_learning_rate_falls_once_at_its_step() -> None:
    config = Config().replace({"lr": 0.1, "lr_decay": 0.1, "lr_decay_at": 5})
    assert [config.lr_at(step) for step in (0, 4, 5, 10**9)] == [0.1, 0.1, 0.1 * 0.1, 0.1 * 0.1]
    assert config.replace({"lr_decay_at": 0}).lr_at(10**9) == 0.1


def test_the_fields_that_can_change_on_the_way_exist_and_differ() -> None:
    assert set(FIELDS) >= LIVE_FIELDS | LIVE_IF_ASKED_FIELDS
    assert not LIVE_FIELDS & LIVE_IF_ASKED_FIELDS


@pytest.mark.parametrize(("field", "kept"), [
    *((name, (True, True)) for name in ("lr", "momentum", "weight_decay", "batch_size", "steps", "norm_momentum")),
    *((name, (False, True)) for name in ("norm", "gain", "nonlinearity", "optimizer")),
    *((name, (False, False)) for name in ("n_layer", "n_hidden", "norm_place", "residual", "seed")),
])  # fmt: skip
def test_a_net_keeps_its_weights_where_only_its_updates_change_or_where_that_is_asked_for(
    field: str, kept: tuple[bool, bool]
) -> None:
    assert (keeps_weights([field], live=False), keeps_weights([field], live=True)) == kept


ANYTHING = st.one_of(
    st.text(),
    st.integers(),
    st.integers(min_value=10**300, max_value=10**400),
    st.floats(),
    st.booleans(),
    st.none(),
    st.binary(),
    st.lists(st.integers(), max_size=3),
    st.integers(min_value=-(2**70), max_value=2**70).map(str),
    st.floats().map(str),
    st.sampled_from(
        ["auto", "on", "off", "1e999", "-0", "٣", "²", "0x10", "1__0", ",", "+,", "9" * 5000, "\0", "\ud800"]
    ),
)


@given(name=st.sampled_from(FIELDS) | st.text(), value=ANYTHING)
def test_garbage_is_refused_with_nothing_but_a_line_of_text(name: str, value: Value) -> None:
    try:
        parsed = parse(name, value)
    except ValueError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message) < 700
    else:
        assert parse(name, parsed) == parsed
        assert type(parsed) in (int, float, bool, str)


def test_what_is_not_to_be_seen_is_spelt_out_and_letters_stay() -> None:
    assert printable("a\x1bé\u202eb\n") == "a\\x1bé\\u202eb\\n"
    assert printable("日\ud800", 5) == "日\\ud8"
    with pytest.raises(ValueError, match=r"^é\\x1b: no such setting"):
        parse("é\x1b", "1")


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4))
def test_a_replaced_config_is_a_valid_one_or_none(changes: dict[str, Value]) -> None:
    try:
        config = Config().replace(changes)
    except ValueError:
        return
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config
    assert module.Config(**config.as_dict()) == config  # type: ignore[arg-type]


def test_a_pair_is_taken_apart_in_one_way_everywhere() -> None:
    assert pair(" lr = 0.05 ") == ("lr", "0.05")
    assert pair("norm==") == ("norm", "=")
    for text in ("lr", "=1", " = ", ""):
        with pytest.raises(ValueError, match="has to be KEY=VALUE"):
            pair(text)
    assert command_of(["set", "lr = 0.05"], live=False) == Set({"lr": 0.05})
    assert twin_changes(Config(), ["lr = 0.05"]) == {"lr": 0.05}
