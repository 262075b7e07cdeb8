"""The backward pass by hand on a net that is being trained (part 4): every gradient beside autograd's."""

from __future__ import annotations

from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_core import part4
from makemore_core.answers import Backward, Example, GradientRow
from makemore_core.engine import cross_entropy_backward, gradient_of
from makemore_core.gradcheck import BACKWARD, formulas
from makemore_core.layers import BatchNorm1d, Linear, Residual, Tanh
from makemore_core.looking import Options, floats, present_batch, train_pass
from makemore_core.model import Model
from makemore_core.trainer import Trainer


def backward(trainer: Trainer, _: Options) -> Backward:
    """Every gradient by hand against autograd on the present minibatch (part 4).

    A net of one hidden layer with BatchNorm before its tanh is taken apart into the lecture's 26 pieces, without the
    biases that it does not have; any other goes brick by brick. `close` allows for rounding: the lecture's `allclose`,
    or a hundred-thousandth of the largest. `example` is the row of the logits' gradient that the lecture looks at.
    """
    x, y = present_batch(trainer)
    net = trainer.model.clone()
    small = _part4_net(net) if len(y) > 1 else None  # its pieces divide by n - 1
    if small is None:
        name = f"{len(net.leaves()) - 1} {net.leaves()[-1].kind} out"
        compared, example = _by_brick(net, trainer.model.clone(), x, y), _example(trainer, name, x, y)
        return Backward("bricks", *compared, example=example)
    loss, gradients, short = part4.examine(small, x, y)
    linears = [leaf for leaf in net.leaves() if isinstance(leaf, Linear)]
    absent = [f"b{number}" for number, linear in enumerate(linears, 1) if linear.bias is None]
    return Backward(
        form="pieces",
        loss=loss,
        gradients=[_row(c, *part4.PIECES[c.name]) for c in gradients if c.name not in absent],
        one_expression=[_row(short[0], "(softmax(logits) - one_hot(Yb)) / n", "part 4, exercise 2"),
                        _row(short[1], BACKWARD["BatchNorm1d"].input, "part 4, exercise 3")],
        example=_example(trainer, "logits", x, y),
    )  # fmt: skip


@torch.no_grad()
def _example(trainer: Trainer, name: str, x: Tensor, y: Tensor) -> Example:
    """n times the gradient by the logits of the first example, softmax - one_hot; `name` is the gradient's."""
    dlogits = len(y) * cross_entropy_backward(trainer.model.clone()(x), y)[0]
    context, symbols = [int(index) for index in x[0]], [".", *trainer.dataset.alphabet]
    return Example(name, context, target=int(y[0]), symbols=symbols, dlogits=floats(dlogits))


def _part4_net(net: Model) -> part4.Net | None:
    """The parameters in part 4's names, if the net is of its form."""
    match net.layers:
        case [Linear() as first, BatchNorm1d(unbiased=True, eps=part4.EPS) as norm, Tanh(), Linear() as second]:
            pass
        case _:
            return None
    b1 = torch.zeros_like(first.weight[0]) if first.bias is None else first.bias
    b2 = torch.zeros_like(second.weight[0]) if second.bias is None else second.bias
    gain_and_bias = norm.gamma.view(1, -1), norm.beta.view(1, -1)
    return part4.Net(net.embedding.weight, first.weight, b1, second.weight, b2, *gain_and_bias)


def _by_brick(net: Model, twin: Model, x: Tensor, y: Tensor) -> tuple[float, list[GradientRow]]:
    """The loss, and the gradients from the embedding to the logits."""
    outs = train_pass(net, x, y)
    by_autograd = [gradient_of(parameter) for parameter in net.parameters()]
    with torch.no_grad():
        logits = twin(x)
        twin.backward(cross_entropy_backward(logits, y))
        gradients: list[GradientRow] = []
        parameters = iter(zip(twin.parameters(), by_autograd, strict=True))
        bricks, behind = [(None, twin.embedding), *enumerate(twin.leaves())], _behind(twin)
        for index, brick in bricks:
            form = formulas(brick)
            label = f"{'' if index is None else index} {brick.kind}".strip()
            if index is not None:
                compared = _compare(f"{label} out", brick.dout, gradient_of(outs[index]))
                gradients.append(_row(compared, *behind[index]))
            names = ["weight", "bias"] if hasattr(brick, "weight") else ["gamma", "beta"]
            for name, formula, (parameter, autograd) in zip(
                names, form.parameters, islice(parameters, len(brick.parameters())), strict=False
            ):
                compared = _compare(f"{label} {name}", gradient_of(parameter), autograd)
                gradients.append(_row(compared, formula, form.place))
    return float(F.cross_entropy(logits, y)), gradients


def _behind(net: Model) -> list[tuple[str, str]]:
    """How d loss / d out of each leaf comes from what is behind it, the next brick and a skip; and where that stands.

    A skip adds the gradient of the sum that it leads to, which is that of the last brick beside it.
    """
    leaves = net.leaves()
    behind = [(form.input, form.place) for form in map(formulas, leaves[1:])]
    behind.append(("(softmax(logits) - one_hot(y)) / n", "part 4, exercise 2"))
    first = 0
    for layer in net.layers:
        last = first + len(list(layer.leaves())) - 1
        if isinstance(layer, Residual) and first:
            formula, place = behind[first - 1]
            behind[first - 1] = (f"{formula} + d({last} {leaves[last].kind} out)", place)
        first = last + 1
    return behind


def _compare(name: str, by_hand: Tensor, autograd: Tensor) -> part4.Comparison:
    compared = part4.compare(name, by_hand, autograd)
    return compared._replace(close=compared.close or compared.largest <= 1e-5 * compared.size)


def _row(c: part4.Comparison, formula: str, place: str) -> GradientRow:
    return GradientRow(c.name, list(c.shape), c.exact, c.close, c.largest, formula, place, nan=c.nan, size=c.size)
