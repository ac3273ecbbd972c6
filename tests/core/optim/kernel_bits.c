/* Calls each function of a compiled kernel.c on made-up numbers and prints a hash of what comes of it, a line a case.
 *
 * usage: kernel_bits LIBRARY. Two libraries have the same bits where the lines are equal. A NaN counts as any other:
 * processors give new ones a sign of their own. kernel.c is included for its types; what is called is the library's.
 */
#include "kernel.c"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS = 64, STEPS = 3, UNIT = 512, MOST = 1300, ROOM = TENSORS * 3 * UNIT };
static const int64_t LENGTHS[] = {1, 2, 3, 7, 15, 16, 17, 33, 255, 256, 257, 511, 512, 600, 1029, MOST};

static float param[ROOM], grad[ROOM], first[ROOM], second[ROOM], largest[ROOM];
static uint16_t low[ROOM];
static uint8_t first_exponent[ROOM / BLOCK], second_exponent[ROOM / BLOCK];
static float step[TENSORS], number1[TENSORS], number2[TENSORS], scalars[TENSORS * SCALARS], factor[TENSORS], told[TENSORS];
static double lr[TENSORS], weight_decay[TENSORS], beta1[TENSORS], beta2[TENSORS], eps[TENSORS], more[3][TENSORS];
static double partial[2 * ROOM / UNIT], norm[TENSORS], limit[TENSORS];
static float *params[TENSORS], *grads[TENSORS], *firsts[TENSORS], *seconds[TENSORS], *largests[TENSORS];
static float *steps[TENSORS], *numbers1[TENSORS], *numbers2[TENSORS];
static uint16_t *lows[TENSORS];
static uint8_t *first_exponents[TENSORS], *second_exponents[TENSORS];
static int64_t offset[TENSORS + 1], size[TENSORS];
static int32_t setting[TENSORS], flags[TENSORS];
static uint8_t fresh[TENSORS];
static Formats formats = {.low = lows, .first_exponent = first_exponents, .second_exponent = second_exponents};

static uint32_t drawn;

static uint32_t next(void) {
    drawn += 0x9e3779b9u;
    uint32_t x = drawn;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* Mostly of many sizes, from 1e-9 to 16; `rare`: now and then one that is no ordinary number. */
static float number(int positive, int rare) {
    static const uint32_t odd[] = {0, 1, 0x7fffff, 0x800000, 0x7f7fffff, 0x7f800000, 0x7fc00000, 0x3f800000};
    const uint32_t sign = positive ? 0 : next() & 0x80000000u;
    if (rare && next() % 29 == 0) {
        const uint32_t bits = odd[next() % 8];
        return float_of(bits == 0x7fc00000 ? bits : bits | sign);
    }
    return float_of(sign | (97 + next() % 34) << 23 | (next() & 0x7fffffu));
}

static uint64_t hash;

static void add(uint32_t x) { hash = (hash ^ x) * 0x100000001b3u; }

static void add_floats(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) add(x[i] == x[i] ? bits_of(x[i]) : 0x7fc00000u);
}

static void add_halves(const void *numbers, int64_t n) {
    const uint16_t *x = numbers;
    for (int64_t i = 0; i < n; i++) add((x[i] & 0x7fffu) > 0x7f80u ? 0x7fc0u : x[i]);
}

static void add_codes(const void *codes, int64_t n, const uint8_t *exponent, int is_signed) {
    const uint8_t *x = codes;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t base = (uint32_t)(exponent[i / BLOCK] - (is_signed ? SIGNED : POSITIVE)) << 3;
        const float told = is_signed ? decode_signed(x[i], base) : decode_positive(x[i], base);
        add(told == told ? x[i] : 0x7fu);
    }
}

static void place(int j) {
    const int64_t at = offset[j];
    params[j] = param + at, grads[j] = grad + at, firsts[j] = first + at, seconds[j] = second + at;
    largests[j] = largest + at, lows[j] = low + at;
    first_exponents[j] = first_exponent + at / BLOCK, second_exponents[j] = second_exponent + at / BLOCK;
}

/* Everything anew: settings of every kind that `known` flags allow, tensors of awkward lengths. */
static Table prepare(int known, int whole, int rare, int64_t threads) {
    static const int bits[] = {DECOUPLED, AMSGRAD, MAXIMIZE, NESTEROV, CENTERED};
    drawn = (uint32_t)(known * 64 + whole * 8 + rare * 4);
    offset[0] = 0;
    for (int j = 0; j < TENSORS; j++) {
        size[j] = LENGTHS[j % (int)(sizeof LENGTHS / sizeof *LENGTHS)];
        offset[j + 1] = offset[j] + (whole ? (size[j] + UNIT - 1) / UNIT * UNIT : size[j]);
        place(j);
        steps[j] = step + j, numbers1[j] = number1 + j, numbers2[j] = number2 + j;
        setting[j] = (j * 37) % TENSORS;
        fresh[j] = j % 5 == 0;
        step[j] = (float)(j % 7 * 3);
        number1[j] = 1.0f, number2[j] = 1.0f;
        flags[j] = 0;
        for (int b = 0; b < 5; b++) flags[j] |= j >> b & 1 ? bits[b] & known : 0;
        lr[j] = 1e-3 * (1 + j), weight_decay[j] = j >> 5 ? 0.01 * (1 + j % 3) : 0, eps[j] = 1e-8;
        beta1[j] = j % 3 ? 0.9 - 0.001 * j : 0, beta2[j] = 0.999 - 0.0015 * j;
        factor[j] = j % 4 ? 1.0f / (1 + j) : 1.0f;
        limit[j] = j % 4 ? 0.3 * j : NAN;
    }
    for (int i = 0; i < ROOM; i++) {
        param[i] = number(0, rare), first[i] = number(0, rare), second[i] = number(1, rare), largest[i] = number(1, rare);
        low[i] = 0;
    }
    memset(scalars, 0, sizeof scalars);
    return (Table){
        .count = TENSORS, .threads = threads, .piece = UNIT, .param = params, .grad = grads, .first = firsts,
        .second = seconds, .largest = largests, .step = steps, .number1 = numbers1, .number2 = numbers2, .offset = offset,
        .setting = setting, .fresh = fresh, .flags = flags, .lr = lr, .weight_decay = weight_decay, .beta1 = beta1,
        .beta2 = beta2, .eps = eps, .more1 = more[0], .more2 = more[1], .more3 = more[2], .scalars = scalars, .size = size,
        .partial = partial, .norm = norm, .formats = &formats};
}

static void new_gradients(int rare) {
    for (int i = 0; i < ROOM; i++) grad[i] = number(0, rare);
}

static void add_state(void) {
    for (int j = 0; j < TENSORS; j++) {
        add_floats(params[j], size[j]), add_floats(firsts[j], size[j]);
        add_floats(seconds[j], size[j]), add_floats(largests[j], size[j]), add_floats(grads[j], size[j]);
    }
    add_floats(step, TENSORS), add_floats(number1, TENSORS), add_floats(number2, TENSORS);
}

static void *library;

static void *function(const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}

static void tell(const char *name, const char *how, int64_t threads, int rare) {
    printf("%s %s threads=%d rare=%d %016llx\n", name, how, (int)threads, rare, (unsigned long long)hash);
}

typedef struct {
    const char *name;
    int known;              /* flags */
    int whole;              /* each tensor begins a new piece */
    double more[3];
} Case;

static const Case CASES[] = {
    {"lrdiff_adam", DECOUPLED | AMSGRAD | MAXIMIZE, 0, {0}},
    {"lrdiff_sgd", MAXIMIZE | NESTEROV, 0, {0}},
    {"lrdiff_rmsprop", MAXIMIZE | CENTERED, 0, {0}},
    {"lrdiff_adagrad", MAXIMIZE, 0, {0}},
    {"lrdiff_lamb", MAXIMIZE, 1, {0}},
    {"lrdiff_lion", DECOUPLED | MAXIMIZE, 0, {0}},
    {"lrdiff_nadam", DECOUPLED | MAXIMIZE, 0, {4e-3}},
    {"lrdiff_radam", DECOUPLED | MAXIMIZE, 0, {0}},
    {"lrdiff_schedule_free", MAXIMIZE, 0, {5, 0.5, 2}},
};

static void step_and_tell(const char *name, const Table *t, int rare) {
    int (*rule)(const Table *) = (int (*)(const Table *))function(name);
    hash = 0xcbf29ce484222325u;
    for (int i = 0; i < STEPS; i++) {
        new_gradients(rare);
        add((uint32_t)rule(t));
        add_state();
    }
    tell(name, t->factor ? "scaled" : "plain", t->threads, rare);
}

static void try_rule(const Case *c, int64_t threads, int rare, int scaled) {
    Table t = prepare(c->known, c->whole, rare, threads);
    t.factor = scaled ? factor : NULL;
    for (int m = 0; m < 3; m++)
        for (int k = 0; k < TENSORS; k++) more[m][k] = c->more[m];
    step_and_tell(c->name, &t, rare);
}

/* Vectors, matrices of which a block takes several, and such as have several blocks each; divided as adafactor.py does. */
static void try_adafactor(int64_t threads, int rare, int scaled) {
    static const struct { int64_t size, rows, columns; } shapes[] = {
        {33, 3, 11}, {256, 8, 8}, {512, 16, 32}, {600, 10, 20}, {1029, 7, 49}, {MOST, 13, 50}};
    static int64_t rows[TENSORS], columns[TENSORS], share[TENSORS], begin[TENSORS];
    static double sums[ROOM];
    const Factors factors = {.rows = rows, .columns = columns, .share = share, .begin = begin, .sums = sums};
    int64_t all = 0;
    Table t = prepare(MAXIMIZE, 1, rare, threads);
    t.factor = scaled ? factor : NULL;
    t.factors = &factors;
    for (int j = 0; j < TENSORS; j++) {
        int64_t blocks = (size[j] + UNIT - 1) / UNIT;
        rows[j] = columns[j] = share[j] = 0;
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            const int64_t matrix = shapes[i].rows * shapes[i].columns;
            if (shapes[i].size != size[j]) continue;
            rows[j] = shapes[i].rows, columns[j] = shapes[i].columns;
            share[j] = matrix <= UNIT ? UNIT / matrix * rows[j] : UNIT / columns[j];
            blocks = matrix <= UNIT ? (size[j] + share[j] * columns[j] - 1) / (share[j] * columns[j])
                                    : size[j] / matrix * ((rows[j] + share[j] - 1) / share[j]);
        }
        offset[j + 1] = offset[j] + blocks * UNIT;
        begin[j] = all, all += blocks * columns[j];
        place(j);
        beta1[j] = -0.8 - 0.002 * j, beta2[j] = 1e-3, more[0][j] = 1.0;
    }
    step_and_tell("lrdiff_adafactor", &t, rare);
}

static void halve(void *numbers, const float *x) {
    for (int64_t i = 0; i < ROOM; i++) ((uint16_t *)numbers)[i] = narrow(x[i], 0x8000u); /* in place: it never overtakes */
}

static void try_formats(int state, int half, int64_t threads, int rare) {
    int (*rule)(const Table *) = (int (*)(const Table *))function("lrdiff_adam_formats");
    Table t = prepare(DECOUPLED | MAXIMIZE, 1, rare, threads);
    char how[32];
    const int64_t wide = half ? 2 : 4, kept = state == IN_FLOAT32 ? 4 : state == IN_BFLOAT16 ? 2 : 1;
    formats.state = state, formats.half = half;
    t.factor = factor;
    if (half) halve(param, param);
    if (state == IN_BFLOAT16) halve(first, first), halve(second, second);
    if (state == IN_EIGHT_BITS) memset(first, 0, sizeof first), memset(second, 0, sizeof second);
    memset(first_exponent, 0, sizeof first_exponent), memset(second_exponent, 0, sizeof second_exponent);
    for (int j = 0; j < TENSORS; j++) {
        params[j] = (float *)((char *)param + offset[j] * wide), grads[j] = (float *)((char *)grad + offset[j] * wide);
        firsts[j] = (float *)((char *)first + offset[j] * kept), seconds[j] = (float *)((char *)second + offset[j] * kept);
    }
    hash = 0xcbf29ce484222325u;
    for (int i = 0; i < 2 * STEPS; i++) {
        new_gradients(rare);
        if (half) halve(grad, grad);
        add((uint32_t)rule(&t));
        for (int j = 0; j < TENSORS; j++) {
            const int64_t n = size[j];
            if (half) add_halves(params[j], n), add_halves(lows[j], state == IN_FLOAT32 ? n : 0);
            else add_floats(params[j], n);
            if (state == IN_FLOAT32) add_floats(firsts[j], n), add_floats(seconds[j], n);
            if (state == IN_BFLOAT16) add_halves(firsts[j], n), add_halves(seconds[j], n);
            if (state == IN_EIGHT_BITS) {
                add_codes(firsts[j], n, first_exponents[j], 1), add_codes(seconds[j], n, second_exponents[j], 0);
                for (int64_t b = 0; b < (n + BLOCK - 1) / BLOCK; b++) add(first_exponents[j][b]), add(second_exponents[j][b]);
            }
        }
    }
    snprintf(how, sizeof how, "state=%d half=%d", state, half);
    tell("lrdiff_adam_formats", how, threads, rare);
}

static void try_norms(int most, int64_t threads, int rare) {
    void (*measure)(const Table *, int) = (void (*)(const Table *, int))function("lrdiff_norm");
    void (*scale)(const Table *) = (void (*)(const Table *))function("lrdiff_scale");
    Table t = prepare(0, 1, rare, threads);
    t.factor = factor;
    memset(norm, 0, sizeof norm);
    hash = 0xcbf29ce484222325u;
    new_gradients(rare);
    measure(&t, most);
    for (int k = 0; k < TENSORS; k++) {
        const uint64_t kept = norm[k] == norm[k] ? *(const uint64_t *)(const void *)(norm + k) : 0;
        add((uint32_t)kept), add((uint32_t)(kept >> 32));
    }
    tell("lrdiff_norm", most ? "largest" : "squares", threads, rare);
    scale(&t);
    add_state();
    tell("lrdiff_scale", "", threads, rare);
}

static void try_clipped(int64_t parts, int most, int finite, int64_t threads, int rare) {
    int (*step_clipped)(const Clipping *) = (int (*)(const Clipping *))function("lrdiff_clipped");
    const Table t = prepare(DECOUPLED | AMSGRAD | MAXIMIZE, 1, rare, threads);
    Table stepped = t;
    Clipping c = {.measured = &t, .stepped = &stepped, .limit = limit, .told = told, .factor = factor, .parts = parts,
                  .settings = TENSORS, .largest = most, .finite = finite, .step = (int (*)(const Table *))function("lrdiff_adam")};
    static const int32_t together[TENSORS];
    Table measured = t;
    if (parts == 1) measured.setting = together, limit[0] = 2.0;
    c.measured = &measured;
    hash = 0xcbf29ce484222325u;
    new_gradients(rare);
    add((uint32_t)step_clipped(&c));
    add_state();
    add_floats(told, parts), add_floats(factor, TENSORS);
    tell("lrdiff_clipped", parts == 1 ? "together" : "by setting", threads, rare);
}

int main(int count, char **arguments) {
    library = count == 2 ? dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library) {
        fprintf(stderr, "%s\n", count == 2 ? dlerror() : "usage: kernel_bits LIBRARY");
        return 2;
    }
    for (int rare = 0; rare < 2; rare++) {
        for (int64_t threads = 1; threads < 4; threads += 2) {
            for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
                for (int scaled = 0; scaled < 2; scaled++) try_rule(CASES + i, threads, rare, scaled);
            for (int scaled = 0; scaled < 2; scaled++) try_adafactor(threads, rare, scaled);
            for (int state = IN_FLOAT32; state <= IN_EIGHT_BITS; state++)
                for (int half = 0; half < 2; half++) try_formats(state, half, threads, rare);
            for (int most = 0; most < 2; most++) {
                try_norms(most, threads, rare);
                try_clipped(1, most, 0, threads, rare);
                try_clipped(TENSORS, most, rare, threads, rare);
            }
        }
    }
    return 0;
}
