"""The step of the six-layer net under jax's `lax.scan`: a program of its own, since it needs jax and not torch.

Arguments: an .npz file with the training examples, and the shape of the net as JSON. It says its version once it has
compiled, then for every number of steps read from stdin how many seconds they took.
"""
# mypy: ignore-errors

from __future__ import annotations

import itertools
import json
import os
import sys
import time

# One thread, like everybody else in the bench; asked for before jax counts the processors.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np

LENGTH = 500  # steps of one scan


def main() -> None:
    data, shape = np.load(sys.argv[1]), json.loads(sys.argv[2])
    X, Y = jnp.asarray(data["x"]), jnp.asarray(data["y"])
    state = initial(shape)

    @jax.jit
    def scan(state, ix):
        return jax.lax.scan(lambda state, ix: step(state, X[ix], Y[ix]), state, ix)

    rng = np.random.default_rng(0)
    draw = lambda: jnp.asarray(rng.integers(0, len(Y), (LENGTH, shape["batch_size"]), dtype=np.int32))  # noqa: E731
    state, losses = scan(state, draw())
    losses.block_until_ready()
    print(jax.__version__, flush=True)
    for line in sys.stdin:
        calls = -(-int(line) // LENGTH)
        batches = [draw() for _ in range(calls)]
        began = time.perf_counter()
        for ix in batches:
            state, losses = scan(state, ix)
        losses.block_until_ready()
        print((time.perf_counter() - began) * int(line) / (calls * LENGTH), flush=True)


def initial(shape):
    keys = iter(jax.random.split(jax.random.PRNGKey(0), 1000))
    widths = [shape["n_embd"] * shape["block_size"], *[shape["n_hidden"]] * shape["n_layer"], shape["vocabulary"]]
    params = {"C": jax.random.normal(next(keys), (shape["vocabulary"], shape["n_embd"])), "layers": []}
    running = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        layer = {"weight": jax.random.normal(next(keys), (fan_in, fan_out)) / fan_in**0.5}
        if i < shape["n_layer"] or shape["norm_output"]:
            layer |= {"gamma": jnp.ones(fan_out), "beta": jnp.zeros(fan_out)}
            running.append((jnp.zeros(fan_out), jnp.ones(fan_out)))
        else:
            layer["bias"] = jnp.zeros(fan_out)
        params["layers"].append(layer)
    return params, running


def step(state, x, y):
    params, running = state

    def loss_of(params):
        out, statistics = params["C"][x].reshape(x.shape[0], -1), []
        for i, layer in enumerate(params["layers"]):
            out = out @ layer["weight"]
            if "gamma" in layer:
                mean, var = out.mean(0), out.var(0, ddof=1)
                statistics.append((mean, var))
                out = layer["gamma"] * (out - mean) / jnp.sqrt(var + 1e-5) + layer["beta"]
            else:
                out = out + layer["bias"]
            if i < len(params["layers"]) - 1:
                out = jnp.tanh(out)
        logprobs = jax.nn.log_softmax(out)
        return -jnp.take_along_axis(logprobs, y[:, None], 1).mean(), statistics

    (loss, statistics), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    running = [(0.9 * m + 0.1 * a, 0.9 * v + 0.1 * b) for (m, v), (a, b) in zip(running, statistics, strict=True)]
    return (params, running), loss


main()
