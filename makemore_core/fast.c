/* The fast engine's kernels: n whole training steps (forward, backward, update) in one call without Python.
 *
 * Layout. Activations lie feature by feature in chunks of LANES examples: value (f, b) of a brick with F features is
 * at [b / LANES][f][b % LANES]. So every brick works on full vectors of examples whatever F is, sums over features
 * need no shuffles, and weights are only ever read one scalar at a time where they are multiplied: no padding, no
 * copies, the torch tensors themselves. Lanes behind the last example hold rubbish; sums over examples mask them.
 *
 * The same inputs give the same bits, however the steps are grouped into calls. NaN and inf propagate; numbers below
 * 1e-38 count as 0, for a processor takes a hundred times as long over them, and a net that dies is full of them.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16 /* floats in a vector register */
#define TILE_ROWS 12
#define GRAD_ROWS 8
#elif defined(__AVX__)
#define VL 8
#define TILE_ROWS 6
#define GRAD_ROWS 4
#else
#define VL 4
#define TILE_ROWS 6
#define GRAD_ROWS 6
#endif
#define LANES 32             /* examples in a chunk */
#define MANY 4               /* chunks from which on it pays to put a weight in order first, and to take more rows */
#define LV (LANES / VL)      /* vectors in a row of a chunk */
#define TILE_VECTORS 2       /* width of a product's register tile */
#define GRAD_VECTORS 3       /* width of a weight gradient's register tile */
#define PANEL (GRAD_VECTORS * VL)
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float vec __attribute__((vector_size(VL * 4)));
typedef float vec_any __attribute__((vector_size(VL * 4), aligned(4))); /* at any address */
typedef int32_t ints __attribute__((vector_size(VL * 4)));
typedef float half __attribute__((vector_size(VL * 2)));
typedef float quarter __attribute__((vector_size(VL)));

enum { LINEAR, BATCHNORM, GROUPNORM, TANH, RELU, LEAKY_RELU, ELU, SIGMOID, IDENTITY, ADD };
enum { SGD, MOMENTUM, RMSPROP, ADAM, ADAMW };

typedef struct {
    float *data, *grad, *before;   /* the parameter; where its gradient goes, and what it was before the update */
    float *first, *second;         /* what the optimizer keeps of it */
    int64_t size;
} Param;

typedef struct {
    int64_t kind, in, out, groups; /* groups: of GROUPNORM (1: layernorm) */
    float eps, momentum, slope;    /* slope: of LEAKY_RELU */
    int32_t unbiased;              /* BATCHNORM divides by B - 1 for normalising too */
    Param weight, bias;            /* of a norm: gamma and beta; data is null where there is none */
    float *running_mean, *running_var;
    float *y, *dy;       /* out and the gradient there, chunks of LANES */
    float *xhat, *rstd;  /* of a norm: the normalised input, 1 / std */
    float *skip;         /* of ADD: what is added to the input */
    float *also;         /* one more gradient that arrives at this brick's input, or null */
} Brick;

typedef struct {
    int64_t kind, t; /* t: updates made before this call */
    double momentum, beta1, beta2, eps, weight_decay;
} Optimizer;

typedef struct {
    int64_t batch, bricks, block_size, n_embd, vocabulary;
    const int64_t *X, *Y; /* examples: (N, block_size) and (N,) */
    Param embedding;      /* (vocabulary, n_embd) */
    float *y, *dy;        /* the concatenated embeddings and the gradient there */
    float *panels;        /* room for the transposed gradient of the widest brick */
    float *rows;          /* room for MANY * GRAD_ROWS rows of the widest weight */
    float *packed;        /* room for the largest weight, where there are MANY chunks */
    Brick *brick;
    Optimizer optimizer;
} Net;

/* ---------------------------------------------------------------- vectors */

#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#define LOAD_ANY(p) (*(const vec_any *)(p))
#define STORE_ANY(p, v) (*(vec_any *)(p) = (v))

INLINE vec all(float x) { return x - (vec){}; }
INLINE vec choose(ints where, vec yes, vec no) { return (vec)((where & (ints)yes) | (~where & (ints)no)); }

#if VL == 16
#define EACH(F, w) F(0, w), F(1, w), F(2, w), F(3, w), F(4, w), F(5, w), F(6, w), F(7, w), \
    F(8, w), F(9, w), F(10, w), F(11, w), F(12, w), F(13, w), F(14, w), F(15, w)
#elif VL == 8
#define EACH(F, w) F(0, w), F(1, w), F(2, w), F(3, w), F(4, w), F(5, w), F(6, w), F(7, w)
#else
#define EACH(F, w) F(0, w), F(1, w), F(2, w), F(3, w)
#endif
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#endif
#define TURN(i, w) ((i) ^ (w))
#define LOW(i, w) ((i) & (w) ? (i) - (w) + VL : (i))
#define HIGH(i, w) ((i) & (w) ? (i) + VL : (i) + (w))

INLINE float sum(vec v) {
#if VL > 8
    v += SHUFFLE(v, v, EACH(TURN, 8));
#endif
#if VL > 4
    v += SHUFFLE(v, v, EACH(TURN, 4));
#endif
    v += SHUFFLE(v, v, EACH(TURN, 2));
    return v[0] + v[1];
}

INLINE vec square_root(vec v) {
    vec r;
    UNROLL for (int i = 0; i < VL; i++) r[i] = __builtin_sqrtf(v[i]);
    return r;
}

/* exp(r) - 1 for |r| <= ln 2 / 2, and the power of two that was taken out (Cody and Waite; Cephes' polynomial). */
INLINE vec reduced_exp(vec x, vec *power) {
    x = choose(x > 89.0f, all(89.0f), x);
    x = choose(x < -104.0f, all(-104.0f), x);
    const vec magic = all(12582912.0f); /* adding 1.5 * 2^23 rounds to a whole number */
    vec n = (x * 1.44269504088896341f + magic) - magic;
    vec r = x - n * 0.693359375f - n * -2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    *power = n;
    return r + r * r * p;
}

INLINE vec times_power_of_two(vec x, vec n) { /* in two halves, so that it may end at inf or in a denormal */
    /* of NaN, which is no whole number, x is NaN too */
    ints whole = __builtin_convertvector(choose(n == n, n, (vec){}), ints), first = whole >> 1;
    return x * (vec)((first + 127) << 23) * (vec)((whole - first + 127) << 23);
}

INLINE vec vexp(vec x) {
    vec n, e = reduced_exp(x, &n);
    return times_power_of_two(e + 1.0f, n);
}

INLINE vec vexpm1(vec x) {
    vec n, e = reduced_exp(x, &n);
    return choose(n == 0.0f, e, times_power_of_two(e + 1.0f, n) - 1.0f);
}

/* A rational approximation, odd / even, as in Eigen and XLA: right to 5 units in the last place, to 7 on a processor
 * that rounds products before it adds them. */
INLINE vec vtanh(vec x) {
    const float limit = 7.90531110763549805f;
    vec c = choose(x > limit, all(limit), x);
    c = choose(c < -limit, all(-limit), c);
    vec s = c * c;
    vec p = all(-2.76076847742355e-16f);
    p = p * s + 2.00018790482477e-13f;
    p = p * s + -8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    vec q = all(1.19825839466702e-06f);
    q = q * s + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return choose(s < 1.6e-7f, x, c * p / q);
}

/* The transpose of VL vectors, in place: swap ever smaller blocks across the diagonal. */
INLINE void transpose(vec v[VL]) {
#define SWAP(w)                                  \
    UNROLL for (int i = 0; i < VL; i++) if (!(i & w)) { \
        vec a = v[i], b = v[i + w];              \
        v[i] = SHUFFLE(a, b, EACH(LOW, w));      \
        v[i + w] = SHUFFLE(a, b, EACH(HIGH, w)); \
    }
#if VL > 8
    SWAP(8)
#endif
#if VL > 4
    SWAP(4)
#endif
    SWAP(2)
    SWAP(1)
}

/* ---------------------------------------------------------------- examples */

/* What a call needs to know about its minibatches. */
typedef struct {
    int64_t size, chunks;
    ints mask[2][LV]; /* of a full chunk, and of the last one: which lanes hold examples */
} Batch;

INLINE vec only_examples(const Batch *b, int64_t chunk, int j, vec v) {
    return (vec)((ints)v & b->mask[chunk == b->chunks - 1][j]);
}

INLINE int64_t examples_in(const Batch *b, int64_t chunk) {
    int64_t left = b->size - chunk * LANES;
    return left < LANES ? left : LANES;
}

/* Feature f of chunk c, of F features. */
#define AT(p, F, c, f) ((p) + ((c) * (F) + (f)) * LANES)
#define EVERY_VECTOR(c, j) for (int64_t c = 0; c < batch->chunks; c++) UNROLL for (int j = 0; j < LV; j++)

/* ---------------------------------------------------------------- products */

/* c (rows, LANES) = a (rows, depth) b (depth, LANES) + bias (rows), in registers. */
INLINE void tile(const int rows, int64_t depth, const float *a, int64_t a_row, int64_t a_depth, const float *b,
                 const float *bias, float *c) {
    for (int lane = 0; lane < LANES; lane += TILE_VECTORS * VL) {
        vec acc[TILE_ROWS][TILE_VECTORS];
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] = all(bias ? bias[i] : 0.0f);
        for (int64_t k = 0; k < depth; k++) {
            vec right[TILE_VECTORS];
            UNROLL for (int j = 0; j < TILE_VECTORS; j++) right[j] = LOAD(b + k * LANES + lane + j * VL);
            UNROLL for (int i = 0; i < rows; i++) {
                vec left = all(a[i * a_row + k * a_depth]);
                UNROLL for (int j = 0; j < TILE_VECTORS; j++) acc[i][j] += left * right[j];
            }
        }
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < TILE_VECTORS; j++) STORE(c + i * LANES + lane + j * VL, acc[i][j]);
    }
}

/* a (rows, depth) in tiles of TILE_ROWS, each depth by depth, as they are read. */
static void pack(int64_t rows, int64_t depth, const float *a, int64_t a_row, int64_t a_depth, float *packed) {
    for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        int64_t left = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
        for (int64_t k = 0; k < depth; k++)
            for (int64_t r = 0; r < left; r++) *packed++ = a[(i + r) * a_row + k * a_depth];
    }
}

/* c (rows, LANES) = a (rows, depth) b (depth, LANES) + bias (rows) for every chunk; a is read through its strides.
 *
 * Of many chunks some at a time, which stay in a cache while all of a goes by, put in order first: at strides that are
 * a power of two the caches hold little of it. */
static void product(const Net *net, const Batch *batch, int64_t rows, int64_t depth, const float *a, int64_t a_row,
                    int64_t a_depth, const float *b, const float *bias, float *c) {
    const int many = batch->chunks >= MANY;
    if (many) pack(rows, depth, a, a_row, a_depth, net->packed);
    for (int64_t first = 0; first < batch->chunks; first += MANY) {
        int64_t last = first + MANY < batch->chunks ? first + MANY : batch->chunks;
        for (int64_t i = 0; i < rows; i += TILE_ROWS) {
            int64_t left = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
            const float *rows_of_a = many ? net->packed + i * depth : a + i * a_row;
            int64_t row = many ? 1 : a_row, step = many ? left : a_depth;
            for (int64_t chunk = first; chunk < last; chunk++) {
                const float *from = AT(b, depth, chunk, 0), *with = bias ? bias + i : 0;
                float *to = AT(c, rows, chunk, i);
#define CASE(n) case n: if (n <= TILE_ROWS) tile(n, depth, rows_of_a, row, step, from, with, to); break;
                switch (left) {
                    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
                }
#undef CASE
            }
        }
    }
}

/* The gradient dy (F features) with one example a row, in panels of PANEL features: [F / PANEL][example][PANEL]. */
static void to_panels(const Batch *batch, int64_t F, const float *dy, float *panels) {
    int64_t examples = batch->chunks * LANES;
    for (int64_t f = 0; f < F; f += VL) {
        float *panel = panels + f / PANEL * examples * PANEL + f % PANEL;
        for (int64_t b = 0; b < examples; b += VL) {
            vec v[VL];
            UNROLL for (int i = 0; i < VL; i++)
                v[i] = f + i < F ? LOAD(AT(dy, F, b / LANES, f + i) + b % LANES) : (vec){};
            transpose(v);
            UNROLL for (int i = 0; i < VL; i++) STORE(panel + (b + i) * PANEL, v[i]);
        }
    }
}

/* gradient (rows, columns) = x (rows, examples) panel (examples, columns), in registers. */
#define GRAD_TILE(name, type, vectors)                                                                            \
    INLINE void name(const Batch *batch, const int rows, int64_t columns, int64_t in, const float *x,             \
                     const float *panel, float *gradient, int64_t stride) {                                       \
        enum { width = sizeof(type) / sizeof(float) };                                                            \
        typedef type anywhere __attribute__((aligned(4)));                                                        \
        type acc[GRAD_ROWS][vectors] = {};                                                                        \
        for (int64_t chunk = 0; chunk < batch->chunks; chunk++) {                                                 \
            const float *left = AT(x, in, chunk, 0), *right = panel + chunk * LANES * PANEL;                      \
            for (int64_t b = 0, n = examples_in(batch, chunk); b < n; b++) {                                      \
                type row[vectors];                                                                                \
                UNROLL for (int j = 0; j < vectors; j++) row[j] = *(const type *)(right + b * PANEL + j * width); \
                UNROLL for (int i = 0; i < rows; i++)                                                             \
                    UNROLL for (int j = 0; j < vectors; j++) acc[i][j] += left[i * LANES + b] * row[j];           \
            }                                                                                                     \
        }                                                                                                         \
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < vectors; j++) {                          \
            float *to = gradient + i * stride + j * width;                                                        \
            if ((j + 1) * width <= columns) *(anywhere *)to = acc[i][j];                                          \
            else memcpy(to, &acc[i][j], (columns - j * width) * sizeof(float));                                   \
        }                                                                                                         \
    }
GRAD_TILE(grad_tile_3, vec, 3)
GRAD_TILE(grad_tile_2, vec, 2)
GRAD_TILE(grad_tile_1, vec, 1)
#if VL > 4
GRAD_TILE(grad_tile_half, half, 1)
#endif
#if VL > 8
GRAD_TILE(grad_tile_quarter, quarter, 1)
#endif

/* gradient (rows, out) = x (rows, examples) dy (examples, out), for some rows of a weight. */
static void weight_gradient(const Batch *batch, int64_t rows, int64_t in, int64_t out, const float *x,
                            const float *panels, float *gradient) {
    for (int64_t f = 0; f < out; f += PANEL) {
        int64_t columns = out - f < PANEL ? out - f : PANEL;
        const float *panel = panels + f * batch->chunks * LANES;
#define TILE(name, n) name(batch, n, columns, in, x + i * LANES, panel, gradient + i * out + f, out)
#if VL > 8
#define NARROW(n)                                           \
    if (columns <= VL / 4) TILE(grad_tile_quarter, n);      \
    else if (columns <= VL / 2) TILE(grad_tile_half, n);    \
    else
#elif VL > 4
#define NARROW(n) if (columns <= VL / 2) TILE(grad_tile_half, n); else
#else
#define NARROW(n)
#endif
#define CASE(n)                                            \
    case n:                                                \
        if (n > GRAD_ROWS) break;                          \
        NARROW(n) if (columns <= VL) TILE(grad_tile_1, n); \
        else if (columns <= 2 * VL) TILE(grad_tile_2, n);  \
        else TILE(grad_tile_3, n);                         \
        break;
        for (int64_t i = 0; i < rows; i += GRAD_ROWS)
            switch (rows - i < GRAD_ROWS ? rows - i : GRAD_ROWS) {
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
            }
#undef CASE
#undef TILE
    }
}

/* ---------------------------------------------------------------- updates */

/* torch.optim's formulas for `size` numbers of a parameter, from number `at` on, whose gradient starts at g. */
static void update(const Optimizer *o, int64_t t, double lr, const Param *param, int64_t at, int64_t size,
                   const float *restrict g) {
    float *restrict p = param->data + at;
    float *restrict m = param->first ? param->first + at : 0, *restrict v = param->second ? param->second + at : 0;
    const float rate = lr, eps = o->eps;
    switch (o->kind) {
        case SGD:
            for (int64_t i = 0; i < size; i++) p[i] += -rate * g[i];
            break;
        case MOMENTUM: {
            const float momentum = o->momentum;
            for (int64_t i = 0; i < size; i++) p[i] += -rate * (m[i] = momentum * m[i] + g[i]);
            break;
        }
        case RMSPROP: {
            const float keep = o->beta2, take = 1 - o->beta2;
            for (int64_t i = 0; i < size; i++) {
                m[i] = keep * m[i] + take * g[i] * g[i];
                p[i] -= rate * g[i] / (sqrtf(m[i]) + eps);
            }
            break;
        }
        case ADAM:
        case ADAMW: {
            const float take1 = 1 - o->beta1, keep2 = o->beta2, take2 = 1 - o->beta2;
            const float decay = o->kind == ADAMW ? 1 - lr * o->weight_decay : 1.0;
            const float step = lr / (1 - pow(o->beta1, t)), root = sqrt(1 - pow(o->beta2, t));
            for (int64_t i = 0; i < size; i++) {
                m[i] += take1 * (g[i] - m[i]);
                v[i] = keep2 * v[i] + take2 * g[i] * g[i];
                p[i] = decay * p[i] - step * m[i] / (sqrtf(v[i]) / root + eps);
            }
        }
    }
}

typedef struct {
    const Optimizer *optimizer;
    int64_t t;
    double lr;
    int watch;
} Step;

static void update_whole(const Step *s, const Param *p) {
    if (!p->data) return;
    if (s->watch) memcpy(p->before, p->data, p->size * sizeof(float));
    update(s->optimizer, s->t, s->lr, p, 0, p->size, p->grad);
}

/* ---------------------------------------------------------------- bricks */

static void linear_backward(const Net *net, const Batch *batch, const Step *s, const Brick *k, const float *x,
                            float *dx) {
    product(net, batch, k->in, k->out, k->weight.data, k->out, 1, k->dy, 0, dx);
    to_panels(batch, k->out, k->dy, net->panels);
    if (s->watch) memcpy(k->weight.before, k->weight.data, k->weight.size * sizeof(float));
    const int64_t most = batch->chunks < MANY ? GRAD_ROWS : MANY * GRAD_ROWS;
    for (int64_t i = 0; i < k->in; i += most) {
        int64_t rows = k->in - i < most ? k->in - i : most;
        float *gradient = s->watch ? k->weight.grad + i * k->out : net->rows;
        weight_gradient(batch, rows, k->in, k->out, x + i * LANES, net->panels, gradient);
        update(s->optimizer, s->t, s->lr, &k->weight, i * k->out, rows * k->out, gradient);
    }
    if (!k->bias.data) return;
    for (int64_t f = 0; f < k->out; f++) {
        vec total = {};
        EVERY_VECTOR(c, j) total += only_examples(batch, c, j, LOAD(AT(k->dy, k->out, c, f) + j * VL));
        k->bias.grad[f] = sum(total);
    }
    update_whole(s, &k->bias);
}

static void batchnorm_forward(const Batch *batch, const Brick *k, const float *x) {
    const float n = batch->size, below = n - 1;
    for (int64_t f = 0; f < k->out; f++) {
        vec total = {}, square = {};
        EVERY_VECTOR(c, j) total += only_examples(batch, c, j, LOAD(AT(x, k->out, c, f) + j * VL));
        const float mean = sum(total) / n;
        EVERY_VECTOR(c, j) {
            vec d = only_examples(batch, c, j, LOAD(AT(x, k->out, c, f) + j * VL) - mean);
            square += d * d;
        }
        const float squares = sum(square), unbiased = squares / below;
        const float rstd = 1.0f / sqrtf((k->unbiased ? unbiased : squares / n) + k->eps);
        const float gamma = k->weight.data[f], beta = k->bias.data[f];
        EVERY_VECTOR(c, j) {
            vec xhat = (LOAD(AT(x, k->out, c, f) + j * VL) - mean) * rstd;
            STORE(AT(k->xhat, k->out, c, f) + j * VL, xhat);
            STORE(AT(k->y, k->out, c, f) + j * VL, gamma * xhat + beta);
        }
        k->rstd[f] = rstd;
        k->running_mean[f] = (1 - k->momentum) * k->running_mean[f] + k->momentum * mean;
        k->running_var[f] = (1 - k->momentum) * k->running_var[f] + k->momentum * unbiased;
    }
}

/* The gradients of gamma and beta, for any norm. */
INLINE void norm_gradients(const Batch *batch, const Brick *k, int64_t f) {
    vec gamma = {}, beta = {};
    EVERY_VECTOR(c, j) {
        vec dy = only_examples(batch, c, j, LOAD(AT(k->dy, k->out, c, f) + j * VL));
        vec xhat = only_examples(batch, c, j, LOAD(AT(k->xhat, k->out, c, f) + j * VL));
        gamma += dy * xhat;
        beta += dy;
    }
    k->weight.grad[f] = sum(gamma);
    k->bias.grad[f] = sum(beta);
}

static void batchnorm_backward(const Batch *batch, const Brick *k, float *dx) {
    const float n = batch->size;
    for (int64_t f = 0; f < k->out; f++) {
        norm_gradients(batch, k, f);
        const float scale = k->weight.data[f] * k->rstd[f], mean = k->bias.grad[f] / n;
        const float slope = k->weight.grad[f] / (k->unbiased ? n - 1 : n);
        EVERY_VECTOR(c, j) {
            vec dy = LOAD(AT(k->dy, k->out, c, f) + j * VL), xhat = LOAD(AT(k->xhat, k->out, c, f) + j * VL);
            STORE(AT(dx, k->out, c, f) + j * VL, scale * (dy - mean - xhat * slope));
        }
    }
}

static void groupnorm_forward(const Batch *batch, const Brick *k, const float *x) {
    const int64_t size = k->out / k->groups;
    for (int64_t g = 0; g < k->groups; g++) EVERY_VECTOR(c, j) {
        const float *in = AT(x, k->out, c, g * size) + j * VL;
        const float *gamma = k->weight.data + g * size, *beta = k->bias.data + g * size;
        vec mean = {}, square = {};
        for (int64_t f = 0; f < size; f++) mean += LOAD(in + f * LANES);
        mean /= (float)size;
        for (int64_t f = 0; f < size; f++) {
            vec d = LOAD(in + f * LANES) - mean;
            square += d * d;
        }
        vec rstd = 1.0f / square_root(square / (float)size + k->eps);
        STORE(AT(k->rstd, k->groups, c, g) + j * VL, rstd);
        for (int64_t f = 0; f < size; f++) {
            vec xhat = (LOAD(in + f * LANES) - mean) * rstd;
            STORE(AT(k->xhat, k->out, c, g * size + f) + j * VL, xhat);
            STORE(AT(k->y, k->out, c, g * size + f) + j * VL, gamma[f] * xhat + beta[f]);
        }
    }
}

static void groupnorm_backward(const Batch *batch, const Brick *k, float *dx) {
    const int64_t size = k->out / k->groups;
    for (int64_t f = 0; f < k->out; f++) norm_gradients(batch, k, f);
    for (int64_t g = 0; g < k->groups; g++) EVERY_VECTOR(c, j) {
        const float *gamma = k->weight.data + g * size;
        const float *dy = AT(k->dy, k->out, c, g * size) + j * VL, *xhat = AT(k->xhat, k->out, c, g * size) + j * VL;
        vec mean = {}, slope = {};
        for (int64_t f = 0; f < size; f++) {
            vec d = gamma[f] * LOAD(dy + f * LANES);
            mean += d;
            slope += d * LOAD(xhat + f * LANES);
        }
        mean /= (float)size;
        slope /= (float)size;
        const vec rstd = LOAD(AT(k->rstd, k->groups, c, g) + j * VL);
        for (int64_t f = 0; f < size; f++) {
            vec d = gamma[f] * LOAD(dy + f * LANES) - mean - LOAD(xhat + f * LANES) * slope;
            STORE(AT(dx, k->out, c, g * size + f) + j * VL, d * rstd);
        }
    }
}

/* y = f(x) and dx = f'(x) dy, a vector at a time; y is at hand in the derivative. */
#define EVERYWHERE for (int64_t i = 0, end = batch->chunks * k->out * LANES; i < end; i += VL)
#define FORWARD(kind, f) case kind: EVERYWHERE { vec v = LOAD(x + i); STORE(k->y + i, f); } break;
#define BACKWARD(kind, f)                                                     \
    case kind: EVERYWHERE {                                                   \
        vec v = LOAD(x + i), y = LOAD(k->y + i), d = LOAD(k->dy + i);         \
        (void)v, (void)y;                                                     \
        STORE(dx + i, f);                                                     \
    } break;

static void forward(const Net *net, const Batch *batch, const Brick *k, const float *x) {
    switch (k->kind) {
        case LINEAR:
            product(net, batch, k->out, k->in, k->weight.data, 1, k->out, x, k->bias.data, k->y);
            break;
        case BATCHNORM: batchnorm_forward(batch, k, x); break;
        case GROUPNORM: groupnorm_forward(batch, k, x); break;
        FORWARD(TANH, vtanh(v))
        FORWARD(RELU, choose(v < 0.0f, (vec){}, v))
        FORWARD(LEAKY_RELU, choose(v > 0.0f, v, v * k->slope))
        FORWARD(ELU, choose(v > 0.0f, v, vexpm1(v)))
        FORWARD(SIGMOID, 1.0f / (1.0f + vexp(-v)))
        FORWARD(IDENTITY, v)
        FORWARD(ADD, v + LOAD(k->skip + i))
    }
}

/* Leaves the gradient at the brick's input in dx, and updates the brick's parameters. */
static void backward(const Net *net, const Batch *batch, const Step *s, const Brick *k, const float *x, float *dx) {
    switch (k->kind) {
        case LINEAR: linear_backward(net, batch, s, k, x, dx); return;
        case BATCHNORM: batchnorm_backward(batch, k, dx); break;
        case GROUPNORM: groupnorm_backward(batch, k, dx); break;
        BACKWARD(TANH, (1.0f - y * y) * d)
        BACKWARD(RELU, choose(v > 0.0f, d, (vec){}))
        BACKWARD(LEAKY_RELU, choose(v > 0.0f, d, d * k->slope))
        BACKWARD(ELU, choose(v > 0.0f, d, d * (y + 1.0f)))
        BACKWARD(SIGMOID, y * (1.0f - y) * d)
        BACKWARD(IDENTITY, d)
        BACKWARD(ADD, d)
    }
    update_whole(s, &k->weight);
    update_whole(s, &k->bias);
}

static void embed(const Net *net, const Batch *batch, const int64_t *examples) {
    const int64_t C = net->n_embd, in = net->block_size * C;
    for (int64_t b = 0; b < batch->size; b++) {
        const int64_t *context = net->X + examples[b] * net->block_size;
        float *to = AT(net->y, in, b / LANES, 0) + b % LANES;
        for (int64_t t = 0; t < net->block_size; t++, to += C * LANES) {
            const float *row = net->embedding.data + context[t] * C;
            for (int64_t c = 0; c < C; c++) to[c * LANES] = row[c];
        }
    }
}

static void embed_backward(const Net *net, const Batch *batch, const Step *s, const int64_t *examples) {
    const int64_t C = net->n_embd, in = net->block_size * C;
    memset(net->embedding.grad, 0, net->embedding.size * sizeof(float));
    for (int64_t b = 0; b < batch->size; b++) {
        const int64_t *context = net->X + examples[b] * net->block_size;
        const float *from = AT(net->dy, in, b / LANES, 0) + b % LANES;
        for (int64_t t = 0; t < net->block_size; t++, from += C * LANES) {
            float *row = net->embedding.grad + context[t] * C;
            for (int64_t c = 0; c < C; c++) row[c] += from[c * LANES];
        }
    }
    update_whole(s, &net->embedding);
}

/* The mean loss, and its gradient at the logits (V features). */
static float cross_entropy(const Net *net, const Batch *batch, const int64_t *examples, int64_t V, const float *logits,
                           float *gradient) {
    const float n = batch->size;
    double loss = 0.0;
    for (int64_t c = 0; c < batch->chunks; c++) {
        float log_counts[LANES];
        UNROLL for (int j = 0; j < LV; j++) {
            const float *in = AT(logits, V, c, 0) + j * VL;
            float *out = AT(gradient, V, c, 0) + j * VL;
            vec most = LOAD(in), total = {};
            for (int64_t v = 1; v < V; v++) {
                vec x = LOAD(in + v * LANES);
                most = choose(x > most, x, most);
            }
            for (int64_t v = 0; v < V; v++) {
                vec e = vexp(LOAD(in + v * LANES) - most);
                STORE(out + v * LANES, e);
                total += e;
            }
            const vec scale = only_examples(batch, c, j, 1.0f / (total * n));
            for (int64_t v = 0; v < V; v++) STORE(out + v * LANES, LOAD(out + v * LANES) * scale);
            UNROLL for (int i = 0; i < VL; i++) log_counts[j * VL + i] = most[i] + logf(total[i]);
        }
        for (int64_t b = 0, end = examples_in(batch, c); b < end; b++) {
            int64_t target = net->Y[examples[c * LANES + b]];
            loss += log_counts[b] - AT(logits, V, c, target)[b];
            AT(gradient, V, c, target)[b] -= 1.0f / n;
        }
    }
    return loss / n;
}

/* ---------------------------------------------------------------- steps */

static float one_step(const Net *net, const Batch *batch, const Step *s, const int64_t *examples) {
    embed(net, batch, examples);
    const float *x = net->y;
    for (Brick *k = net->brick; k < net->brick + net->bricks; x = k->y, k++) forward(net, batch, k, x);
    const Brick *last = net->brick + net->bricks - 1;
    float loss = cross_entropy(net, batch, examples, last->out, last->y, last->dy);
    for (int64_t n = net->bricks; n > 0; n--) {
        const Brick *k = &net->brick[n - 1], *below = n > 1 ? k - 1 : 0;
        float *dx = below ? below->dy : net->dy;
        backward(net, batch, s, k, below ? below->y : net->y, dx);
        for (int64_t i = 0, end = k->also ? batch->chunks * k->in * LANES : 0; i < end; i += VL)
            STORE(dx + i, LOAD(dx + i) + LOAD(k->also + i));
    }
    embed_backward(net, batch, s, examples);
    return loss;
}

/* The examples are drawn from all over memory: ask for the next ones while these are computed. */
static void prefetch(const Net *net, const int64_t *examples) {
    for (int64_t b = 0; b < net->batch; b++) {
        __builtin_prefetch(net->X + examples[b] * net->block_size);
        __builtin_prefetch(net->Y + examples[b]);
    }
}

/* On x86, have numbers below 1e-38 count as 0 from here on; gives what `restore` takes. Others are not slowed by them. */
static unsigned flush(void) {
#ifdef __x86_64__
    unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | 0x8040); /* results (FTZ) and operands (DAZ) */
    return before;
#else
    return 0;
#endif
}

static void restore(unsigned before) {
#ifdef __x86_64__
    __builtin_ia32_ldmxcsr(before);
#else
    (void)before;
#endif
}

/* n updates, in place; row i of `examples` (n, batch) is minibatch i. With `watch` the last one leaves the gradients
 * of all parameters in `grad` and what they were before in `before`. */
void makemore_advance(const Net *net, int64_t n, const int64_t *examples, const double *lrs, int watch, float *losses) {
    unsigned before = flush();
    Batch batch = {net->batch, (net->batch + LANES - 1) / LANES, {}};
    for (int i = 0; i < LANES; i++) {
        batch.mask[0][i / VL][i % VL] = -1;
        batch.mask[1][i / VL][i % VL] = (batch.chunks - 1) * LANES + i < batch.size ? -1 : 0;
    }
    for (int64_t i = 0; i < n; i++) {
        if (i + 1 < n) prefetch(net, examples + (i + 1) * net->batch);
        Step step = {&net->optimizer, net->optimizer.t + i + 1, lrs[i], watch && i == n - 1};
        losses[i] = one_step(net, &batch, &step, examples + i * net->batch);
    }
    restore(before);
}
