"""What a net can be asked to show on top of its snapshots, by name: the answers to the `look` command.

Each exhibit disturbs only copies of the net and draws from generators of its own, so training goes on bit for bit as if
nobody had looked. It comes in parts, and training goes on in between: what it looks at has to be a `copy_of` it.
"""

from __future__ import annotations

from makemore_core import byhand, deadmap, depth, find_lr, normed, weightgrads
from makemore_core.looking import Maker, in_one

EXHIBITS: dict[str, Maker] = {
    "dead-map": deadmap.dead_map,
    "backward": in_one(byhand.backward),
    "batchnorm": normed.batchnorm,
    "gain": depth.gains,
    "find-lr": find_lr.learning_rates,
    "weight-gradients": in_one(weightgrads.weight_gradients),
}
