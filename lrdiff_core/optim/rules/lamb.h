/* LAMB, as lamb.py prints it. Norms are sums in double over pieces of a tensor, added in order: no bit of them depends
 * on threads or groups. Each tensor begins a new piece (offset is rounded up to whole pieces, size has the elements). */

static inline float lamb_direction(float m, float v, float param, const float *s) {
    return fmaf(param, s[6], m * s[3] / (sqrtf(v) / s[4] + s[5]));
}

/* A piece's moments; the squares of its parameters and of its directions to `sums`. */
static void lamb_piece(
    const float *restrict p, const float *restrict g, float *restrict m, float *restrict v, const float *s, int64_t n,
    float factor, double *sums) {
    double own[LANES] = {0}, way[LANES] = {0};
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t lanes = n - i < LANES ? n - i : LANES;
        for (int64_t k = 0; k < lanes; k++) {
            const float grad = g[i + k] * factor;
            m[i + k] = lerp(m[i + k], grad, s[0]);
            v[i + k] = fmaf(s[2] * grad, grad, v[i + k] * s[1]);
            const double param = p[i + k], move = lamb_direction(m[i + k], v[i + k], p[i + k], s);
            own[k] += param * param;
            way[k] += move * move;
        }
    }
    for (int k = 1; k < LANES; k++) own[0] += own[k], way[0] += way[k];
    sums[0] = own[0], sums[1] = way[0];
}

static void lamb_moments(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int64_t n = to < t->size[j] ? to : t->size[j];
    const float factor = factor_of(t, t->setting[j]);
    for (; from < n; from += t->piece) {
        const int64_t length = n - from < t->piece ? n - from : t->piece;
        lamb_piece(t->param[j] + from, t->grad[j] + from, t->first[j] + from, t->second[j] + from,
                   t->scalars + j * SCALARS, length, factor, t->partial + 2 * ((t->offset[j] + from) / t->piece));
    }
}

static void lamb_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int64_t n = to < t->size[j] ? to : t->size[j];
    float *restrict p = t->param[j];
    const float *restrict m = t->first[j], *restrict v = t->second[j], *s = t->scalars + j * SCALARS;
    for (int64_t i = from; i < n; i++) p[i] = fmaf(lamb_direction(m[i], v[i], p[i], s), s[7], p[i]);
}

int lrdiff_lamb(const Table *t) {
    for (int64_t j = 0; j < t->count; j++) {
        const int32_t k = t->setting[j];
        const double beta1 = t->beta1[k], beta2 = t->beta2[k];
        float *s = t->scalars + j * SCALARS;
        const float step = (*t->step[j] += 1.0f);
        s[0] = (float)(1.0 - beta1);
        s[1] = (float)beta2;
        s[2] = (float)(1.0 - beta2);
        s[3] = (float)(1.0 / (1.0 - pow(beta1, (double)step)));
        s[4] = (float)sqrt(1.0 - pow(beta2, (double)step));
        s[5] = (float)t->eps[k];
        s[6] = (float)t->weight_decay[k];
    }
    every(t, lamb_moments);
    for (int64_t j = 0; j < t->count; j++) {
        double own = 0, way = 0;
        for (int64_t i = t->offset[j] / t->piece; i < t->offset[j + 1] / t->piece; i++)
            own += t->partial[2 * i], way += t->partial[2 * i + 1];
        t->scalars[j * SCALARS + 7] = (float)(-t->lr[t->setting[j]] * (own > 0 && way > 0 ? sqrt(own / way) : 1.0));
    }
    every(t, lamb_rule);
    return 0;
}
