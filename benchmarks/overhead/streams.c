/* What memory allows an AdamW step: the same seven streams, four read and three of them written, with next to no arithmetic.
   Stores past the caches (_mm256_stream_ps) took fifteen times as long, since each line has just been read: left out. */
#include <pthread.h>
#include <stdint.h>

typedef struct { float *p, *g, *m, *v; int64_t begin, end, piece; } part;

static void add(float *restrict p, const float *restrict g, float *restrict m, float *restrict v, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float moved = g[i];
        m[i] += moved;
        v[i] += moved;
        p[i] += moved;
    }
}

static void *work(void *given) {
    part *one = given;
    for (int64_t i = one->begin; i < one->end; i += one->piece) {
        int64_t n = one->end - i < one->piece ? one->end - i : one->piece;
        add(one->p + i, one->g + i, one->m + i, one->v + i, n);
    }
    return 0;
}

/* The second of two threads takes the second half, as contiguous as can be. */
void streams(float *p, float *g, float *m, float *v, int64_t n, int threads, int64_t piece) {
    pthread_t ids[64];
    part parts[64];
    threads = threads < 1 ? 1 : threads > 64 ? 64 : threads;
    for (int t = 0; t < threads; t++)
        parts[t] = (part){p, g, m, v, n / threads * t, t == threads - 1 ? n : n / threads * (t + 1), piece};
    for (int t = 1; t < threads; t++) pthread_create(&ids[t], 0, work, &parts[t]);
    work(&parts[0]);
    for (int t = 1; t < threads; t++) pthread_join(ids[t], 0);
}
