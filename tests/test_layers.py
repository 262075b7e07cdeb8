"""Every brick against torch.nn on the same weights, and its backward by hand against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from makemore_core.layers import (
    ELU,
    BatchNorm1d,
    Brick,
    Embedding,
    GroupNorm,
    Identity,
    LayerNorm,
    LeakyReLU,
    Linear,
    Nonlinearity,
    ReLU,
    Residual,
    Sigmoid,
    Tanh,
)

FLOAT32 = {"rtol": 2e-5, "atol": 2e-6}
FLOAT64 = {"rtol": 1e-11, "atol": 1e-12}

BRICKS: dict[str, Callable[[], Brick]] = {
    "Linear": lambda: Linear(12, 12),
    "Linear without bias": lambda: Linear(12, 12, bias=False),
    "BatchNorm1d as in the lecture": lambda: BatchNorm1d(12),
    "BatchNorm1d as in torch.nn": lambda: BatchNorm1d(12, unbiased=False),
    "LayerNorm": lambda: LayerNorm(12),
    "GroupNorm": lambda: GroupNorm(3, 12),
    "Tanh": Tanh,
    "Sigmoid": Sigmoid,
    "ReLU": ReLU,
    "LeakyReLU": LeakyReLU,
    "ELU": ELU,
    "Identity": Identity,
    "Residual": lambda: Residual(Linear(12, 12), BatchNorm1d(12), Tanh()),
}
TORCH_BRICKS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(12, 12),
    "Linear without bias": lambda: nn.Linear(12, 12, bias=False),
    "BatchNorm1d as in torch.nn": lambda: nn.BatchNorm1d(12),
    "LayerNorm": lambda: nn.LayerNorm(12),
    "GroupNorm": lambda: nn.GroupNorm(3, 12),
    "Tanh": nn.Tanh,
    "Sigmoid": nn.Sigmoid,
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "ELU": nn.ELU,
    "Identity": nn.Identity,
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


def randomised(brick: Brick) -> Brick:
    """The brick with no parameter left at a value that would hide a mistake, such as gamma 1."""
    for parameter in brick.parameters():
        parameter.copy_(torch.randn_like(parameter))
    return brick


def same_weights(theirs: nn.Module, brick: Brick) -> nn.Module:
    """torch.nn's module with the brick's weights; a Linear's are transposed there."""
    with torch.no_grad():
        for mine, parameter in zip(brick.parameters(), theirs.parameters(), strict=True):
            parameter.copy_(mine.T if isinstance(theirs, nn.Linear) and mine.ndim == 2 else mine)
    return theirs


def doubled(brick: Brick) -> Brick:
    """The brick in float64, where a derivative by hand has to agree to almost the last digit."""
    for leaf in brick.leaves():
        for name, value in vars(leaf).items():
            if isinstance(value, Tensor):
                setattr(leaf, name, value.double())
    return brick


def tensors(brick: Brick) -> list[Tensor]:
    """All that a brick holds: parameters, buffers, and what the backward pass needs."""
    return [value for leaf in brick.leaves() for value in vars(leaf).values() if isinstance(value, Tensor)]


def tracked(brick: Brick) -> Brick:
    for parameter in brick.parameters():
        parameter.requires_grad_(True)
    return brick


@pytest.mark.parametrize("name", TORCH_BRICKS)
def test_output_and_gradients_are_those_of_torch_nn(name: str) -> None:
    brick = tracked(randomised(BRICKS[name]()))
    theirs = same_weights(TORCH_BRICKS[name](), brick)
    mine = torch.randn(32, 12, requires_grad=True)
    other = mine.detach().clone().requires_grad_(True)
    weighting = torch.randn(32, 12)
    out, reference = brick(mine), theirs(other)
    (out * weighting).sum().backward()
    (reference * weighting).sum().backward()
    torch.testing.assert_close(out, reference, **FLOAT32)
    torch.testing.assert_close(mine.grad, other.grad, **FLOAT32)
    for parameter, same in zip(brick.parameters(), theirs.parameters(), strict=True):
        gradient = same.grad.T if isinstance(theirs, nn.Linear) and same.ndim == 2 else same.grad
        torch.testing.assert_close(parameter.grad, gradient, rtol=2e-5, atol=2e-5)


def test_the_embedding_is_torch_nns_with_its_rows_side_by_side() -> None:
    brick = Embedding(27, 10)
    brick.weight.requires_grad_(True)
    theirs = nn.Embedding.from_pretrained(brick.weight.detach().clone(), freeze=False)
    x = torch.randint(0, 5, (32, 3))  # few symbols, so that rows meet themselves
    weighting = torch.randn(32, 30)
    (brick(x) * weighting).sum().backward()
    (theirs(x).flatten(1) * weighting).sum().backward()
    assert torch.equal(brick.out, theirs(x).flatten(1))
    torch.testing.assert_close(brick.weight.grad, theirs.weight.grad, **FLOAT32)


@pytest.mark.parametrize("name", BRICKS)
def test_the_backward_pass_by_hand_is_autograds(name: str) -> None:
    brick = tracked(doubled(randomised(BRICKS[name]())))
    x = torch.randn(32, 12, dtype=torch.float64) * 2
    x[0] = 0.0  # where a nonlinearity may have a corner
    x.requires_grad_(True)
    dout = torch.randn(32, 12, dtype=torch.float64)
    expected = torch.autograd.grad(brick(x), [x, *brick.parameters()], dout)
    with torch.no_grad():
        dx = brick.backward(dout)
    assert brick.dout is dout
    torch.testing.assert_close(dx, expected[0], **FLOAT64)
    for parameter, gradient in zip(brick.parameters(), expected[1:], strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **FLOAT64)


def test_the_embeddings_backward_pass_by_hand_is_autograds() -> None:
    brick = tracked(doubled(Embedding(27, 10)))
    x, dout = torch.randint(0, 5, (32, 3)), torch.randn(32, 30, dtype=torch.float64)
    (expected,) = torch.autograd.grad(brick(x), brick.parameters(), dout)
    with torch.no_grad():
        brick.backward(dout)
    torch.testing.assert_close(brick.weight.grad, expected, **FLOAT64)


@pytest.mark.parametrize("name", BRICKS)
def test_evaluation_leaves_no_trace_and_works_on_a_single_example(name: str) -> None:
    brick = randomised(BRICKS[name]())
    brick(torch.randn(32, 12))
    kept = [(value, value.clone()) for value in tensors(brick)]
    batch = torch.randn(5, 12)
    together = brick.infer(batch)
    for i in range(5):
        torch.testing.assert_close(brick.infer(batch[i : i + 1]), together[i : i + 1], **FLOAT32)
    for now, (before, copied) in zip(tensors(brick), kept, strict=True):
        assert now is before
        assert torch.equal(now, copied)


@pytest.mark.parametrize("name", [name for name in BRICKS if "BatchNorm" not in name and name != "Residual"])
def test_bricks_that_do_not_look_at_the_batch_evaluate_as_they_train(name: str) -> None:
    brick, x = randomised(BRICKS[name]()), torch.randn(8, 12)
    assert torch.equal(brick(x), brick.infer(x))


def test_batchnorm_keeps_torch_nns_running_statistics_and_evaluates_with_them() -> None:
    brick, theirs = BatchNorm1d(12, momentum=0.3, unbiased=False), nn.BatchNorm1d(12, momentum=0.3)
    for scale in (1.0, 5.0, 0.1):
        x = torch.randn(32, 12) * scale + scale
        torch.testing.assert_close(brick(x), theirs(x), **FLOAT32)
    torch.testing.assert_close(brick.running_mean, theirs.running_mean, **FLOAT32)
    torch.testing.assert_close(brick.running_var, theirs.running_var, **FLOAT32)
    x = torch.randn(7, 12)
    torch.testing.assert_close(brick.infer(x), theirs.eval()(x), **FLOAT32)


def test_the_lectures_batchnorm_differs_only_in_the_variance_that_it_normalises_by() -> None:
    """The unbiased one: xhat is smaller by sqrt((n - 1) / n); the running statistics are the same."""
    lecture, theirs = BatchNorm1d(12, eps=1e-12), nn.BatchNorm1d(12, eps=1e-12)
    x = torch.randn(32, 12) * 3 + 1
    torch.testing.assert_close(lecture(x), theirs(x) * (31 / 32) ** 0.5, **FLOAT32)
    torch.testing.assert_close(lecture.running_mean, theirs.running_mean, **FLOAT32)
    torch.testing.assert_close(lecture.running_var, theirs.running_var, **FLOAT32)


@pytest.mark.filterwarnings("ignore:var")
def test_a_batch_of_one_has_no_unbiased_variance() -> None:
    """The lecture's arithmetic gives NaN, which shows; it does not raise, as torch.nn's does."""
    assert BatchNorm1d(12)(torch.randn(1, 12)).isnan().all()


def test_the_layers_are_the_parts_in_the_order_of_the_forward_pass() -> None:
    parts = Linear(12, 12), BatchNorm1d(12), Tanh()
    brick = Residual(*parts)
    x = torch.randn(4, 12)
    assert list(brick.leaves()) == list(parts)
    assert torch.equal(brick(x), x + parts[2].out)
    assert [brick.kind for brick in parts] == ["Linear", "BatchNorm1d", "Tanh"]


def test_identity_keeps_a_tensor_of_its_own() -> None:
    x = torch.randn(4, 12)
    assert Identity()(x) is not x


@pytest.mark.parametrize(
    ("brick", "out", "flat"),
    [
        (Tanh(), [-1.0, -0.98, 0.0, 0.97, 0.98], [True, True, False, False, True]),
        (Sigmoid(), [0.0, 0.01, 0.5, 0.98, 0.99], [True, True, False, False, True]),
        (ReLU(), [0.0, 1e-9, 5.0], [True, False, False]),
        (ELU(), [-0.98, -0.97, 0.0, 9.0], [True, False, False, False]),
        (LeakyReLU(), [-9.0, 0.0, 9.0], [False, False, False]),
        (Identity(), [-9.0, 0.0, 9.0], [False, False, False]),
    ],
    ids=lambda value: value.kind if isinstance(value, Brick) else "",
)
def test_where_a_nonlinearity_is_flat(brick: Nonlinearity, out: list[float], flat: list[bool]) -> None:
    assert brick.flat(torch.tensor(out), 0.97).tolist() == flat
