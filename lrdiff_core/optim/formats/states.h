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
enum { AHEAD = 4 };                             /* blocks that are asked for before they are stepped */
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

/* 32 bits for each number, of which the moments take the upper and the lower half, a parameter the middle: half of
 * lowbias32 (Wellons, https://nullprogram.com/blog/2018/07/31/), which is enough for sums over many steps. */
static inline uint32_t draw(float grad, uint32_t place) {
    const uint32_t x = place ^ bits_of(grad);
    return (x ^ x >> 16) * 0x7feb352du;
}

static inline float widen(uint16_t half) { return float_of((uint32_t)half << 16); }

/* By 16 bits of chance. */
static inline uint16_t narrow(float x, uint32_t chance) {
    const uint32_t bits = bits_of(x);
    const int nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return (uint16_t)((nan ? bits | 0x400000u : bits + chance) >> 16);
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

/* Of a number of the first moment; `base` is (exponent - SIGNED) << 3. The steps below code 8 are even: a power of two is
 * added and taken off. */
static inline float decode_signed(uint32_t code, uint32_t base) {
    const uint32_t c = code & 0x7fu, bits = (c + base + (c < 8 ? 8 : 0)) << 20, off = c < 8 ? (base + 8) << 20 : 0;
    return float_of(bits_of(float_of(bits) - float_of(off)) | (code & 0x80u) << 24);
}

static inline float decode_positive(uint32_t code, uint32_t base) { return float_of(code ? (code + base) << 20 : 0); }

/* One more than the largest number's where that may be rounded up to it. */
static inline uint32_t shared_exponent(uint32_t largest) {
    const uint32_t exponent = (largest + 0xfffffu) >> 23;
    return exponent > 255 ? 255 : exponent < LEAST ? LEAST : exponent;
}

static inline uint32_t known_exponent(uint8_t exponent) { return exponent < LEAST ? LEAST : exponent; /* a new block's */ }

static void encode_signed(
    uint8_t *restrict code, const float *restrict x, const uint32_t *restrict chance, int64_t n, uint32_t base) {
    const uint32_t normal = (base + 8) << 20;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = bits_of(x[i]), size = bits & 0x7fffffffu, r = chance[i] >> 16 << 4;
        const uint32_t off = size < normal ? base + 8 : base;
        const float shifted = float_of(size) + float_of(size < normal ? normal : 0); /* as it is decoded */
        const uint32_t c = ((bits_of(shifted) + r) >> 20) - off;
        code[i] = (uint8_t)((c > 127 ? 127 : c) | (bits >> 24 & 0x80u));
    }
}

static void encode_positive(
    uint8_t *restrict code, const float *restrict x, const uint32_t *restrict chance, int64_t n, int32_t base) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t size = bits_of(x[i]) & 0x7fffffffu, r = (chance[i] & 0xffffu) << 4;
        int32_t c = (int32_t)((size + r) >> 20) - base;
        c = c > 255 ? 255 : c < 1 ? 1 : c;
        code[i] = (uint8_t)(size ? c : 0);
    }
}

/* A block where something is rounded: kernel.c's rule with one division less, its root multiplied into numerator and
 * denominator. One loop, so that divisions and the work on codes go on side by side. */
static inline __attribute__((always_inline)) void lean_block(
    void *restrict p, const void *restrict g, void *restrict m, void *restrict v, uint8_t *m_exponent, uint8_t *v_exponent,
    const float *s, float factor, uint32_t place, int64_t n, int half, int eight, int decoupled) {
    const float decay = s[0], weight = s[1], beta2 = s[2], rest2 = s[3], size = s[4] * s[5], eps = s[6] * s[5];
    float *restrict p32 = p, first[BLOCK], second[BLOCK];
    const float *restrict g32 = g;
    uint16_t *restrict p16 = p, *restrict m16 = m, *restrict v16 = v;
    const uint16_t *restrict g16 = g;
    uint8_t *restrict m8 = m, *restrict v8 = v;
    uint32_t chance[BLOCK], m_most = 0, v_most = 0;
    const uint32_t m_base = eight ? (known_exponent(*m_exponent) - SIGNED) << 3 : 0;
    const uint32_t v_base = eight ? (known_exponent(*v_exponent) - POSITIVE) << 3 : 0;
    for (int64_t i = 0; i < n; i++) {
        float grad = (half ? widen(g16[i]) : g32[i]) * factor, param = half ? widen(p16[i]) : p32[i];
        const uint32_t r = draw(grad, place + (uint32_t)i);
        if (decoupled) param = param * decay;
        else grad = fmaf(param, decay, grad);
        const float mean = lerp(eight ? decode_signed(m8[i], m_base) : widen(m16[i]), grad, weight);
        const float square = fmaf(rest2 * grad, grad, (eight ? decode_positive(v8[i], v_base) : widen(v16[i])) * beta2);
        const float next = param + size * mean / (sqrtf(square) + eps);
        if (half) p16[i] = narrow(next, r >> 8 & 0xffffu);
        else p32[i] = next;
        if (eight) {
            const uint32_t a = bits_of(mean) & 0x7fffffffu, b = bits_of(square) & 0x7fffffffu;
            first[i] = mean, second[i] = square, chance[i] = r;
            m_most = a > m_most ? a : m_most, v_most = b > v_most ? b : v_most;
        } else {
            m16[i] = narrow(mean, r >> 16), v16[i] = narrow(square, r & 0xffffu);
        }
    }
    if (eight) {
        const uint32_t m_shared = shared_exponent(m_most), v_shared = shared_exponent(v_most);
        encode_signed(m8, first, chance, n, (m_shared - SIGNED) << 3);
        encode_positive(v8, second, chance, n, (int32_t)(v_shared - POSITIVE) << 3);
        *m_exponent = (uint8_t)m_shared, *v_exponent = (uint8_t)v_shared;
    }
}

/* bfloat16 parameters in two halves, or float32: kernel.c's own loop, and so its bits. */
static void whole_block(float *p, const float *g, float *m, float *v, const float *s, int64_t n, int decoupled, float factor) {
    if (decoupled) adam_loop(p, g, m, v, 0, s, n, 1, 0, 0, 1, factor);
    else adam_loop(p, g, m, v, 0, s, n, 0, 0, 0, 1, factor);
}

/* Asks for a later block's lines: a block is so much work that the processor does not see far enough ahead by itself. */
static inline void ask_ahead(const char *block, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(block + AHEAD * bytes + i);
}

static void adam_formats_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const Formats *f = t->formats;
    const int32_t k = t->setting[j];
    const float *s = t->scalars + j * SCALARS, clipped = t->factor ? t->factor[k] : 1.0f;
    const float factor = t->flags[k] & MAXIMIZE ? -clipped : clipped;
    const int decoupled = t->flags[k] & DECOUPLED || t->weight_decay[k] == 0;
    const uint32_t key = (uint32_t)*t->step[j] * 0x9e3779b9u;
    const int64_t wide = f->half ? 2 : 4, kept = f->state == IN_FLOAT32 ? 4 : f->state == IN_BFLOAT16 ? 2 : 1;
    if (to > t->size[j]) to = t->size[j];
    for (; from < to; from += BLOCK) {
        const int64_t n = to - from < BLOCK ? to - from : BLOCK;
        char *p = (char *)t->param[j] + from * wide, *m = (char *)t->first[j] + from * kept;
        char *g = (char *)t->grad[j] + from * wide, *v = (char *)t->second[j] + from * kept;
        ask_ahead(p, BLOCK * wide), ask_ahead(g, BLOCK * wide), ask_ahead(m, BLOCK * kept), ask_ahead(v, BLOCK * kept);
        if (f->state == IN_FLOAT32 && f->half) {
            float param[BLOCK], grad[BLOCK];
            uint16_t *low = f->low[j] + from;
            join(param, (uint16_t *)p, low, n);
            for (int64_t i = 0; i < n; i++) grad[i] = widen(((uint16_t *)g)[i]);
            whole_block(param, grad, (float *)m, (float *)v, s, n, decoupled, factor);
            split((uint16_t *)p, low, param, n);
            continue;
        }
        if (f->state == IN_FLOAT32) {
            whole_block((float *)p, (float *)g, (float *)m, (float *)v, s, n, decoupled, factor);
            continue;
        }
        const int eight = f->state == IN_EIGHT_BITS;
        uint8_t *m_exponent = eight ? f->first_exponent[j] + from / BLOCK : 0;
        uint8_t *v_exponent = eight ? f->second_exponent[j] + from / BLOCK : 0;
#define CASE(bits) \
    case bits: \
        lean_block(p, g, m, v, m_exponent, v_exponent, s, factor, key + (uint32_t)from, n, (bits) & 1, (bits) & 2, (bits) & 4); \
        break;
        switch ((f->half ? 1 : 0) | (eight ? 2 : 0) | (decoupled ? 4 : 0)) {
            CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
        }
#undef CASE
    }
}

int lrdiff_adam_formats(const Table *t) {
    adam_scalars(t);
    every(t, adam_formats_rule);
    return 0;
}
