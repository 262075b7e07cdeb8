"""The bricks a net is built from: torch.nn's interface in the lecture's own arithmetic, each with its backward by hand.

They stand alone because the published digits hold only for the lecture's order of operations (part 3, "Let's
torch-ify"), and because every brick keeps what it computed: `out`, and what `backward` needs.

Shapes: `B` batch, `T` block_size, `C` n_embd, `V` vocabulary; `F` the features of one brick.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# A batch of one has no variance. The NaN shows that; a warning on stderr would only tear the screen.
warnings.filterwarnings("ignore", message=r"(var|std)\(\): degrees of freedom")


class Brick:
    """One module. Calling it runs the forward pass of training and keeps the result in `out`.

    `infer` is the forward pass of evaluation: it leaves no trace, so it may run between two training steps.
    `backward` keeps d loss / d out in `dout`, fills `.grad` of the parameters and returns d loss / d input.
    A brick says what it does in `infer` (and `forward`, where training differs) and in `pull_back`.
    """

    out: Tensor
    x: Tensor
    dout: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        self.x = x
        self.out = self.forward(x)
        return self.out

    def forward(self, x: Tensor) -> Tensor:
        """(B, fan_in) -> (B, fan_out), as in training; most bricks do the same in evaluation."""
        return self.infer(x)

    def infer(self, x: Tensor) -> Tensor:
        """(B, fan_in) -> (B, fan_out), as in evaluation."""
        raise NotImplementedError

    def backward(self, dout: Tensor) -> Tensor:
        """d loss / d out -> d loss / d input, for the latest call."""
        self.dout = dout
        return self.pull_back(dout)

    def pull_back(self, dout: Tensor) -> Tensor:
        """The derivative by hand."""
        raise NotImplementedError

    def parameters(self) -> list[Tensor]:
        """What training changes, in the lecture's order."""
        return []

    def buffers(self) -> list[Tensor]:
        """What the forward pass of training changes."""
        return []

    def leaves(self) -> Iterator[Brick]:
        """The brick, or the bricks it is made of, in the order of the forward pass."""
        yield self

    @property
    def kind(self) -> str:
        """The name of the class, which is torch.nn's."""
        return type(self).__name__


class Linear(Brick):
    """x @ weight + bias; `weight` is (fan_in, fan_out), torch.nn's transposed (part 3, `class Linear`)."""

    def __init__(self, fan_in: int, fan_out: int, bias: bool = True, generator: torch.Generator | None = None) -> None:
        self.weight = torch.randn((fan_in, fan_out), generator=generator)
        self.bias = torch.zeros(fan_out) if bias else None

    def infer(self, x: Tensor) -> Tensor:
        out = x @ self.weight
        if self.bias is not None:
            out = out + self.bias
        return out

    def pull_back(self, dout: Tensor) -> Tensor:
        self.weight.grad = self.x.T @ dout
        if self.bias is not None:
            self.bias.grad = dout.sum(0)
        return dout @ self.weight.T

    def parameters(self) -> list[Tensor]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class Embedding(Brick):
    """Rows of `weight` (V, C) for a context of T characters, side by side: (B, T) -> (B, T*C)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, generator: torch.Generator | None = None) -> None:
        self.weight = torch.randn((num_embeddings, embedding_dim), generator=generator)

    def infer(self, x: Tensor) -> Tensor:
        return self.weight[x].view(x.shape[0], -1)

    def pull_back(self, dout: Tensor) -> Tensor:
        rows = dout.view(-1, self.weight.shape[1])
        self.weight.grad = torch.zeros_like(self.weight).index_add_(0, self.x.reshape(-1), rows)
        return dout

    def parameters(self) -> list[Tensor]:
        return [self.weight]


class Norm(Brick):
    """gamma * xhat + beta, where xhat has mean 0 and standard deviation 1 over what a subclass chooses."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        self.eps = eps
        self.gamma = torch.ones(num_features)
        self.beta = torch.zeros(num_features)
        self.xhat = torch.empty(0)
        self.std = torch.empty(0)

    def parameters(self) -> list[Tensor]:
        return [self.gamma, self.beta]


class BatchNorm1d(Norm):
    """Normalises each feature over the batch (part 3, `class BatchNorm1d`; Ioffe and Szegedy 2015).

    With `unbiased`, the lecture's choice, the batch is normalised by the variance with n - 1 below; torch.nn
    normalises by the one with n. The running variance is the unbiased one in both.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, unbiased: bool = True) -> None:
        super().__init__(num_features, eps)
        self.momentum = momentum
        self.unbiased = unbiased
        self.running_mean = torch.zeros(num_features)
        self.running_var = torch.ones(num_features)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(0, keepdim=True)
        variance = x.var(0, keepdim=True)
        self.std = torch.sqrt((variance if self.unbiased else x.var(0, keepdim=True, correction=0)) + self.eps)
        self.xhat = (x - mean) / self.std
        with torch.no_grad():
            m = self.momentum
            self.running_mean.copy_(((1 - m) * self.running_mean + m * mean)[0])
            self.running_var.copy_(((1 - m) * self.running_var + m * variance)[0])
        return self.gamma * self.xhat + self.beta

    def infer(self, x: Tensor) -> Tensor:
        running = self.running_mean, self.running_var
        return F.batch_norm(x, *running, self.gamma, self.beta, training=False, eps=self.eps)

    def pull_back(self, dout: Tensor) -> Tensor:
        # Part 4, exercise 3, with the divisor of the variance left open.
        n = dout.shape[0]
        self.gamma.grad = (dout * self.xhat).sum(0)
        self.beta.grad = dout.sum(0)
        through_variance = self.xhat * (dout * self.xhat).sum(0) / (n - 1 if self.unbiased else n)
        return self.gamma / self.std * (dout - dout.mean(0) - through_variance)

    def buffers(self) -> list[Tensor]:
        return [self.running_mean, self.running_var]


class GroupNorm(Norm):
    """Normalises the features of each example in `num_groups` groups (Wu and He 2018); nothing crosses the batch."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__(num_channels, eps)
        self.num_groups = num_groups

    def infer(self, x: Tensor) -> Tensor:
        xhat, _ = self._normalise(x)
        return self.gamma * xhat + self.beta

    def forward(self, x: Tensor) -> Tensor:
        self.xhat, self.std = self._normalise(x)
        return self.gamma * self.xhat + self.beta

    def _normalise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        groups = self._grouped(x)
        std = torch.sqrt(groups.var(-1, keepdim=True, correction=0) + self.eps)
        return ((groups - groups.mean(-1, keepdim=True)) / std).view_as(x), std

    def _grouped(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.num_groups, -1)

    def pull_back(self, dout: Tensor) -> Tensor:
        self.gamma.grad = (dout * self.xhat).sum(0)
        self.beta.grad = dout.sum(0)
        dxhat, xhat = self._grouped(dout * self.gamma), self._grouped(self.xhat)
        centred = dxhat - dxhat.mean(-1, keepdim=True) - xhat * (dxhat * xhat).mean(-1, keepdim=True)
        return (centred / self.std).view_as(dout)


class LayerNorm(GroupNorm):
    """Normalises the features of each example (Ba et al. 2016): GroupNorm with one group."""

    def __init__(self, normalized_shape: int, eps: float = 1e-5) -> None:
        super().__init__(1, normalized_shape, eps)


class Nonlinearity(Brick):
    """Acts on each number alone. `flat` says where its slope is (nearly) zero, so that no gradient passes."""

    def flat(self, out: Tensor, threshold: float) -> Tensor:
        """Boolean, of `out`'s shape: which outputs lie in the flat region, for units that have a `threshold`."""
        return torch.zeros_like(out, dtype=torch.bool)


class Tanh(Nonlinearity):
    """Flat where |out| is above the threshold."""

    def infer(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def pull_back(self, dout: Tensor) -> Tensor:
        return (1.0 - self.out**2) * dout

    def flat(self, out: Tensor, threshold: float) -> Tensor:
        return out.abs() > threshold


class Sigmoid(Nonlinearity):
    """Flat where it is as close to 0 or 1 as tanh would be to -1 or 1."""

    def infer(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def pull_back(self, dout: Tensor) -> Tensor:
        return self.out * (1.0 - self.out) * dout

    def flat(self, out: Tensor, threshold: float) -> Tensor:
        return (2.0 * out - 1.0).abs() > threshold


class ReLU(Nonlinearity):
    """Flat where it is off."""

    def infer(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def pull_back(self, dout: Tensor) -> Tensor:
        return torch.where(self.x > 0, dout, torch.zeros_like(dout))

    def flat(self, out: Tensor, threshold: float) -> Tensor:
        return out == 0


class LeakyReLU(Nonlinearity):
    """Never flat."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def infer(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)

    def pull_back(self, dout: Tensor) -> Tensor:
        return torch.where(self.x > 0, dout, dout * self.negative_slope)


class ELU(Nonlinearity):
    """Flat where it is close to its floor of -1."""

    def infer(self, x: Tensor) -> Tensor:
        return F.elu(x)

    def pull_back(self, dout: Tensor) -> Tensor:
        return torch.where(self.x > 0, dout, dout * (self.out + 1.0))

    def flat(self, out: Tensor, threshold: float) -> Tensor:
        return out < -threshold


class Identity(Nonlinearity):
    """No nonlinearity: never flat."""

    def infer(self, x: Tensor) -> Tensor:
        return x.clone()  # its own tensor, so that its gradient is its own

    def pull_back(self, dout: Tensor) -> Tensor:
        return dout


class Residual(Brick):
    """x + f(x), where f is the given bricks in sequence (He et al. 2015)."""

    def __init__(self, *bricks: Brick) -> None:
        self.bricks = bricks

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for brick in self.bricks:
            out = brick(out)
        return x + out

    def infer(self, x: Tensor) -> Tensor:
        out = x
        for brick in self.bricks:
            out = brick.infer(out)
        return x + out

    def pull_back(self, dout: Tensor) -> Tensor:
        through = dout
        for brick in reversed(self.bricks):
            through = brick.backward(through)
        return dout + through

    def parameters(self) -> list[Tensor]:
        return [p for brick in self.bricks for p in brick.parameters()]

    def buffers(self) -> list[Tensor]:
        return [b for brick in self.bricks for b in brick.buffers()]

    def leaves(self) -> Iterator[Brick]:
        for brick in self.bricks:
            yield from brick.leaves()


NONLINEARITIES: dict[str, type[Nonlinearity]] = {
    "tanh": Tanh,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "sigmoid": Sigmoid,
    "identity": Identity,
}
