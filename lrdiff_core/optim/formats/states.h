/* Adam's step on numbers that are kept in fewer bytes; kernel.c includes this file.
 *
 * A block of numbers is read into float32, stepped, and written back. What does not fit is rounded up or down by chance, in
 * proportion (stochastic rounding): rounded to the nearest, a mean that moves by a thousandth a step would stand still in
 * bfloat16. Chance follows from step, place and gradient, so grouping and threads change no bit; reading and writing are
 * integers and products with powers of two, so every processor has the same. codes.py and plain.py say all of this in
 * Python.
 *
 * Eight bits: a block shares the exponent of its largest number; a code has 3 bits of mantissa. The first moment has a
 * sign and 4 bits of exponent, of which the lowest is for the even steps from zero to the smallest power of two (as in
 * IEEE 754: 17 powers of two down to one step). The second moment has 5 bits and no such steps: code 0 is zero, and what
 * is not zero is not rounded to it (31 powers of two), since a step divides by its root.
 */
enum { BLOCK = 256 };                           /* numbers that share an exponent; divides every piece */
enum { IN_FLOAT32, IN_BFLOAT16, IN_EIGHT_BITS }; /* state */
enum { SIGNED = 15, POSITIVE = 31 };            /* exponents of a code but the lowest */
enum { LEAST = 57 };                            /* exponent of a block, biased: below, powers of two leave float32 */

typedef struct {
    int64_t state;
    int64_t half;                                /* parameters and gradients are bfloat16 */
    uint16_t *const *low;                        /* [count] what those lack of float32; NULL: rounded by chance */
    uint8_t *const *first_exponent, *const *second_exponent; /* [count] one for each block */
} Formats;

static inline uint32_t bits_of(float x) {
    union { float number; uint32_t bits; } u = {.number = x};
    return u.bits;
}

static inline float float_of(uint32_t bits) {
    union { uint32_t bits; float number; } u = {.bits = bits};
    return u.number;
}

/* 32 bits for each number: lowbias32 (Wellons, https://nullprogram.com/blog/2018/07/31/). */
static void draw(uint32_t *restrict chance, const float *restrict g, float factor, uint32_t key, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t x = (key + (uint32_t)i) ^ bits_of(g[i] * factor); /* by one where nothing is clipped */
        x = (x ^ x >> 16) * 0x7feb352du;
        x = (x ^ x >> 15) * 0x846ca68bu;
        chance[i] = x ^ x >> 16;
    }
}

static void widen(float *restrict x, const uint16_t *restrict half, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = float_of((uint32_t)half[i] << 16);
}

/* `multiplier`: 1 or another odd number, for other bits of the same chance. */
static inline __attribute__((always_inline)) void narrow(
    uint16_t *restrict half, const float *restrict x, const uint32_t *restrict chance, int64_t n, uint32_t multiplier, int shift) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(x[i]), r = chance[i] * multiplier >> shift & 0xffffu;
        const int nan = (bits & 0x7fffffffu) > 0x7f800000u;
        half[i] = (uint16_t)((nan ? bits | 0x400000u : bits + r) >> 16);
    }
}

/* A float32 in two halves: the bfloat16 nearest to it, and its own lower 16 bits, which tell the rest. */
static void join(float *restrict x, const uint16_t *restrict half, const uint16_t *restrict low, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = float_of(((uint32_t)half[i] << 16) + (uint32_t)(int32_t)(int16_t)low[i]);
}

static void split(uint16_t *restrict half, uint16_t *restrict low, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = bits_of(x[i]);
        if ((bits & 0x7fffffffu) > 0x7f800000u) bits = (bits | 0x400000u) & 0xffff0000u;
        half[i] = (uint16_t)((bits + 0x8000u) >> 16);
        low[i] = (uint16_t)bits;
    }
}

static void decode_signed(float *restrict x, const uint8_t *restrict code, uint32_t exponent, int64_t n) {
    if (exponent < LEAST) exponent = LEAST; /* of a block that is new */
    const uint32_t base = (exponent - SIGNED) << 3;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t whole = code[i], c = whole & 0x7fu;
        /* Below 8, a power of two is added and taken off: the steps there are even. */
        const uint32_t bits = (c + base + (c < 8 ? 8 : 0)) << 20, off = c < 8 ? (base + 8) << 20 : 0;
        x[i] = float_of(bits_of(float_of(bits) - float_of(off)) | (whole & 0x80u) << 24);
    }
}

static void decode_positive(float *restrict x, const uint8_t *restrict code, uint32_t exponent, int64_t n) {
    if (exponent < LEAST) exponent = LEAST;
    const uint32_t base = (exponent - POSITIVE) << 3;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t c = code[i];
        x[i] = float_of(c ? (c + base) << 20 : 0);
    }
}

/* One more than the largest number's where that may be rounded up to it. */
static uint32_t shared_exponent(const float *restrict x, int64_t n) {
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t size = bits_of(x[i]) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    const uint32_t exponent = (most + 0xfffffu) >> 23;
    return exponent > 255 ? 255 : exponent < LEAST ? LEAST : exponent;
}

static uint8_t encode_signed(uint8_t *restrict code, const float *restrict x, const uint32_t *restrict chance, int64_t n) {
    const uint32_t exponent = shared_exponent(x, n), base = (exponent - SIGNED) << 3;
    const uint32_t normal = (exponent - SIGNED + 1) << 23;
    const float scale = float_of((276u + SIGNED - exponent) << 23); /* 2**20 over the unit */
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(x[i]), size = bits & 0x7fffffffu, r = chance[i] >> 16 << 4;
        const float even = float_of(size < normal ? size : 0) * scale; /* not on condition: such loops stay scalar */
        const uint32_t small = ((uint32_t)(int32_t)even + r) >> 20, large = ((size + r) >> 20) - base;
        const uint32_t c = size < normal ? small : large;
        code[i] = (uint8_t)((c > 127 ? 127 : c) | (bits >> 24 & 0x80u));
    }
    return (uint8_t)exponent;
}

static uint8_t encode_positive(uint8_t *restrict code, const float *restrict x, const uint32_t *restrict chance, int64_t n) {
    const uint32_t exponent = shared_exponent(x, n);
    const int32_t base = (int32_t)(exponent - POSITIVE) << 3;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t size = bits_of(x[i]) & 0x7fffffffu, r = (chance[i] & 0xffffu) << 4;
        int32_t c = (int32_t)((size + r) >> 20) - base;
        c = c > 255 ? 255 : c < 1 ? 1 : c;
        code[i] = (uint8_t)(size ? c : 0);
    }
    return (uint8_t)exponent;
}

/* kernel.c's rule with one division less: root is multiplied into numerator and denominator. */
static inline __attribute__((always_inline)) void lean_loop(
    float *restrict p, const float *restrict g, float *restrict m, float *restrict v, const float *s, int64_t n,
    int decoupled, int maximize, int clipped, float factor) {
    const float decay = s[0], weight = s[1], beta2 = s[2], rest2 = s[3], size = s[4] * s[5], eps = s[6] * s[5];
    for (int64_t i = 0; i < n; i++) {
        float grad = clipped ? g[i] * factor : g[i], param = p[i];
        if (maximize) grad = -grad;
        if (decoupled) param = param * decay;
        else grad = fmaf(param, decay, grad);
        m[i] = lerp(m[i], grad, weight);
        v[i] = fmaf(rest2 * grad, grad, v[i] * beta2);
        p[i] = param + size * m[i] / (sqrtf(v[i]) + eps);
    }
}

static void adam_block(
    float *p, const float *g, float *m, float *v, const float *s, int64_t n, int flags, float factor, int lean) {
#define CASE(bits) \
    case bits: \
        if (lean) lean_loop(p, g, m, v, s, n, (bits) & DECOUPLED, (bits) & MAXIMIZE, (bits) & CLIPPED, factor); \
        else adam_loop(p, g, m, v, 0, s, n, (bits) & DECOUPLED, 0, (bits) & MAXIMIZE, (bits) & CLIPPED, factor); \
        break;
    switch (flags & (DECOUPLED | MAXIMIZE | CLIPPED)) {
        CASE(0) CASE(1) CASE(4) CASE(5) CASE(16) CASE(17) CASE(20) CASE(21)
    }
#undef CASE
}

static void adam_formats_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const Formats *f = t->formats;
    const int32_t k = t->setting[j];
    const float factor = t->factor ? t->factor[k] : 1.0f, *s = t->scalars + j * SCALARS;
    const int flags = t->flags[k] | (t->weight_decay[k] == 0 ? DECOUPLED : 0) | (factor != 1.0f ? CLIPPED : 0);
    const uint32_t key = (uint32_t)*t->step[j] * 0x9e3779b9u;
    float param[BLOCK], grad[BLOCK], first[BLOCK], second[BLOCK];
    uint32_t chance[BLOCK];
    if (to > t->size[j]) to = t->size[j];
    for (; from < to; from += BLOCK) {
        const int64_t n = to - from < BLOCK ? to - from : BLOCK, block = from / BLOCK;
        float *p = param, *m = first, *v = second;
        const float *g = grad;
        uint16_t *half = (uint16_t *)t->param[j] + from, *low = f->low ? f->low[j] + from : 0;
        uint16_t *m16 = (uint16_t *)t->first[j] + from, *v16 = (uint16_t *)t->second[j] + from;
        uint8_t *m8 = (uint8_t *)t->first[j] + from, *v8 = (uint8_t *)t->second[j] + from;
        if (f->half) {
            widen(grad, (const uint16_t *)t->grad[j] + from, n);
            if (low) join(param, half, low, n);
            else widen(param, half, n);
        } else {
            g = t->grad[j] + from, p = t->param[j] + from;
        }
        if (f->state == IN_FLOAT32) {
            m = t->first[j] + from, v = t->second[j] + from;
        } else {
            draw(chance, g, factor, key + (uint32_t)from, n);
            if (f->state == IN_BFLOAT16) {
                widen(first, m16, n), widen(second, v16, n);
            } else {
                decode_signed(first, m8, f->first_exponent[j][block], n);
                decode_positive(second, v8, f->second_exponent[j][block], n);
            }
        }
        adam_block(p, g, m, v, s, n, flags, factor, f->state != IN_FLOAT32);
        if (f->state == IN_BFLOAT16) {
            narrow(m16, first, chance, n, 1, 16), narrow(v16, second, chance, n, 1, 0);
        } else if (f->state == IN_EIGHT_BITS) {
            f->first_exponent[j][block] = encode_signed(m8, first, chance, n);
            f->second_exponent[j][block] = encode_positive(v8, second, chance, n);
        }
        if (low) split(half, low, param, n);
        else if (f->half) narrow(half, param, chance, n, 0x9e3779b9u, 16);
    }
}

int lrdiff_adam_formats(const Table *t) {
    adam_scalars(t);
    every(t, adam_formats_rule);
    return 0;
}
