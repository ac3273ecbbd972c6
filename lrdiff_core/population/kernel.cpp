/* Trains LANES members of a population side by side, one member a vector lane, whole trainings in one call.
 *
 * native.py puts the shape of the network before this text as macros and constants:
 *   REAL; DEPTH; SIZES[DEPTH + 1]; ACTIVATION[DEPTH], HAS_BIAS[DEPTH], GAIN[DEPTH]; LOSS
 * so that every loop over units has a length the compiler knows, and one network is one library.
 *
 * Layout in the working set: [parameter][lane]. A weight is one vector, an input is one broadcast number (all members
 * of the block see the same row) or one vector (each its own row). Nothing ever crosses lanes, so neither the
 * neighbours nor the number of members nor the threads change a bit of a member's result.
 *
 * Rows are taken ROWS at a time: a weight that is loaded once serves ROWS products, and the sums of UNITS x ROWS
 * outputs stay in registers. Forward, backward and the sum of gradients are done before the next rows are touched, so
 * activations need ROWS vectors a unit and the whole working set of a small network lies in the first-level cache.
 */
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, REGISTERS = 32;
#else
constexpr int VECTOR_BYTES = 16, REGISTERS = 16;
#endif
constexpr int LANES = VECTOR_BYTES / int(sizeof(REAL));
constexpr int ROWS = REGISTERS == 32 ? 4 : 2;
constexpr int UNITS = REGISTERS == 32 ? 5 : 4; /* UNITS * ROWS sums + ROWS inputs + 1 weight fit the registers */

enum { IDENTITY, RELU, TANH, SIGMOID, SILU, GELU };
enum { BINARY, MULTICLASS, REGRESSION };
enum { SGD, ADAM, ADAMW, RMSPROP };

typedef std::conditional_t<sizeof(REAL) == 4, int32_t, int64_t> Whole;
typedef REAL V __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef Whole Mask __attribute__((vector_size(VECTOR_BYTES), may_alias));

/* What one call works on. Everything that is there once a member is [members, ...]. */
struct Job {
    int64_t rows, held_rows, second_rows, steps, batch, evaluations, optimizer, nesterov, groups;
    const int64_t *evaluate_after;  /* [evaluations] steps done, rising */
    const int64_t *group;           /* [2 * DEPTH] rate group of each weight and bias */
    const double *factor;           /* [steps] schedule */
    const double *rate, *decay, *beta1, *beta2, *eps; /* [members, groups]; SGD: beta1 is the momentum; RMSprop: and beta2 is alpha */
    const REAL *const *inputs, *const *targets, *const *held_inputs, *const *held_targets; /* [members] -> [rows, ...] */
    const REAL *const *second_inputs, *const *second_targets;
    const int32_t *const *order;    /* [members] -> rows in the order of training, one epoch after the other */
    const REAL *class_weight;       /* [classes] of a row's loss; read where WEIGHTED */
    REAL *weights;                  /* [members, PARAMETERS] first and then last weights */
    REAL *step_loss;                /* [members, steps] or null */
    double *loss, *score, *held_loss, *held_score, *second_loss, *second_score; /* [members, evaluations] */
    int64_t *diverged;              /* [members] updates done before the loss was not finite, or -1 */
};

constexpr int in_of(int layer) { return SIZES[layer]; }
constexpr int out_of(int layer) { return SIZES[layer + 1]; }
constexpr int weight_at(int layer) {
    int at = 0;
    for (int l = 0; l < layer; l++) at += out_of(l) * (in_of(l) + (HAS_BIAS[l] ? 1 : 0));
    return at;
}
constexpr int bias_at(int layer) { return weight_at(layer) + out_of(layer) * in_of(layer); }
constexpr int PARAMETERS = weight_at(DEPTH);
constexpr int FEATURES = SIZES[0], OUTPUTS = SIZES[DEPTH];
constexpr int TARGET_WIDTH = LOSS == MULTICLASS ? 1 : OUTPUTS;
constexpr int unit_at(int layer) { /* first vector of a layer's outputs in the activation buffer */
    int at = 0;
    for (int l = 0; l < layer; l++) at += out_of(l) * ROWS;
    return at;
}
constexpr int BUFFER = unit_at(DEPTH);
constexpr bool keeps_input(int kind) { return kind == SILU || kind == GELU; } /* derivative needs what went in */

static inline V all(REAL x) { return x - V{}; }
static inline V load(const REAL *p) { V v; std::memcpy(&v, p, sizeof v); return v; }

static inline V root(V x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(REAL) == 4) return (V)_mm512_sqrt_ps((__m512)x);
    else return (V)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX__)
    if constexpr (sizeof(REAL) == 4) return (V)_mm256_sqrt_ps((__m256)x);
    else return (V)_mm256_sqrt_pd((__m256d)x);
#else
    for (int l = 0; l < LANES; l++) x[l] = std::sqrt(x[l]);
    return x;
#endif
}

template <class F> static inline V by_lane(V x, F f) {
    for (int l = 0; l < LANES; l++) x[l] = f(x[l]);
    return x;
}

/* float: argument reduction and Taylor series, within 2 units in the last place; double: the C library, lane by lane. */
struct Parts { V power, rest; }; /* exp(x) = power * (1 + rest) */
static inline Parts reduce(V x) {
    x = x < all(-87) ? all(-87) : x; /* a NaN passes both comparisons */
    x = x > all(88) ? all(88) : x;
    const V shift = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to whole numbers */
    const V n = (x * all(1.44269504f) + shift) - shift;
    const V r = (x - n * all(0.693359375f)) - n * all(-2.12194440e-4f); /* ln 2 in two parts */
    V p = all(1 / 5040.0f);
    p = p * r + all(1 / 720.0f);
    p = p * r + all(1 / 120.0f);
    p = p * r + all(1 / 24.0f);
    p = p * r + all(1 / 6.0f);
    p = p * r + all(0.5f);
    p = p * (r * r) + r;
    const V safe = n == n ? n : V{};
    const Mask bits = (__builtin_convertvector(safe, Mask) + Whole(127)) << Whole(23);
    return {(V)bits, p};
}
static inline V vexp(V x) {
    if constexpr (sizeof(REAL) == 8) return by_lane(x, [](REAL y) { return std::exp(y); });
    const Parts e = reduce(x);
    return e.power * e.rest + e.power;
}
static inline V vexpm1(V x) {
    if constexpr (sizeof(REAL) == 8) return by_lane(x, [](REAL y) { return std::expm1(y); });
    const Parts e = reduce(x);
    return e.power * e.rest + (e.power - all(1));
}
static inline V vlog1p(V x) { /* of x in [0, 1], or of x >= 0 where x + 1 is exact enough */
    if constexpr (sizeof(REAL) == 8) return by_lane(x, [](REAL y) { return std::log1p(y); });
    /* log(1 + x) = 2 atanh(x / (2 + x)); for x in [0, 1] the argument is at most 1/3 */
    const V s = x / (x + all(2)), q = s * s;
    V p = all(2 / 15.0f);
    p = p * q + all(2 / 13.0f);
    p = p * q + all(2 / 11.0f);
    p = p * q + all(2 / 9.0f);
    p = p * q + all(2 / 7.0f);
    p = p * q + all(2 / 5.0f);
    p = p * q + all(2 / 3.0f);
    return p * q * s + all(2) * s;
}
static inline V vabs(V x) { return x < V{} ? -x : x; }
static inline V vsigmoid(V x) { return all(1) / (all(1) + vexp(-x)); }
static inline V vtanh(V x) {
    const V e = vexpm1(all(-2) * vabs(x)), t = -e / (all(2) + e);
    return x < V{} ? -t : t;
}
static inline V verf(V x) { return by_lane(x, [](REAL y) { return std::erf(y); }); }
static inline V gaussian(V x) { return vexp(all(-0.5f) * x * x) * all(REAL(0.3989422804014327)); }

template <int KIND> static inline V activate(V x) {
    if constexpr (KIND == RELU) return x > V{} ? x : (x == x ? V{} : x); /* a NaN stays one */
    if constexpr (KIND == TANH) return vtanh(x);
    if constexpr (KIND == SIGMOID) return vsigmoid(x);
    if constexpr (KIND == SILU) return x * vsigmoid(x);
    if constexpr (KIND == GELU) return all(0.5f) * x * (all(1) + verf(x * all(REAL(0.7071067811865476))));
    return x;
}
/* d activate / dx from its result `a`, or from its argument `x` where keeps_input. */
template <int KIND> static inline V slope(V a, V x, V d) {
    if constexpr (KIND == RELU) return a > V{} ? d : V{};
    if constexpr (KIND == TANH) return d * (all(1) - a * a);
    if constexpr (KIND == SIGMOID) return d * (a * (all(1) - a));
    if constexpr (KIND == SILU) { const V s = vsigmoid(x); return d * (s * (all(1) + x * (all(1) - s))); }
    if constexpr (KIND == GELU)
        return d * (all(0.5f) * (all(1) + verf(x * all(REAL(0.7071067811865476)))) + x * gaussian(x));
    return d;
}

/* Rows of a batch as the first layer reads them: the same number for all lanes, or a vector gathered lane by lane. */
template <bool SHARED> struct Rows {
    const REAL *row[ROWS];
    V gathered[SHARED ? 1 : ROWS * FEATURES];
    V target[TARGET_WIDTH * ROWS];
    V at(int i, int r) const { return SHARED ? all(row[r][i]) : gathered[i * ROWS + r]; }
};

struct Sums { /* over the rows of a batch or of a split */
    V loss, hits;
    V worst; /* what is not finite whenever the loss is not */
};

struct alignas(64) Block { /* the working set */
    const REAL *class_weight;
    V weight[PARAMETERS], grad[PARAMETERS], first[PARAMETERS], second[PARAMETERS];
    V out[BUFFER], pre[BUFFER], delta[BUFFER];
};

#define EACH(name, limit) _Pragma("GCC unroll 8") for (int name = 0; name < (limit); name++)

template <int LAYER, int J, int R, bool SHARED>
static inline void forward_units(Block &b, const Rows<SHARED> &x, int j0) {
    constexpr int in = in_of(LAYER);
    const V *w = b.weight + weight_at(LAYER) + j0 * in;
    const V *below = b.out + unit_at(LAYER > 0 ? LAYER - 1 : 0);
    V sum[J][R];
    EACH(j, J) EACH(r, R) sum[j][r] = HAS_BIAS[LAYER] ? b.weight[bias_at(LAYER) + j0 + j] : V{};
    for (int i = 0; i < in; i++) {
        V xi[R];
        EACH(r, R) xi[r] = LAYER == 0 ? x.at(i, r) : below[i * ROWS + r];
        EACH(j, J) {
            const V wj = w[j * in + i];
            EACH(r, R) sum[j][r] += wj * xi[r];
        }
    }
    V *out = b.out + unit_at(LAYER) + j0 * ROWS, *pre = b.pre + unit_at(LAYER) + j0 * ROWS;
    EACH(j, J) EACH(r, R) {
        const V z = GAIN[LAYER] == 1 ? sum[j][r] : sum[j][r] * all(REAL(GAIN[LAYER]));
        if (keeps_input(ACTIVATION[LAYER])) pre[j * ROWS + r] = z;
        out[j * ROWS + r] = activate<ACTIVATION[LAYER]>(z);
    }
}

template <int LAYER, int R, bool SHARED> static inline void forward(Block &b, const Rows<SHARED> &x) {
    constexpr int out = out_of(LAYER), left = out % UNITS;
    for (int j0 = 0; j0 + UNITS <= out; j0 += UNITS) forward_units<LAYER, UNITS, R>(b, x, j0);
    if constexpr (left > 0) forward_units<LAYER, left, R>(b, x, out - left);
    if constexpr (LAYER + 1 < DEPTH) forward<LAYER + 1, R>(b, x);
}

template <int LAYER, int J, int R, bool SHARED>
static inline void gradient_units(Block &b, const Rows<SHARED> &x, int j0) {
    constexpr int in = in_of(LAYER);
    V *g = b.grad + weight_at(LAYER) + j0 * in;
    const V *below = b.out + unit_at(LAYER > 0 ? LAYER - 1 : 0), *delta = b.delta + unit_at(LAYER) + j0 * ROWS;
    V d[J][R];
    EACH(j, J) EACH(r, R) d[j][r] = delta[j * ROWS + r];
    for (int i = 0; i < in; i++) {
        V xi[R];
        EACH(r, R) xi[r] = LAYER == 0 ? x.at(i, r) : below[i * ROWS + r];
        EACH(j, J) {
            V sum = g[j * in + i];
            EACH(r, R) sum += d[j][r] * xi[r];
            g[j * in + i] = sum;
        }
    }
    if (HAS_BIAS[LAYER]) EACH(j, J) {
        V sum = b.grad[bias_at(LAYER) + j0 + j];
        EACH(r, R) sum += d[j][r];
        b.grad[bias_at(LAYER) + j0 + j] = sum;
    }
}

template <int LAYER, int I, int R> static inline void backward_units(Block &b, int i0) {
    constexpr int in = in_of(LAYER), out = out_of(LAYER), below = LAYER - 1;
    const V *w = b.weight + weight_at(LAYER) + i0, *delta = b.delta + unit_at(LAYER);
    V sum[I][R];
    EACH(i, I) EACH(r, R) sum[i][r] = V{};
    for (int j = 0; j < out; j++) {
        V dj[R];
        EACH(r, R) dj[r] = delta[j * ROWS + r];
        EACH(i, I) {
            const V wi = w[j * in + i];
            EACH(r, R) sum[i][r] += wi * dj[r];
        }
    }
    const int at = unit_at(below) + i0 * ROWS;
    EACH(i, I) EACH(r, R) {
        const V d = slope<ACTIVATION[below]>(b.out[at + i * ROWS + r], b.pre[at + i * ROWS + r], sum[i][r]);
        b.delta[at + i * ROWS + r] = GAIN[below] == 1 ? d : d * all(REAL(GAIN[below]));
    }
}

template <int LAYER, int R, bool SHARED> static inline void backward(Block &b, const Rows<SHARED> &x) {
    constexpr int out = out_of(LAYER), in = in_of(LAYER), left = out % UNITS, left_in = in % UNITS;
    for (int j0 = 0; j0 + UNITS <= out; j0 += UNITS) gradient_units<LAYER, UNITS, R>(b, x, j0);
    if constexpr (left > 0) gradient_units<LAYER, left, R>(b, x, out - left);
    if constexpr (LAYER > 0) {
        for (int i0 = 0; i0 + UNITS <= in; i0 += UNITS) backward_units<LAYER, UNITS, R>(b, i0);
        if constexpr (left_in > 0) backward_units<LAYER, left_in, R>(b, in - left_in);
        backward<LAYER - 1, R>(b, x);
    }
}

/* Loss of R rows into `sums`, its gradient (times `scale`) into the last layer's delta. */
template <int R, bool TRAIN, bool SHARED>
static inline void judge(Block &b, const Rows<SHARED> &x, Sums &sums, V scale, bool exact) {
    constexpr int last = DEPTH - 1;
    const V gain = all(REAL(GAIN[last]));
    V *z = b.out + unit_at(last), *delta = b.delta + unit_at(last), *pre = b.pre + unit_at(last);
    for (int r = 0; r < R; r++) {
        if constexpr (LOSS == MULTICLASS) {
            V top = z[r], best = V{}, total = V{}, chosen = V{};
            for (int k = 1; k < OUTPUTS; k++) {
                const V zk = z[k * ROWS + r];
                best = zk > top ? all(REAL(k)) : best;
                top = zk > top ? zk : top;
            }
            V raised[OUTPUTS];
            for (int k = 0; k < OUTPUTS; k++) {
                raised[k] = vexp(z[k * ROWS + r] - top);
                total += raised[k];
                chosen = x.target[r] == all(REAL(k)) ? z[k * ROWS + r] : chosen;
            }
            /* total lies in [1, OUTPUTS] */
            const V log_total = by_lane(total, [](REAL y) { return std::log(y); });
            V heavy = all(1);
            if constexpr (WEIGHTED)
                for (int k = 0; k < OUTPUTS; k++) heavy = x.target[r] == all(REAL(k)) ? all(b.class_weight[k]) : heavy;
            const V loss = WEIGHTED ? heavy * (log_total + (top - chosen)) : log_total + (top - chosen);
            sums.loss += loss;
            sums.worst += loss;
            sums.hits += best == x.target[r] ? all(1) : V{};
            if (TRAIN) for (int k = 0; k < OUTPUTS; k++) {
                const V p = raised[k] / total - (x.target[r] == all(REAL(k)) ? all(1) : V{});
                delta[k * ROWS + r] = slope<ACTIVATION[last]>(z[k * ROWS + r], pre[k * ROWS + r], WEIGHTED ? heavy * p * scale : p * scale) * gain;
            }
            continue;
        }
        for (int k = 0; k < TARGET_WIDTH; k++) {
            const V zk = z[k * ROWS + r], y = x.target[k * ROWS + r];
            V d;
            if constexpr (LOSS == BINARY) {
                const V cheap = (zk > V{} ? zk : (zk == zk ? V{} : zk)) - zk * y;
                sums.worst += cheap;
                V heavy = all(1);
                if constexpr (WEIGHTED) heavy = y > all(REAL(0.5)) ? all(b.class_weight[1]) : all(b.class_weight[0]);
                if (exact) sums.loss += WEIGHTED ? heavy * (cheap + vlog1p(vexp(-vabs(zk)))) : cheap + vlog1p(vexp(-vabs(zk)));
                if (!TRAIN) sums.hits += (zk > V{}) == (y > all(0.5f)) ? all(1) : V{};
                d = WEIGHTED ? heavy * (vsigmoid(zk) - y) : vsigmoid(zk) - y;
            } else {
                const V e = zk - y;
                sums.loss += e * e;
                sums.worst += e * e;
                d = e + e;
            }
            if (TRAIN) delta[k * ROWS + r] = slope<ACTIVATION[last]>(zk, pre[k * ROWS + r], d * scale) * gain;
        }
    }
}

template <bool SHARED> struct Members { /* the block's rows */
    const REAL *const *inputs, *const *targets;
    const int32_t *const *order; /* null: rows as they stand */
    int64_t from;                /* where in the order */

    template <int R> inline void take(Rows<SHARED> &x, int64_t at) const {
        for (int r = 0; r < R; r++) {
            if constexpr (SHARED) {
                const int64_t row = order ? order[0][from + at + r] : at + r;
                x.row[r] = inputs[0] + row * FEATURES;
                for (int k = 0; k < TARGET_WIDTH; k++) x.target[k * ROWS + r] = all(targets[0][row * TARGET_WIDTH + k]);
            } else {
                for (int l = 0; l < LANES; l++) {
                    const int64_t row = order ? order[l][from + at + r] : at + r;
                    for (int i = 0; i < FEATURES; i++) x.gathered[i * ROWS + r][l] = inputs[l][row * FEATURES + i];
                    for (int k = 0; k < TARGET_WIDTH; k++)
                        x.target[k * ROWS + r][l] = targets[l][row * TARGET_WIDTH + k];
                }
            }
        }
    }
};

template <int R, bool TRAIN, bool SHARED>
static inline void some_rows(Block &b, const Members<SHARED> &rows, int64_t at, Sums &sums, V scale, bool exact) {
    Rows<SHARED> x;
    rows.template take<R>(x, at);
    forward<0, R>(b, x);
    judge<R, TRAIN>(b, x, sums, scale, exact);
    if constexpr (TRAIN) backward<DEPTH - 1, R>(b, x);
}

/* Sums over `count` rows; long sums are carried in double, so that their length does not cost accuracy. */
template <bool TRAIN, bool SHARED>
static void sweep(Block &b, const Members<SHARED> &rows, int64_t count, V scale, bool exact, double *loss, double *hits, V &worst) {
    constexpr int64_t CHUNK = 64;
    worst = V{};
    for (int l = 0; l < LANES; l++) loss[l] = hits[l] = 0;
    for (int64_t start = 0; start < count; start += CHUNK) {
        const int64_t end = start + CHUNK < count ? start + CHUNK : count;
        Sums sums = {};
        int64_t at = start;
        for (; at + ROWS <= end; at += ROWS) some_rows<ROWS, TRAIN>(b, rows, at, sums, scale, exact);
        if (ROWS == 4 && at + 2 <= end) some_rows<2, TRAIN>(b, rows, at, sums, scale, exact), at += 2;
        if (at < end) some_rows<1, TRAIN>(b, rows, at, sums, scale, exact);
        worst += sums.worst;
        if (exact) for (int l = 0; l < LANES; l++) loss[l] += sums.loss[l], hits[l] += sums.hits[l];
    }
}

struct Scalars { V rate, decay, beta1, rest1, beta2, rest2, eps, root; };

/* The rules of lrdiff_core.optim, one vector a parameter. Lanes outside `alive` keep their weights. */
static void update(Block &b, const Job &job, const Scalars *groups, Mask alive) {
    auto span = [&](int from, int to, const Scalars &s) {
        for (int i = from; i < to; i++) {
            const V p = b.weight[i];
            V g = b.grad[i], next;
            if (job.optimizer == SGD) {
                g = p * s.decay + g;
                const V kept = b.first[i] * s.beta1 + g;
                b.first[i] = kept;
                next = p - s.rate * (job.nesterov ? g + s.beta1 * kept : kept);
            } else if (job.optimizer == RMSPROP) {
                g = p * s.decay + g;
                const V v = b.second[i] * s.beta2 + s.rest2 * g * g;
                const V kept = b.first[i] * s.beta1 + g / (root(v) + s.eps);
                b.first[i] = kept;
                b.second[i] = v;
                next = p - s.rate * kept;
            } else {
                if (job.optimizer == ADAM) g = p * s.decay + g;
                const V m = b.first[i] * s.beta1 + s.rest1 * g, v = b.second[i] * s.beta2 + s.rest2 * g * g;
                b.first[i] = m;
                b.second[i] = v;
                const V shrunk = job.optimizer == ADAMW ? p * s.decay : p;
                next = shrunk - s.rate * m / (root(v) * s.root + s.eps);
            }
            b.weight[i] = alive ? next : p;
        }
    };
    for (int l = 0; l < DEPTH; l++) {
        span(weight_at(l), bias_at(l), groups[job.group[2 * l]]);
        if (HAS_BIAS[l]) span(bias_at(l), weight_at(l + 1), groups[job.group[2 * l + 1]]);
    }
}

template <bool SHARED> static void train(Block &b, const Job &job, const int64_t *member, Scalars *scalars, double *powers) {
    const int64_t groups = job.groups;
    const REAL *inputs[LANES], *targets[LANES], *held_inputs[LANES], *held_targets[LANES];
    const REAL *second_inputs[LANES], *second_targets[LANES];
    const int32_t *order[LANES];
    for (int l = 0; l < LANES; l++) {
        inputs[l] = job.inputs[member[l]], targets[l] = job.targets[member[l]], order[l] = job.order[member[l]];
        held_inputs[l] = job.held_inputs[member[l]], held_targets[l] = job.held_targets[member[l]];
        second_inputs[l] = job.second_inputs[member[l]], second_targets[l] = job.second_targets[member[l]];
        for (int i = 0; i < PARAMETERS; i++) b.weight[i][l] = job.weights[member[l] * PARAMETERS + i];
        for (int64_t k = 0; k < groups; k++) powers[(2 * k) * LANES + l] = powers[(2 * k + 1) * LANES + l] = 1;
    }
    b.class_weight = job.class_weight;
    std::memset(b.first, 0, sizeof b.first);
    std::memset(b.second, 0, sizeof b.second);

    const Members<SHARED> whole = {inputs, targets, nullptr, 0}, held = {held_inputs, held_targets, nullptr, 0},
                          second = {second_inputs, second_targets, nullptr, 0};
    Mask alive = V{} == V{};
    int64_t died[LANES];
    for (int l = 0; l < LANES; l++) died[l] = -1;
    bool any = true;
    double loss[LANES], hits[LANES];
    V worst;

    auto evaluate = [&](const Members<SHARED> &rows, int64_t count, double *to_loss, double *to_score, int64_t e) {
        if (count == 0) return;
        sweep<false>(b, rows, count, V{}, true, loss, hits, worst);
        for (int l = 0; l < LANES; l++) {
            const int64_t at = member[l] * job.evaluations + e;
            const double mean = loss[l] / double(count * TARGET_WIDTH);
            to_loss[at] = died[l] < 0 ? mean : NAN;
            to_score[at] = died[l] < 0 && mean == mean ? hits[l] / double(count * TARGET_WIDTH) : NAN;
        }
    };

    int64_t e = 0, epoch_at = 0, at = 0;
    for (int64_t t = 0; t <= job.steps; t++) {
        for (; e < job.evaluations && job.evaluate_after[e] == t; e++) {
            evaluate(whole, job.rows, job.loss, job.score, e);
            evaluate(held, job.held_rows, job.held_loss, job.held_score, e);
            evaluate(second, job.second_rows, job.second_loss, job.second_score, e);
        }
        if (t == job.steps) break;
        const int64_t count = at + job.batch < job.rows ? job.batch : job.rows - at;
        if (any) {
            std::memset(b.grad, 0, sizeof b.grad);
            const Members<SHARED> rows = {inputs, targets, order, epoch_at + at};
            const double scale = 1.0 / double(count * TARGET_WIDTH);
            sweep<true>(b, rows, count, all(REAL(scale)), job.step_loss != nullptr, loss, hits, worst);
            for (int l = 0; l < LANES; l++) {
                if (job.step_loss) loss[l] *= scale;
                if (died[l] < 0 && !std::isfinite(worst[l])) died[l] = t;
                if (died[l] >= 0) alive[l] = 0;
            }
            any = false;
            for (int l = 0; l < LANES; l++) any |= died[l] < 0;
            for (int64_t k = 0; k < groups; k++) {
                Scalars &s = scalars[k];
                double *p1 = powers + 2 * k * LANES, *p2 = p1 + LANES;
                for (int l = 0; l < LANES; l++) {
                    const int64_t c = member[l] * groups + k;
                    const double rate = job.rate[c] * job.factor[t];
                    p1[l] *= job.beta1[c], p2[l] *= job.beta2[c];
                    const bool adam = job.optimizer == ADAM || job.optimizer == ADAMW;
                    s.rate[l] = REAL(adam ? rate / (1 - p1[l]) : rate);
                    s.decay[l] = REAL(job.optimizer == ADAMW ? 1 - rate * job.decay[c] : job.decay[c]);
                    s.root[l] = REAL(adam ? 1 / std::sqrt(1 - p2[l]) : 1);
                    s.beta1[l] = REAL(job.beta1[c]), s.rest1[l] = REAL(1 - job.beta1[c]);
                    s.beta2[l] = REAL(job.beta2[c]), s.rest2[l] = REAL(1 - job.beta2[c]), s.eps[l] = REAL(job.eps[c]);
                }
            }
            update(b, job, scalars, alive);
        }
        if (job.step_loss)
            for (int l = 0; l < LANES; l++) job.step_loss[member[l] * job.steps + t] = died[l] < 0 ? REAL(loss[l]) : REAL(NAN);
        at += count;
        if (at == job.rows) epoch_at += job.rows, at = 0;
    }
    for (int l = 0; l < LANES; l++) {
        job.diverged[member[l]] = died[l];
        for (int i = 0; i < PARAMETERS; i++) job.weights[member[l] * PARAMETERS + i] = b.weight[i][l];
    }
}

extern "C" int64_t lrdiff_lanes() { return LANES; }

/* Trains members [begin, end). Returns 0, or 1 where memory is short. */
extern "C" int64_t lrdiff_train(const Job *job, int64_t begin, int64_t end) {
    Block *block = static_cast<Block *>(std::aligned_alloc(64, sizeof(Block)));
    Scalars *scalars = static_cast<Scalars *>(std::aligned_alloc(64, job->groups * sizeof(Scalars)));
    double *powers = static_cast<double *>(std::malloc(job->groups * 2 * LANES * sizeof(double)));
    const bool enough = block && scalars && powers;
    for (int64_t start = begin; enough && start < end; start += LANES) {
        int64_t member[LANES];
        bool shared = true;
        for (int l = 0; l < LANES; l++) { /* spare lanes repeat the last member, bit for bit */
            member[l] = start + l < end ? start + l : end - 1;
            shared &= job->order[member[l]] == job->order[start] && job->inputs[member[l]] == job->inputs[start] &&
                      job->targets[member[l]] == job->targets[start] &&
                      job->held_inputs[member[l]] == job->held_inputs[start] &&
                      job->held_targets[member[l]] == job->held_targets[start] &&
                      job->second_inputs[member[l]] == job->second_inputs[start] &&
                      job->second_targets[member[l]] == job->second_targets[start];
        }
        if (shared) train<true>(*block, *job, member, scalars, powers);
        else train<false>(*block, *job, member, scalars, powers);
    }
    std::free(powers);
    std::free(scalars);
    std::free(block);
    return enough ? 0 : 1;
}
