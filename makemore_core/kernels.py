"""The kernels of `fused.py`, in Triton.

A column of a layer, one unit over the whole batch, needs nothing of the other columns until the next product: product,
BatchNorm, nonlinearity and what flows back through them are one kernel each way, some columns for each program. No
program of a launch reads what another one writes, so nothing has to wait inside of a kernel.

A pointer that is None switches off what it is for. Shapes: `B` batch, `T` block_size, `C` n_embd, `V` vocabulary, `K`
fan_in and `N` fan_out of a layer, `M` fan_out of the one behind it; `contexts` (n, T), `targets` (n,), `batch` (B,).
"""

import triton
import triton.language as tl

DEEP = tl.constexpr(32)  # of fan_in, in one product of tiles
COLS = tl.constexpr(16)  # units for one program: few, so that many programs share the work


@triton.jit
def inputs(x, contexts, batch, rows, ks, B, K, T, C):
    """A tile of what goes into a layer: from the one before (B, K), or, with contexts, from the embedding (V, C)."""
    inside = (rows < B)[:, None] & (ks < K)[None, :]
    if contexts is not None:
        example = tl.load(batch + rows, rows < B, 0)
        token = tl.load(contexts + example[:, None] * T + (ks // C)[None, :], inside, 0)
        return tl.load(x + token * C + (ks % C)[None, :], inside, 0.0)
    return tl.load(x + rows[:, None] * K + ks[None, :], inside, 0.0)


@triton.jit
def flowing_back(dz, weight, rows, cols, offset, B, N, width):
    """dz (B, N) @ weight.T for the columns (offset + cols) of the input, where cols are below `width`."""
    d = tl.zeros((rows.shape[0], COLS), tl.float32)
    for n in range(0, N, DEEP):
        ns = n + tl.arange(0, DEEP)
        left = tl.load(dz + rows[:, None] * N + ns[None, :], (rows < B)[:, None] & (ns < N)[None, :], 0.0)
        inside = (ns < N)[:, None] & (cols < width)[None, :]
        right = tl.load(weight + (offset + cols)[None, :] * N + ns[:, None], inside, 0.0)
        d += tl.dot(left, right, input_precision="ieee")
    return d


@triton.jit
def expm1(x):
    """exp(x) - 1 for x <= 0. Near 0 a difference from 1 would have few digits left: there it is Taylor's series."""
    series = 1.0 / 5040.0
    series = series * x + 1.0 / 720.0
    series = series * x + 1.0 / 120.0
    series = series * x + 1.0 / 24.0
    series = series * x + 1.0 / 6.0
    series = series * x + 1.0 / 2.0
    return tl.where(x > -0.35, (series * x + 1.0) * x, tl.exp(x) - 1.0)


@triton.jit
def act(x, slope, NONLINEARITY: tl.constexpr):
    """The nonlinearity; NaN stays NaN."""
    if NONLINEARITY == "Tanh":
        e = expm1(-2.0 * tl.abs(x))
        return tl.where(x < 0.0, e, -e) / (e + 2.0)
    if NONLINEARITY == "Sigmoid":
        return tl.sigmoid(x)
    if NONLINEARITY == "ReLU":
        return tl.where(x <= 0.0, 0.0, x)
    if NONLINEARITY == "LeakyReLU":
        return tl.where(x <= 0.0, slope * x, x)
    if NONLINEARITY == "ELU":
        return tl.where(x <= 0.0, expm1(x), x)
    return x


@triton.jit
def through_act(d, x, slope, NONLINEARITY: tl.constexpr):
    """d loss / d x from d = d loss / d act(x)."""
    if NONLINEARITY == "Tanh":
        out = act(x, slope, NONLINEARITY)
        return d * (1.0 - out * out)
    if NONLINEARITY == "Sigmoid":
        out = act(x, slope, NONLINEARITY)
        return d * out * (1.0 - out)
    if NONLINEARITY == "ReLU":
        return tl.where(x <= 0.0, 0.0, d)
    if NONLINEARITY == "LeakyReLU":
        return tl.where(x <= 0.0, slope * d, d)
    if NONLINEARITY == "ELU":
        return tl.where(x <= 0.0, tl.exp(x) * d, d)
    return d


@triton.jit
def normalise(
    z, live, at, cols, gamma, beta, running_mean, running_var, xhat, std, B, N, eps, momentum, UNBIASED: tl.constexpr
):  # fmt: skip
    """BatchNorm over the rows of a tile; keeps xhat, std and the running statistics (part 3, `BatchNorm1d`)."""
    own = cols < N
    mean = tl.sum(tl.where(live, z, 0.0), 0) / B
    centred = tl.where(live, z - mean[None, :], 0.0)
    squares = tl.sum(centred * centred, 0)
    variance = squares / (B - 1)
    spread = tl.sqrt((variance if UNBIASED else squares / B) + eps)
    normal = centred / spread[None, :]
    tl.store(std + cols, spread, own)
    tl.store(xhat + at, normal, live)
    kept = 1.0 - momentum
    tl.store(running_mean + cols, kept * tl.load(running_mean + cols, own) + momentum * mean, own)
    tl.store(running_var + cols, kept * tl.load(running_var + cols, own) + momentum * variance, own)
    return tl.load(gamma + cols, own, 0.0)[None, :] * normal + tl.load(beta + cols, own, 0.0)[None, :]


@triton.jit
def through_norm(d, live, at, cols, gamma, xhat, std, dgamma, dbeta, B, N, UNBIASED: tl.constexpr):
    """What `normalise` passes on of d (part 4, exercise 3); the gradients of gamma and beta on the way."""
    own = cols < N
    d = tl.where(live, d, 0.0)
    normal = tl.load(xhat + at, live, 0.0)
    total, along = tl.sum(d, 0), tl.sum(d * normal, 0)
    tl.store(dbeta + cols, total, own)
    tl.store(dgamma + cols, along, own)
    n = B - 1 if UNBIASED else B
    scale = tl.load(gamma + cols, own, 0.0) / tl.load(std + cols, own, 1.0)
    return scale[None, :] * (d - (total / B)[None, :] - normal * (along / n)[None, :])


@triton.jit
def forward(
    x, contexts, batch, weight, bias, gamma, beta, running_mean, running_var, before, xhat, std, out,
    B, K, N, T, C, eps, momentum, slope,
    UNBIASED: tl.constexpr, NORM_FIRST: tl.constexpr, NONLINEARITY: tl.constexpr, RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """The out (B, N) of a block, some columns for each program; `before` is what goes into the nonlinearity."""
    rows, cols = tl.arange(0, ROWS), tl.program_id(0) * COLS + tl.arange(0, COLS)
    live = (rows < B)[:, None] & (cols < N)[None, :]
    at = rows[:, None] * N + cols[None, :]
    z = tl.zeros((ROWS, COLS), tl.float32)
    for k in range(0, K, DEEP):
        ks = k + tl.arange(0, DEEP)
        w = tl.load(weight + ks[:, None] * N + cols[None, :], (ks < K)[:, None] & (cols < N)[None, :], 0.0)
        z += tl.dot(inputs(x, contexts, batch, rows, ks, B, K, T, C), w, input_precision="ieee")
    if bias is not None:
        z += tl.load(bias + cols, cols < N, 0.0)[None, :]
    if gamma is not None and NORM_FIRST:
        z = normalise(
            z, live, at, cols, gamma, beta, running_mean, running_var, xhat, std, B, N, eps, momentum, UNBIASED
        )
    tl.store(before + at, z, live)
    z = act(z, slope, NONLINEARITY)
    if gamma is not None and not NORM_FIRST:
        z = normalise(
            z, live, at, cols, gamma, beta, running_mean, running_var, xhat, std, B, N, eps, momentum, UNBIASED
        )
    if RESIDUAL:
        z += tl.load(x + at, live, 0.0)
    tl.store(out + at, z, live)


@triton.jit
def backward(
    x, contexts, batch, bias, gamma, before, xhat, std, dout, dz, dz_behind, weight_behind, dout_behind,
    dweight, dbias, dgamma, dbeta, B, K, N, M, T, C, slope,
    UNBIASED: tl.constexpr, NORM_FIRST: tl.constexpr, NONLINEARITY: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The gradients of a block's parameters, and those of its out and of its linear layer's, both (B, N).

    `dout` is given for the last block; `dout_behind` (B, N) joins it where a residual connection leads past the next.
    """
    rows, cols = tl.arange(0, ROWS), tl.program_id(0) * COLS + tl.arange(0, COLS)
    live = (rows < B)[:, None] & (cols < N)[None, :]
    at = rows[:, None] * N + cols[None, :]
    if dz_behind is None:
        d = tl.load(dout + at, live, 0.0)
    else:
        d = flowing_back(dz_behind, weight_behind, rows, cols, 0, B, M, N)
        if dout_behind is not None:
            d += tl.load(dout_behind + at, live, 0.0)
        tl.store(dout + at, d, live)
    if gamma is not None and not NORM_FIRST:
        d = through_norm(d, live, at, cols, gamma, xhat, std, dgamma, dbeta, B, N, UNBIASED)
    d = through_act(d, tl.load(before + at, live, 0.0), slope, NONLINEARITY)
    if gamma is not None and NORM_FIRST:
        d = through_norm(d, live, at, cols, gamma, xhat, std, dgamma, dbeta, B, N, UNBIASED)
    d = tl.where(live, d, 0.0)
    tl.store(dz + at, d, live)
    if bias is not None:
        tl.store(dbias + cols, tl.sum(d, 0), cols < N)
    for k in range(0, K, DEEP):
        ks = k + tl.arange(0, DEEP)
        into = tl.trans(inputs(x, contexts, batch, rows, ks, B, K, T, C))
        inside = (ks < K)[:, None] & (cols < N)[None, :]
        tl.store(dweight + ks[:, None] * N + cols[None, :], tl.dot(into, d, input_precision="ieee"), inside)


@triton.jit
def cross_entropy(logits, targets, batch, loss, dlogits, B, V, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """The mean over the batch, and d loss / d logits (part 4, exercise 2); one program."""
    rows, cols = tl.arange(0, ROWS), tl.arange(0, WORDS)
    live = (rows < B)[:, None] & (cols < V)[None, :]
    at = rows[:, None] * V + cols[None, :]
    target = tl.load(targets + tl.load(batch + rows, rows < B, 0), rows < B, 0)
    hit = cols[None, :] == target[:, None]
    row = tl.where((rows < B)[:, None], tl.load(logits + at, live, float("-inf")), 0.0)
    row -= tl.max(row, 1)[:, None]
    total = tl.sum(tl.exp(row), 1)
    losses = tl.log(total) - tl.sum(tl.where(hit, row, 0.0), 1)
    tl.store(loss, tl.sum(tl.where(rows < B, losses, 0.0), 0) / B)
    tl.store(dlogits + at, (tl.exp(row) / total[:, None] - tl.where(hit, 1.0, 0.0)) / B, live)


@triton.jit
def embedding(contexts, batch, dz, weight, dtable, B, T, C, N, V, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """The gradient of the embedding (V, C): for each character, the sum over the places where it stands."""
    rows, cols = tl.arange(0, ROWS), tl.program_id(0) * COLS + tl.arange(0, COLS)
    words = tl.arange(0, WORDS)
    example = tl.load(batch + rows, rows < B, 0)
    total = tl.zeros((WORDS, COLS), tl.float32)
    for t in range(T):
        d = flowing_back(dz, weight, rows, cols, t * C, B, N, C)
        token = tl.load(contexts + example * T + t, rows < B, -1)
        total += tl.dot(tl.where(words[:, None] == token[None, :], 1.0, 0.0), d, input_precision="ieee")
    inside = (words < V)[:, None] & (cols < C)[None, :]
    tl.store(dtable + words[:, None] * C + cols[None, :], total, inside)
