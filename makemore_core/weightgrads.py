"""How the gradient of each weight is spread (part 3, "weights gradient distribution"): histograms on one scale."""

from __future__ import annotations

import torch

from makemore_core.answers import WeightGradients
from makemore_core.diagnostics import moments, reach
from makemore_core.engine import gradient_of
from makemore_core.looking import Options, present_batch, train_pass
from makemore_core.snapshot import BINS
from makemore_core.trainer import Trainer


def weight_gradients(trainer: Trainer, _: Options) -> WeightGradients:
    """The gradient of the embedding and of each linear weight on the present minibatch, in equal bins (part 3).

    They reach to 3 standard deviations of the median weight; what lies outside is counted in the first and the last
    bin, NaN nowhere.
    """
    net = trainer.model.clone()
    train_pass(net, *present_batch(trainer))
    gradients = {name: gradient_of(tensor) for name, tensor in net.named_tensors() if tensor.dim() == 2}
    high = float(reach(torch.stack([moments(gradient.flatten())[1] for gradient in gradients.values()]), 3.0))
    return WeightGradients(
        reach=high,
        counts={
            name: [int(n) for n in gradient.clamp(-high, high).histc(BINS, -high, high).tolist()]
            for name, gradient in gradients.items()
        },
    )
