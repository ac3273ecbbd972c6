/* What memory allows an AdamW step: the same seven streams, four read and three of them written, with next to no arithmetic.
   `past` writes past the caches where there is AVX; `writes_past` says whether there is. */
#include <pthread.h>
#include <stdint.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

typedef struct { float *p, *g, *m, *v; int64_t begin, end, piece; int past; } part;

static void add(float *restrict p, const float *restrict g, float *restrict m, float *restrict v, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float moved = g[i];
        m[i] += moved;
        v[i] += moved;
        p[i] += moved;
    }
}

#ifdef __AVX__
int writes_past(void) { return 1; }

static int aligned(const float *at) { return (uintptr_t)at % 32 == 0; }

static void add_past(float *restrict p, const float *restrict g, float *restrict m, float *restrict v, int64_t n) {
    int64_t i = 0;
    /* Such stores take whole vectors at addresses of 32 bytes: the numbers before and after them are added plainly. */
    while (i < n && !aligned(p + i)) i++;
    add(p, g, m, v, i);
    if (aligned(m + i) && aligned(v + i))
        for (; i + 8 <= n; i += 8) {
            __m256 moved = _mm256_loadu_ps(g + i);
            _mm256_stream_ps(m + i, _mm256_add_ps(_mm256_load_ps(m + i), moved));
            _mm256_stream_ps(v + i, _mm256_add_ps(_mm256_load_ps(v + i), moved));
            _mm256_stream_ps(p + i, _mm256_add_ps(_mm256_load_ps(p + i), moved));
        }
    add(p + i, g + i, m + i, v + i, n - i);
    _mm_sfence();
}
#else
int writes_past(void) { return 0; }
#define add_past add
#endif

static void *work(void *given) {
    part *one = given;
    for (int64_t i = one->begin; i < one->end; i += one->piece) {
        int64_t n = one->end - i < one->piece ? one->end - i : one->piece;
        (one->past ? add_past : add)(one->p + i, one->g + i, one->m + i, one->v + i, n);
    }
    return 0;
}

/* The second of two threads takes the second half, as contiguous as can be. */
void streams(float *p, float *g, float *m, float *v, int64_t n, int threads, int64_t piece, int past) {
    pthread_t ids[64];
    part parts[64];
    threads = threads < 1 ? 1 : threads > 64 ? 64 : threads;
    for (int t = 0; t < threads; t++)
        parts[t] = (part){p, g, m, v, n / threads * t, t == threads - 1 ? n : n / threads * (t + 1), piece, past};
    for (int t = 1; t < threads; t++) pthread_create(&ids[t], 0, work, &parts[t]);
    work(&parts[0]);
    for (int t = 1; t < threads; t++) pthread_join(ids[t], 0);
}
