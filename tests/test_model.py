"""The net: torch.nn's on the same weights, drawn as configured, evaluated and sampled without a trace."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from makemore_core.config import Config, Value
from makemore_core.dataset import Dataset, Split, read
from makemore_core.layers import BatchNorm1d, Brick, GroupNorm, LayerNorm, LeakyReLU, Linear, Norm, Residual
from makemore_core.model import LONGEST_NAME, Model, adapt, build, evaluate, evaluation, gain, sample
from makemore_core.trainer import Trainer

V = 27
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def net(seed: int = 5, **changes: Value) -> Model:
    return build(Config().replace(changes), V, torch.Generator().manual_seed(seed))


def linears(model: Model) -> list[Linear]:
    return [leaf for leaf in model.leaves() if isinstance(leaf, Linear)]


def norms(model: Model) -> list[Norm]:
    return [leaf for leaf in model.leaves() if isinstance(leaf, Norm)]


def some_examples(n: int = 64, block_size: int = 3) -> Split:
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, V, (n, block_size), generator=generator)
    return Split(x, torch.randint(0, V, (n,), generator=generator))


def doubled(model: Model) -> Model:
    """The net in float64, where two ways of computing the same thing agree to almost the last digit."""
    for brick in [model.embedding, *model.leaves()]:
        for name, value in vars(brick).items():
            if isinstance(value, Tensor):
                setattr(brick, name, value.double())
    return model


# ---- the same net of torch.nn's bricks ----------------------------------------------------------------------------


class TorchResidual(nn.Module):
    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def torch_brick(brick: Brick) -> nn.Module:
    match brick:
        case Residual():
            return TorchResidual(nn.Sequential(*map(torch_brick, brick.bricks)))
        case Linear():
            linear = nn.Linear(*brick.weight.shape, bias=brick.bias is not None)
            linear.weight = nn.Parameter(brick.weight.detach().T.clone())
            if brick.bias is not None:
                linear.bias = nn.Parameter(brick.bias.detach().clone())
            return linear
        case BatchNorm1d():
            norm: nn.Module = nn.BatchNorm1d(len(brick.gamma), brick.eps, brick.momentum)
        case LayerNorm():
            norm = nn.LayerNorm(len(brick.gamma), brick.eps)
        case GroupNorm():
            norm = nn.GroupNorm(brick.num_groups, len(brick.gamma), brick.eps)
        case LeakyReLU():
            return nn.LeakyReLU(brick.negative_slope)
        case _:
            module: nn.Module = getattr(nn, brick.kind)()
            return module
    norm.weight, norm.bias = nn.Parameter(brick.gamma.detach().clone()), nn.Parameter(brick.beta.detach().clone())
    return norm


def torch_net(model: Model) -> nn.Sequential:
    embedding = nn.Embedding.from_pretrained(model.embedding.weight.detach().clone(), freeze=False)
    return nn.Sequential(embedding, nn.Flatten(), *map(torch_brick, model.layers))


NONLINEARITIES = ["tanh", "relu", "leaky_relu", "elu", "sigmoid", "identity"]
NETS: list[dict[str, Value]] = [
    {"norm": norm, "norm_place": place, "nonlinearity": nonlinearity, "residual": residual}
    for norm, place, nonlinearity, residual in itertools.chain(
        itertools.product(["batch", "layer", "group"], ["before", "after"], ["tanh", "relu"], [False, True]),
        itertools.product(["none"], ["before"], NONLINEARITIES, [False, True]),
    )
] + [{"bias": "on"}, {"bias": "off", "norm": "none"}, {"norm_output": False}, {"n_layer": 1}, {"block_size": 8}]


@pytest.mark.parametrize("changes", NETS, ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()))
def test_a_net_of_torch_nns_bricks_gives_the_same_logits_and_gradients(changes: dict[str, Value]) -> None:
    model = doubled(net(**changes, norm_variance="pytorch", n_hidden=20, gain=5 / 3))
    theirs = torch_net(model).double()
    examples = some_examples(block_size=int(changes.get("block_size", 3)))
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    logits, reference = model(examples.x), theirs(examples.x)
    F.cross_entropy(logits, examples.y).backward()
    F.cross_entropy(reference, examples.y).backward()
    torch.testing.assert_close(logits, reference, **CLOSE)
    transposed = {id(linear.weight) for linear in linears(model)}
    for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad.T if id(mine) in transposed else other.grad, **CLOSE)
    torch.testing.assert_close(model.infer(examples.x), theirs.eval()(examples.x), **CLOSE)


# ---- how a net is drawn --------------------------------------------------------------------------------------------


def test_the_draw_order_is_the_embedding_and_then_each_layers_weight() -> None:
    generator = torch.Generator().manual_seed(7)
    model = build(Config().replace({"n_layer": 2, "fan_in": "off", "norm": "none"}), V, generator)
    again = torch.Generator().manual_seed(7)
    drawn = [torch.randn(shape, generator=again) for shape in ((V, 10), (30, 100), (100, 100), (100, V))]
    drawn[-1] = drawn[-1] * 0.1
    assert all(torch.equal(a, b) for a, b in zip([p for p in model.parameters() if p.ndim == 2], drawn, strict=True))
    assert torch.equal(generator.get_state(), again.get_state())


def test_fan_in_division_is_of_every_layer_of_the_hidden_ones_or_of_none() -> None:
    on, hidden, off = (linears(net(fan_in=where, norm="none")) for where in ("on", "hidden", "off"))
    for index, (a, b, c) in enumerate(zip(on, hidden, off, strict=True)):
        fan_in = len(a.weight)
        torch.testing.assert_close(a.weight, c.weight / fan_in**0.5)
        torch.testing.assert_close(b.weight, c.weight if index == 5 else a.weight)


@pytest.mark.parametrize(("changes", "last"), [({}, 3.0), ({"norm": "none"}, 1.0), ({"norm_output": False}, 1.0)])
def test_gain_multiplies_the_weights_of_all_layers_but_the_last(changes: dict[str, Value], last: float) -> None:
    """As the lecture's `for layer in layers[:-1]`: where a BatchNorm comes last, the output weight is among them."""
    once, thrice = linears(net(**changes)), linears(net(gain=3.0, **changes))
    for index, (a, b) in enumerate(zip(once, thrice, strict=True)):
        torch.testing.assert_close(b.weight, a.weight * (last if index == 5 else 3.0))


@pytest.mark.parametrize(
    ("nonlinearity", "theirs"),
    [("tanh", "tanh"), ("relu", "relu"), ("leaky_relu", "leaky_relu"), ("sigmoid", "sigmoid"), ("identity", "linear")],
)
def test_auto_gain_is_pytorchs(nonlinearity: str, theirs: str) -> None:
    config = Config().replace({"gain": "auto", "nonlinearity": nonlinearity})
    expected = torch.nn.init.calculate_gain(theirs)  # type: ignore[arg-type]
    assert gain(config) == expected
    drawn = net(gain="auto", nonlinearity=nonlinearity)
    torch.testing.assert_close(linears(drawn)[0].weight, linears(net())[0].weight * expected)


def test_the_last_layer_is_shrunk_by_its_weight_or_by_its_gamma() -> None:
    bare, full = net(norm="none", last_shrink=0.1), net(norm="none", last_shrink=1.0)
    torch.testing.assert_close(linears(bare)[-1].weight, linears(full)[-1].weight * 0.1)
    normalised = net(last_shrink=0.1)
    assert torch.equal(linears(normalised)[-1].weight, linears(net(last_shrink=1.0))[-1].weight)
    assert norms(normalised)[-1].gamma.tolist() == pytest.approx([0.1] * V)
    assert norms(normalised)[0].gamma.tolist() == [1.0] * 100


@pytest.mark.parametrize(
    ("changes", "biases"),
    [
        ({}, [False, False, False]),
        ({"norm": "none"}, [True, True, True]),
        ({"norm_output": False}, [False, False, True]),
        ({"norm_place": "after"}, [True, True, False]),
        ({"bias": "on"}, [True, True, True]),
        ({"bias": "off", "norm": "none"}, [False, False, False]),
    ],
)
def test_a_bias_is_left_out_where_a_norm_follows_directly(changes: dict[str, Value], biases: list[bool]) -> None:
    model = net(n_layer=2, **changes)
    assert [linear.bias is not None for linear in linears(model)] == biases
    assert all(not linear.bias.any() for linear in linears(model) if linear.bias is not None)


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, "Linear BatchNorm1d Tanh Linear BatchNorm1d Tanh Linear BatchNorm1d"),
        ({"norm": "none"}, "Linear Tanh Linear Tanh Linear"),
        ({"norm": "layer", "norm_place": "after"}, "Linear Tanh LayerNorm Linear Tanh LayerNorm Linear LayerNorm"),
        ({"norm": "group", "norm_output": False}, "Linear GroupNorm Tanh Linear GroupNorm Tanh Linear"),
        ({"residual": True}, "Linear BatchNorm1d Tanh Linear BatchNorm1d Tanh Linear BatchNorm1d"),
    ],
)
def test_the_layers_in_order(changes: dict[str, Value], kinds: str) -> None:
    assert [leaf.kind for leaf in net(n_layer=2, **changes).leaves()] == kinds.split()


@pytest.mark.parametrize("n_hidden", [100, 30])
def test_residual_connections_go_around_each_hidden_layer_from_the_second_on(n_hidden: int) -> None:
    kinds = [layer.kind for layer in net(n_layer=3, residual=True, n_hidden=n_hidden).layers]
    assert kinds == ["Linear", "BatchNorm1d", "Tanh", "Residual", "Residual", "Linear", "BatchNorm1d"]


def test_the_logits_groups_are_the_most_that_divide_the_vocabulary() -> None:
    last = norms(net(norm="group", norm_groups=10))[-1]
    assert isinstance(last, GroupNorm)
    assert (last.num_groups, norms(net(norm="group", norm_groups=10))[0].num_groups) == (9, 10)  # type: ignore[attr-defined]


def test_tensors_by_name() -> None:
    model = net(n_layer=2, bias="on", residual=True)
    named = dict(model.named_tensors())
    assert [name for name in named if name.startswith(("C", "0", "1", "2", "3", "6"))] == [
        "C", "0.weight", "0.bias", "1.gamma", "1.beta", "1.running_mean", "1.running_var", "3.weight", "3.bias",
        "6.weight", "6.bias",
    ]  # fmt: skip
    assert {id(t) for t in named.values()} == {id(t) for t in model.parameters() + model.buffers()}


@pytest.mark.parametrize("changes", [{}, {"residual": True}, {"norm": "group", "bias": "on"}])
def test_a_clone_shares_nothing(changes: dict[str, Value]) -> None:
    model = net(**changes)
    twin = model.clone()
    before = {name: tensor.clone() for name, tensor in model.named_tensors()}
    twin(some_examples().x)
    for _, tensor in twin.named_tensors():
        tensor.fill_(9.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_tensors())
    assert list(before) == [name for name, _ in twin.named_tensors()]


# ---- live changes --------------------------------------------------------------------------------------------------


def trained(dataset: Dataset, **changes: Value) -> Trainer:
    trainer = Trainer(Config().replace({"n_hidden": 20, "engine": "plain"} | changes), dataset)
    trainer.advance(20)
    return trainer


def test_a_live_gain_multiplies_what_has_been_learnt(few_names: Dataset) -> None:
    model = trained(few_names).model
    louder = adapt(model, Config(n_hidden=20), Config(n_hidden=20, gain=2.0))
    for a, b in zip(linears(model), linears(louder), strict=True):
        torch.testing.assert_close(b.weight, a.weight * 2.0)
    for a, b in zip(model.buffers(), louder.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "changes",
    [
        {"gain": 3.0}, {"gain": "auto"}, {"fan_in": "off"}, {"fan_in": "hidden"}, {"nonlinearity": "relu"},
        {"gain": 0.5, "fan_in": "off", "nonlinearity": "elu"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("base", [{}, {"residual": True}, {"norm": "none", "bias": "on"}, {"norm": "layer"}], ids=str)
def test_a_live_change_and_back_is_the_same_net(
    base: dict[str, Value], changes: dict[str, Value], few_names: Dataset
) -> None:
    trainer = trained(few_names, **base)
    model, before = trainer.model, trainer.config
    after = before.replace(changes)
    back = adapt(adapt(model, before, after), after, before)
    x = some_examples().x
    torch.testing.assert_close(back.infer(x), model.infer(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(back(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_norm_that_comes_live_is_fresh_and_leaves_the_hidden_weights(few_names: Dataset) -> None:
    trainer = trained(few_names, norm="none")
    after = trainer.config.replace({"norm": "batch"})
    model = adapt(trainer.model, trainer.config, after)
    assert [leaf.kind for leaf in model.leaves()][:3] == ["Linear", "BatchNorm1d", "Tanh"]
    hidden = zip(linears(trainer.model)[:-1], linears(model)[:-1], strict=True)
    assert all(torch.equal(a.weight, b.weight) for a, b in hidden)
    assert norms(model)[0].gamma.tolist() == [1.0] * 20


@pytest.mark.parametrize(("norm", "other"), [("batch", "none"), ("none", "batch"), ("layer", "batch")])
def test_logits_are_shrunk_once_when_a_norm_comes_or_goes(norm: str, other: str, few_names: Dataset) -> None:
    trainer = Trainer(Config(n_hidden=20, norm=norm, engine="plain"), few_names)
    after = trainer.config.replace({"norm": other})
    live, fresh = adapt(trainer.model, trainer.config, after), Trainer(after, few_names).model
    x = some_examples().x
    torch.testing.assert_close(live(x).std(), fresh(x).std(), rtol=0.1, atol=0.0)


def test_weights_whose_factor_of_zero_stays_are_kept(few_names: Dataset) -> None:
    trainer = trained(few_names, norm="none", last_shrink=0.0)
    louder = adapt(trainer.model, trainer.config, trainer.config.replace({"gain": 2.0}))
    assert torch.equal(linears(louder)[-1].weight, linears(trainer.model)[-1].weight)


def test_weights_of_gain_zero_are_drawn_again_since_no_factor_brings_them_back(few_names: Dataset) -> None:
    trainer = trained(few_names, gain=0.0)
    after = trainer.config.replace({"gain": 1.0})
    drawn = Trainer(after, few_names).model
    for a, b in zip(linears(drawn)[:-1], linears(adapt(trainer.model, trainer.config, after))[:-1], strict=True):
        assert torch.equal(a.weight, b.weight)


# ---- evaluation and sampling ---------------------------------------------------------------------------------------


@pytest.fixture
def untouched() -> Callable[[Trainer], tuple[object, ...]]:
    """All that evaluation and sampling must leave as it is: net, gradients, and every generator."""

    def state(trainer: Trainer) -> tuple[object, ...]:
        leaves = [trainer.model.embedding, *trainer.model.leaves()]
        held = [(id(v), v.detach().clone()) for leaf in leaves for v in vars(leaf).values() if isinstance(v, Tensor)]
        return (
            [key for key, _ in held],
            [tensor.tolist() for _, tensor in held],
            [None if p.grad is None else p.grad.tolist() for p in trainer.model.parameters()],
            trainer.generator.get_state().tolist(),
            torch.get_rng_state().tolist(),
        )

    return state


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group"])
def test_evaluation_and_sampling_leave_no_trace(
    norm: str, few_names: Dataset, untouched: Callable[[Trainer], tuple[object, ...]]
) -> None:
    trainer = trained(few_names, norm=norm)
    before = untouched(trainer)
    evaluate(trainer.model, trainer.train)
    list(sample(trainer.model, few_names, 3, n=5))
    assert untouched(trainer) == before


def test_evaluation_is_the_mean_cross_entropy_with_the_running_statistics(few_names: Dataset) -> None:
    trainer = trained(few_names, norm_variance="pytorch")
    theirs = torch_net(trainer.model).eval()
    for source, copy in zip(norms(trainer.model), [m for m in theirs if isinstance(m, nn.BatchNorm1d)], strict=True):
        assert isinstance(source, BatchNorm1d)
        copy.running_mean, copy.running_var = source.running_mean.clone(), source.running_var.clone()
    expected = F.cross_entropy(theirs(trainer.val.x), trainer.val.y).item()
    assert evaluate(trainer.model, trainer.val) == pytest.approx(expected, rel=1e-5)


def test_evaluation_in_slices_adds_up(few_names: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trained(few_names)
    whole = evaluate(trainer.model, trainer.val)
    monkeypatch.setattr("makemore_core.model.EVALUATION_BATCH", 100)
    contexts = trainer.val_contexts
    assert len(list(evaluation(trainer.model, contexts))) == -(-len(contexts.x) // 100) > 1
    assert evaluate(trainer.model, trainer.val) == pytest.approx(whole, rel=1e-5)


def test_evaluation_of_a_single_example_is_that_examples_loss(few_names: Dataset) -> None:
    trainer = trained(few_names)
    losses = [evaluate(trainer.model, Split(trainer.val.x[i : i + 1], trainer.val.y[i : i + 1])) for i in range(20)]
    twenty = evaluate(trainer.model, Split(trainer.val.x[:20], trainer.val.y[:20]))
    assert sum(losses) / 20 == pytest.approx(twenty, rel=1e-5)


def test_sampling_draw_for_draw_at_a_temperature_in_any_alphabet(tmp_path: Path) -> None:
    """An independent loop; that of the notebook, on the names, stands with the lecture's numbers."""
    path = tmp_path / "items.txt"
    path.write_text("жук.\nkäse\n🐈‍⬛\na b\n日本\n" * 5, "utf-8")
    dataset = read(path)
    trainer = trained(dataset, block_size=2)
    generator = torch.Generator().manual_seed(11)
    expected = []
    for _ in range(10):
        word, context = "", [0, 0]
        while len(word) < LONGEST_NAME:
            probabilities = torch.softmax(trainer.model.infer(torch.tensor([context])) / 0.7, 1)
            index = int(torch.multinomial(probabilities, 1, generator=generator))
            if index == 0:
                break
            word += dataset.alphabet[index - 1]
            context = [context[1], index]
        expected.append(word)
    assert list(sample(trainer.model, dataset, 2, n=10, seed=11, temperature=0.7)) == expected


@pytest.mark.parametrize("block_size", [2, 5])
def test_names_that_begin_so_are_drawn_as_the_net_goes_on_from_there(block_size: int) -> None:
    dataset = read()
    trainer = trained(dataset, block_size=block_size)
    generator = torch.Generator().manual_seed(3)
    expected = []
    for _ in range(10):
        context, word = ([0] * block_size + [5, 13, 13])[-block_size:], "emm"
        while len(word) < LONGEST_NAME:
            probabilities = torch.softmax(trainer.model.infer(torch.tensor([context])), 1)
            index = int(torch.multinomial(probabilities, 1, generator=generator))
            if index == 0:
                break
            word += dataset.alphabet[index - 1]
            context = [*context[1:], index]
        expected.append(word)
    assert list(sample(trainer.model, dataset, block_size, n=10, seed=3, start="emm")) == expected
    with pytest.raises(ValueError, match=r"^'Emma': 'E' is not among the characters of the data, abcdefghij"):
        next(sample(trainer.model, dataset, block_size, start="Emma"))


def test_a_net_that_never_ends_a_name_is_cut(few_names: Dataset) -> None:
    trainer = trained(few_names, norm="none")
    assert linears(trainer.model)[-1].bias is not None
    linears(trainer.model)[-1].bias[0] = -1e9
    assert [len(name) for name in sample(trainer.model, few_names, 3, n=2)] == [LONGEST_NAME] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_net_that_diverged_has_no_names(value: float, few_names: Dataset) -> None:
    trainer = trained(few_names)
    trainer.model.embedding.weight.fill_(value)
    assert not list(sample(trainer.model, few_names, 3))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_has_to_be_above_0(temperature: float, few_names: Dataset) -> None:
    with pytest.raises(ValueError, match=r"temperature=.*above 0"):
        list(sample(net(), few_names, 3, temperature=temperature))
