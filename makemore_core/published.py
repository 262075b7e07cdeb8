"""What the lectures published, once, as data: read from the notebooks of "Building makemore", parts 3 and 4.

The numbers hold for the lectures' file of 32,033 names; other data gives other losses.
"""

from __future__ import annotations

from typing import NamedTuple

SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"


class Stage(NamedTuple):
    """One line of the loss log (part 3): losses after 200,000 steps.

    `first_within` is how far a first loss may lie from one that was published in round figures.
    """

    preset: str
    first: float
    first_within: float
    train: float
    val: float


LOSS_LOG: tuple[Stage, ...] = (
    Stage("mlp-original", 27.0, 3.0, 2.1245, 2.1682),
    Stage("mlp-softmax", 3.3, 0.05, 2.07, 2.13),
    Stage("mlp-tanh", 3.3, 0.05, 2.0356, 2.1027),
    Stage("mlp-kaiming", 3.3, 0.05, 2.0377, 2.1070),
    Stage("mlp-batchnorm", 3.3239, 0.0001, 2.0668, 2.1048),
)


class DeepLayer(NamedTuple):
    """A tanh layer of the six-layer net after 1,001 updates (part 3): of the last minibatch."""

    row: int
    mean: float
    std: float
    saturated: float
    gradient_std: float


class DeepWeight(NamedTuple):
    """A weight of the same net at the same step."""

    shape: tuple[int, int]
    grad_std: float
    grad_data_ratio: float


DEEP_PARAMS = 47_024
DEEP_FIRST_LOSS = 3.2870
DEEP_STEPS = 1_001
DEEP_LAYERS: tuple[DeepLayer, ...] = (
    DeepLayer(2, -0.00, 0.63, 0.0278, 2.640702e-03),
    DeepLayer(5, +0.00, 0.64, 0.0256, 2.245584e-03),
    DeepLayer(8, -0.00, 0.65, 0.0225, 2.045742e-03),
    DeepLayer(11, +0.00, 0.65, 0.0169, 1.983134e-03),
    DeepLayer(14, +0.00, 0.65, 0.0188, 1.952382e-03),
)
DEEP_WEIGHTS: tuple[DeepWeight, ...] = (
    DeepWeight((27, 10), 8.020534e-03, 8.012630e-03),
    DeepWeight((30, 100), 9.241077e-03, 4.881091e-02),
    DeepWeight((100, 100), 7.132879e-03, 6.964619e-02),
    DeepWeight((100, 100), 6.234305e-03, 6.073741e-02),
    DeepWeight((100, 100), 5.742187e-03, 5.631483e-02),
    DeepWeight((100, 100), 5.672205e-03, 5.570125e-02),
    DeepWeight((100, 27), 1.209416e-02, 1.160106e-01),
)


class Seen(NamedTuple):
    """What an experiment of part 3 shows, in words, and what is measured otherwise here, with the reason."""

    preset: str
    words: str
    otherwise: str = ""


EXPERIMENTS: tuple[Seen, ...] = (
    Seen("deep-tanh", "std settles near 0.65, saturation near 5 %; the first layer near 20 %"),
    Seen("deep-tanh-gain1", "std and saturation shrink layer by layer"),
    Seen("deep-tanh-gain3", "far too saturated"),
    Seen(
        "deep-tanh-gain05",
        "activations shrink, gradients spread out towards the first layer",
        "gradients shrink towards the first layer: every layer multiplies by 0.5 on the way back too",
    ),
    Seen(
        "deep-linear",
        "activations grow with depth, gradients shrink towards the input",
        "gradients grow towards the input: every layer multiplies by 5/3 on the way back too",
    ),
    Seen("deep-linear-gain1", "forward and backward both keep their spread"),
    Seen("deep-no-fanin", "saturated everywhere, ratios up to -1 or -1.5 and uneven"),
    Seen("deep-slow", "ratios near -4 and under: training too slowly"),
    Seen("deep-batchnorm", "std 0.65, about 2 % saturated, equal through the depth"),
    Seen("deep-batchnorm-gain02", "activations unchanged, the update ratios move"),
    Seen("deep-batchnorm-no-fanin", "well behaved, ratios well under -3"),
    Seen("deep-batchnorm-no-fanin-lr1", "lr 1.0 brings the ratios back"),
)


class Depth(NamedTuple):
    """Fifty tanh layers at initialisation: std and saturation of the last layers for a gain."""

    gain: float
    std: float
    saturated: float


FIFTY_LAYERS: tuple[Depth, ...] = (Depth(1.0, 0.10, 0.00), Depth(5 / 3, 0.65, 0.05), Depth(3.0, 0.84, 0.40))


class Part4(NamedTuple):
    """Part 4: the small net of the exercises, and the losses after 200,000 steps by hand with 200 hidden units."""

    params: int
    first_loss: float
    cross_entropy_difference: float
    batchnorm_difference: float
    train: float
    val: float


PART_4 = Part4(4_137, 3.3377, 5e-9, 9e-10, 2.0705, 2.1099)
