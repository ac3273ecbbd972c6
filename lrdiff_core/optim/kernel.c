/* One pass over every tensor of a model, each with the settings of its group: float32, CPU.
 *
 * kernel.py compiles this file and fills the table; the arithmetic follows PyTorch's fused CPU kernels operation by
 * operation, so fused multiply-adds are written out and the compiler must not form others (-ffp-contract=off).
 * Work is divided by elements, not by tensors, and every element is computed alike wherever a division falls:
 * neither grouping nor thread count changes a bit.
 *
 * Threads: the caller works through pieces of the whole, and helpers that are awake take pieces from it. It never waits
 * for a helper that has taken none, so a step on a busy machine is never much longer than on one thread. (An OpenMP
 * region ends only when each of its threads has run: with a busy neighbour that was 16 ms where the work is 0.3 ms.)
 */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#ifdef __SSE__
#include <immintrin.h>
#endif

#if !defined(__FMA__) && !defined(__aarch64__)
#error "fmaf would be a slow library call on this processor"
#endif

typedef struct {
    int64_t count;           /* tensors */
    int64_t threads;
    int64_t piece;           /* the fewest elements that a thread takes at a time, a multiple of 16 */
    float *const *param;     /* [count] */
    float *const *grad;      /* [count] */
    float *const *first;     /* [count] exp_avg, or momentum_buffer */
    float *const *second;    /* [count] exp_avg_sq */
    float *const *largest;   /* [count] max_exp_avg_sq */
    float *const *step;      /* [count] one number each */
    float *const *number1, *const *number2; /* [count] what else a rule keeps one of; it says what */
    const int64_t *offset;   /* [count + 1] elements before each tensor */
    const int32_t *setting;  /* [count] which column entry below applies */
    const uint8_t *fresh;    /* [count] momentum_buffer holds nothing yet */
    const int32_t *flags;    /* [settings] */
    const double *lr, *weight_decay, *beta1, *beta2, *eps;  /* [settings]; SGD: beta1 momentum, beta2 dampening; RMSprop: beta1 momentum, beta2 alpha */
    const double *more1, *more2, *more3; /* [settings] as a rule says */
    float *scalars;          /* [count * SCALARS] scratch */
    /* For norms and clipping, and rules with norms of their own. There each tensor begins a new piece: offset is rounded up to whole pieces. */
    const int64_t *size;     /* [count] elements */
    double *partial;         /* [pieces] scratch */
    double *norm;            /* [settings] */
    const float *factor;     /* [settings] gradients are multiplied by it; in a step NULL where they are taken as they are */
    const void *formats;     /* how numbers are kept, for formats/states.h */
    const struct Factors *factors; /* how tensors are divided, for rules/adafactor.h */
} Table;

enum { DECOUPLED = 1, AMSGRAD = 2, MAXIMIZE = 4, NESTEROV = 8, CLIPPED = 16 /* set where a factor is not one */, CENTERED = 32 };
enum { SCALARS = 8 };

typedef void (*Rule)(const Table *, int64_t tensor, int64_t from, int64_t to);

/* Runs the rule over elements [begin, end) of all tensors laid end to end. */
static void span(const Table *t, Rule rule, int64_t begin, int64_t end) {
    int64_t low = 0, high = t->count;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (t->offset[middle] <= begin) low = middle; else high = middle;
    }
    for (int64_t j = low; j < t->count && t->offset[j] < end; j++) {
        int64_t from = begin > t->offset[j] ? begin - t->offset[j] : 0;
        int64_t to = (end < t->offset[j + 1] ? end : t->offset[j + 1]) - t->offset[j];
        if (from < to) rule(t, j, from, to);
    }
}

enum { MOST_HELPERS = 63 };
enum { SHARES = 4, MOST_TAKEN = 1 << 20 }; /* of what is left a thread takes a quarter of its share, elements at most */

/* How this thread rounds and whether it flushes denormal numbers (torch.set_flush_denormal, which sets it for the
 * calling thread alone). Helpers take it over from the caller: a result must not depend on who computed it. */
#ifdef __SSE__
static unsigned float_mode(void) { return _mm_getcsr() & 0xffc0u; } /* the flags below tell what has happened */
static void set_float_mode(unsigned mode) { _mm_setcsr((_mm_getcsr() & ~0xffc0u) | mode); }
#elif defined(__aarch64__)
static unsigned float_mode(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
}
static void set_float_mode(unsigned mode) { __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode)); }
#else
static unsigned float_mode(void) { return 0; }
static void set_float_mode(unsigned mode) { (void)mode; }
#endif

typedef struct {
    const Table *table;
    Rule rule;
    int64_t piece;              /* elements; a multiple of 16 floats, one cache line */
    _Atomic int64_t next;       /* first element that nobody has taken */
    int64_t seats;              /* helpers that may still join */
    unsigned mode;              /* of the caller's arithmetic */
} Job;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t posted, left;
    Job *job;                   /* NULL: nothing to join */
    int64_t inside;             /* helpers at work */
    int64_t started;
    int busy;                   /* a caller owns the helpers */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .posted = PTHREAD_COND_INITIALIZER, .left = PTHREAD_COND_INITIALIZER};

/* Many pieces at a time while much is left: each new place costs the memory a start in every array. At the end few, so
 * that no thread is waited for long. */
static void take_pieces(Job *job) {
    const int64_t total = job->table->offset[job->table->count], piece = job->piece;
    for (;;) {
        int64_t begin = atomic_load_explicit(&job->next, memory_order_relaxed), taken;
        do {
            if (begin >= total) return;
            taken = (total - begin) / (SHARES * job->table->threads);
            if (taken > MOST_TAKEN) taken = MOST_TAKEN;
            taken = taken < piece ? piece : taken / piece * piece;
        } while (!atomic_compare_exchange_weak_explicit(&job->next, &begin, begin + taken, memory_order_relaxed,
                                                        memory_order_relaxed));
        span(job->table, job->rule, begin, begin + taken < total ? begin + taken : total);
    }
}

static void *help(void *unused) {
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        Job *job = pool.job;
        if (!job || job->seats == 0) {
            pthread_cond_wait(&pool.posted, &pool.lock);
            continue;
        }
        job->seats--;
        pool.inside++;
        pthread_mutex_unlock(&pool.lock);
        if (float_mode() != job->mode) set_float_mode(job->mode);
        take_pieces(job);
        pthread_mutex_lock(&pool.lock); /* what was written before is seen by whoever locks after */
        if (--pool.inside == 0) pthread_cond_signal(&pool.left);
    }
    return unused;
}

/* A child of fork has none of its parent's threads, and may find the lock held by one of them. */
static void after_fork(void) {
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.posted, NULL);
    pthread_cond_init(&pool.left, NULL);
    pool.job = NULL;
    pool.inside = pool.started = pool.busy = 0;
}

/* Under the lock. Helpers sleep between steps and end with the process. */
static void start_helpers(int64_t wanted) {
    static int registered;
    sigset_t all, before;
    pthread_attr_t detached;
    if (pool.started >= wanted) return;
    if (!registered) registered = !pthread_atfork(NULL, NULL, after_fork);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads that Python knows */
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    while (pool.started < wanted && !pthread_create(&thread, &detached, help, NULL)) pool.started++;
    pthread_attr_destroy(&detached);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void every(const Table *t, Rule rule) {
    const int64_t total = t->offset[t->count];
    const int64_t helpers = t->threads - 1 < MOST_HELPERS ? t->threads - 1 : MOST_HELPERS;
    int alone = helpers < 1;
    if (!alone) {
        pthread_mutex_lock(&pool.lock);
        alone = pool.busy; /* another thread of the process steps an optimizer right now */
        if (alone) pthread_mutex_unlock(&pool.lock);
    }
    if (alone) {
        span(t, rule, 0, total);
        return;
    }
    Job job = {.table = t, .rule = rule, .piece = t->piece, .seats = helpers, .mode = float_mode()};
    pool.busy = 1;
    start_helpers(helpers);
    pool.job = &job;
    pthread_cond_broadcast(&pool.posted);
    pthread_mutex_unlock(&pool.lock);
    take_pieces(&job);
    pthread_mutex_lock(&pool.lock);
    pool.job = NULL;
    while (pool.inside) pthread_cond_wait(&pool.left, &pool.lock);
    pool.busy = 0;
    pthread_mutex_unlock(&pool.lock);
}

static inline float lerp(float from, float to, float weight) {
    return fabsf(weight) < 0.5f ? fmaf(weight, to - from, from) : fmaf(weight - 1.0f, to - from, to);
}

static inline __attribute__((always_inline)) void adam_loop(
    float *restrict p, const float *restrict g, float *restrict m, float *restrict v, float *restrict top,
    const float *s, int64_t n, int decoupled, int amsgrad, int maximize, int clipped, float factor) {
    const float decay = s[0], weight = s[1], beta2 = s[2], rest2 = s[3], size = s[4], root = s[5], eps = s[6];
    for (int64_t i = 0; i < n; i++) {
        float grad = clipped ? g[i] * factor : g[i], param = p[i];
        if (maximize) grad = -grad;
        if (decoupled) param = param * decay;
        else grad = fmaf(param, decay, grad);
        m[i] = lerp(m[i], grad, weight);
        v[i] = fmaf(rest2 * grad, grad, v[i] * beta2);
        float square = v[i];
        if (amsgrad) square = top[i] = top[i] > square ? top[i] : square;
        p[i] = param + size * m[i] / (sqrtf(square) / root + eps);
    }
}

static void adam_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int32_t k = t->setting[j];
    /* Without decay both branches agree but for infinities; decoupled is then a multiplication by one. */
    const float factor = t->factor ? t->factor[k] : 1.0f;
    const int flags = t->flags[k] | (t->weight_decay[k] == 0 ? DECOUPLED : 0) | (factor != 1.0f ? CLIPPED : 0);
    float *p = t->param[j] + from, *m = t->first[j] + from, *v = t->second[j] + from;
    const float *g = t->grad[j] + from, *s = t->scalars + j * SCALARS;
    float *top = flags & AMSGRAD ? t->largest[j] + from : v;
#define CASE(bits) \
    case bits: \
        adam_loop(p, g, m, v, top, s, to - from, (bits) & DECOUPLED, (bits) & AMSGRAD, (bits) & MAXIMIZE, \
                  (bits) & CLIPPED, factor); \
        break;
    switch (flags) {
        CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
        CASE(16) CASE(17) CASE(18) CASE(19) CASE(20) CASE(21) CASE(22) CASE(23)
    }
#undef CASE
}

/* Counts a step of every tensor, and writes down what it multiplies by. */
static void adam_scalars(const Table *t) {
    int32_t last = -1;
    float counted = 0;
    for (int64_t j = 0; j < t->count; j++) {
        const int32_t k = t->setting[j];
        float *s = t->scalars + j * SCALARS;
        const float step = (*t->step[j] += 1.0f);
        if (k == last && step == counted) { /* the same settings at the same step as the tensor before */
            for (int i = 0; i < 7; i++) s[i] = s[i - SCALARS];
            continue;
        }
        last = k, counted = step;
        const double lr = t->lr[k], beta1 = t->beta1[k], beta2 = t->beta2[k], wd = t->weight_decay[k];
        s[0] = (float)(wd == 0 ? 1.0 : t->flags[k] & DECOUPLED ? 1.0 - lr * wd : wd); /* lr may be infinite */
        s[1] = (float)(1.0 - beta1);
        s[2] = (float)beta2;
        s[3] = (float)(1.0 - beta2);
        s[4] = (float)-(lr / (1.0 - pow(beta1, (double)step)));
        s[5] = (float)sqrt(1.0 - pow(beta2, (double)step));
        s[6] = (float)t->eps[k];
    }
}

/* Every step returns 0: it was taken (see lrdiff_clipped). */
int lrdiff_adam(const Table *t) {
    adam_scalars(t);
    every(t, adam_rule);
    return 0;
}

static inline __attribute__((always_inline)) void sgd_loop(
    float *restrict p, const float *restrict g, float *restrict buf, const float *s, int64_t n,
    int maximize, int decays, int momentum, int fresh, int nesterov) {
    const float rate = s[0], decay = s[1], keep = s[2], take = s[3], factor = s[4];
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * factor, param = p[i]; /* by one where nothing is clipped */
        if (maximize) grad = -grad;
        if (decays) grad = fmaf(param, decay, grad);
        if (momentum) {
            float b = fresh ? grad : fmaf(grad, take, buf[i] * keep);
            buf[i] = b;
            grad = nesterov ? fmaf(b, keep, grad) : b;
        }
        p[i] = fmaf(grad, rate, param);
    }
}

static void sgd_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int32_t k = t->setting[j];
    const int flags = t->flags[k], momentum = t->beta1[k] != 0, nesterov = momentum && flags & NESTEROV;
    const float s[5] = {(float)-t->lr[k], (float)t->weight_decay[k], (float)t->beta1[k], (float)(1.0 - t->beta2[k]),
                        t->factor ? t->factor[k] : 1.0f};
    float *p = t->param[j] + from, *buf = momentum ? t->first[j] + from : p;
    const float *g = t->grad[j] + from;
    const int64_t n = to - from;
    const int maximize = flags & MAXIMIZE, decays = s[1] != 0;
    if (!momentum) sgd_loop(p, g, buf, s, n, maximize, decays, 0, 0, 0);
    else if (t->fresh[j]) sgd_loop(p, g, buf, s, n, maximize, decays, 1, 1, nesterov);
    else if (nesterov) sgd_loop(p, g, buf, s, n, maximize, decays, 1, 0, 1);
    else sgd_loop(p, g, buf, s, n, maximize, decays, 1, 0, 0);
}

int lrdiff_sgd(const Table *t) {
    every(t, sgd_rule);
    return 0;
}

static inline __attribute__((always_inline)) void rmsprop_loop(
    float *restrict p, const float *restrict g, float *restrict buf, float *restrict v, float *restrict mean,
    const float *s, int64_t n, int maximize, int decays, int momentum, int centered) {
    const float rate = s[0], decay = s[1], keep = s[2], alpha = s[3], rest = s[4], eps = s[5], factor = s[6];
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * factor, param = p[i]; /* by one where nothing is clipped */
        if (maximize) grad = -grad;
        if (decays) grad = fmaf(param, decay, grad);
        float square = v[i] = fmaf(rest * grad, grad, v[i] * alpha);
        if (centered) {
            mean[i] = lerp(mean[i], grad, rest);
            square = fmaf(-mean[i], mean[i], square);
        }
        const float root = sqrtf(square) + eps;
        if (momentum) {
            buf[i] = buf[i] * keep + grad / root;
            p[i] = fmaf(buf[i], rate, param);
        } else {
            p[i] = param + rate * grad / root;
        }
    }
}

static void rmsprop_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int32_t k = t->setting[j];
    const int flags = t->flags[k], momentum = t->beta1[k] > 0, centered = flags & CENTERED, maximize = flags & MAXIMIZE;
    const float s[7] = {(float)-t->lr[k], (float)t->weight_decay[k], (float)t->beta1[k], (float)t->beta2[k],
                        (float)(1.0 - t->beta2[k]), (float)t->eps[k], t->factor ? t->factor[k] : 1.0f};
    float *p = t->param[j] + from, *v = t->second[j] + from;
    float *buf = momentum ? t->first[j] + from : v, *mean = centered ? t->largest[j] + from : v;
    const float *g = t->grad[j] + from;
    const int64_t n = to - from;
    const int decays = s[1] != 0;
    if (momentum && centered) rmsprop_loop(p, g, buf, v, mean, s, n, maximize, decays, 1, 1);
    else if (momentum) rmsprop_loop(p, g, buf, v, mean, s, n, maximize, decays, 1, 0);
    else if (centered) rmsprop_loop(p, g, buf, v, mean, s, n, maximize, decays, 0, 1);
    else rmsprop_loop(p, g, buf, v, mean, s, n, maximize, decays, 0, 0);
}

int lrdiff_rmsprop(const Table *t) {
    for (int64_t j = 0; j < t->count; j++) *t->step[j] += 1.0f;
    every(t, rmsprop_rule);
    return 0;
}

/* Norms of gradients, in double: squares of floats neither overflow nor vanish there. A tensor's pieces are summed each by
 * itself and then in order, so that a norm does not depend on who took which piece. */
enum { LANES = 16 };

static inline double larger(double most, double x) { return x > most || x != x ? x : most; } /* NaN stays */

static inline __attribute__((always_inline)) double reduce(const float *g, int64_t n, int largest) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            const double x = g[i + k];
            lane[k] = largest ? larger(lane[k], fabs(x)) : lane[k] + x * x;
        }
    for (; i < n; i++) {
        const double x = g[i];
        lane[0] = largest ? larger(lane[0], fabs(x)) : lane[0] + x * x;
    }
    for (int k = 1; k < LANES; k++) lane[0] = largest ? larger(lane[0], lane[k]) : lane[0] + lane[k];
    return lane[0];
}

static inline __attribute__((always_inline)) void reduce_pieces(
    const Table *t, int64_t j, int64_t from, int64_t to, int largest) {
    const int64_t n = to < t->size[j] ? to : t->size[j];
    for (; from < n; from += t->piece) {
        const int64_t length = n - from < t->piece ? n - from : t->piece;
        t->partial[(t->offset[j] + from) / t->piece] = reduce(t->grad[j] + from, length, largest);
    }
}

static void squares_rule(const Table *t, int64_t j, int64_t from, int64_t to) { reduce_pieces(t, j, from, to, 0); }
static void largest_rule(const Table *t, int64_t j, int64_t from, int64_t to) { reduce_pieces(t, j, from, to, 1); }

void lrdiff_norm(const Table *t, int largest) {
    every(t, largest ? largest_rule : squares_rule);
    for (int64_t j = 0; j < t->count; j++) {
        double *norm = t->norm + t->setting[j];
        for (int64_t i = t->offset[j] / t->piece; i < t->offset[j + 1] / t->piece; i++)
            *norm = largest ? larger(*norm, t->partial[i]) : *norm + t->partial[i];
    }
}

static void scale_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const float factor = t->factor[t->setting[j]];
    const int64_t n = to < t->size[j] ? to : t->size[j];
    float *g = t->grad[j];
    if (factor != 1.0f)
        for (int64_t i = from; i < n; i++) g[i] *= factor;
}

void lrdiff_scale(const Table *t) { every(t, scale_rule); }

#include "rules/common.h"
#include "rules/adafactor.h"
#include "rules/adagrad.h"
#include "rules/lamb.h"
#include "rules/lion.h"
#include "rules/nadam.h"
#include "rules/radam.h"
#include "rules/schedule_free.h"
#include "formats/states.h"

typedef struct {
    const Table *measured, *stepped; /* the same gradients */
    const double *limit;             /* [parts] NaN: none */
    float *told;                     /* [parts] the norms */
    float *factor;                   /* [settings] */
    int64_t parts;                   /* one, or as many as settings */
    int64_t settings;
    int64_t largest;                 /* the norm is the largest number */
    int64_t finite;                  /* refuses norms that are not */
    int (*step)(const Table *);
} Clipping;

/* Norms, then the step on gradients as scaled by clip_grad_norm_, which are written nowhere. Returns 1 for a refusal. */
int lrdiff_clipped(const Clipping *c) {
    int refused = 0;
    for (int64_t k = 0; k < c->parts; k++) c->measured->norm[k] = 0;
    lrdiff_norm(c->measured, (int)c->largest);
    for (int64_t k = 0; k < c->parts; k++) {
        c->told[k] = (float)(c->largest ? c->measured->norm[k] : sqrt(c->measured->norm[k]));
        refused |= c->finite && !isfinite(c->told[k]);
    }
    if (refused) return 1;
    for (int64_t k = 0; k < c->settings; k++) {
        const int64_t part = c->parts == 1 ? 0 : k;
        const double limit = c->limit[part];
        float factor = (1.0f / (c->told[part] + 1e-6f)) * (float)limit; /* torch's operations, of float32 */
        if (factor > 1.0f) factor = 1.0f;                               /* NaN stays */
        c->factor[k] = limit != limit ? 1.0f : factor;
    }
    Table stepped = *c->stepped;
    stepped.factor = c->factor;
    return c->step(&stepped);
}
