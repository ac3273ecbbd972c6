/* RAdam, as radam.py prints it. */

static inline __attribute__((always_inline)) void radam_loop(
    float *restrict p, const float *restrict g, float *restrict m, float *restrict v, const float *s, int64_t n,
    float factor, int decoupled, int rectified) {
    const float decay = s[0], weight = s[1], beta2 = s[2], rest2 = s[3], size = s[4], eps = s[5];
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * factor, param = p[i];
        if (decoupled) param = param * decay;
        else grad = fmaf(param, decay, grad);
        m[i] = lerp(m[i], grad, weight);
        v[i] = fmaf(rest2 * grad, grad, v[i] * beta2);
        p[i] = rectified ? param + size * m[i] / (sqrtf(v[i]) + eps) : fmaf(size, m[i], param);
    }
}

static void radam_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int32_t k = t->setting[j];
    float *p = t->param[j] + from, *m = t->first[j] + from, *v = t->second[j] + from;
    const float *g = t->grad[j] + from, *s = t->scalars + j * SCALARS, factor = factor_of(t, k);
    const int64_t n = to - from;
    const int rectified = s[6] != 0;
    if (is_decoupled(t, k)) {
        if (rectified) radam_loop(p, g, m, v, s, n, factor, 1, 1);
        else radam_loop(p, g, m, v, s, n, factor, 1, 0);
    } else {
        if (rectified) radam_loop(p, g, m, v, s, n, factor, 0, 1);
        else radam_loop(p, g, m, v, s, n, factor, 0, 0);
    }
}

int lrdiff_radam(const Table *t) {
    int32_t last = -1;
    float counted = 0;
    for (int64_t j = 0; j < t->count; j++) {
        const int32_t k = t->setting[j];
        const double beta1 = t->beta1[k], beta2 = t->beta2[k];
        float *s = t->scalars + j * SCALARS;
        const float step = (*t->step[j] += 1.0f);
        if (k == last && step == counted) { /* the same settings at the same step as the tensor before */
            for (int i = 0; i < 7; i++) s[i] = s[i - SCALARS];
            continue;
        }
        last = k, counted = step;
        const double power = pow(beta2, (double)step), longest = 2.0 / (1.0 - beta2) - 1.0;
        const double length = longest - 2.0 * step * power / (1.0 - power);
        double size = -t->lr[k] / (1.0 - pow(beta1, (double)step));
        if (length > 5.0) {
            const double now = (length - 4.0) * (length - 2.0) / length, end = (longest - 4.0) * (longest - 2.0) / longest;
            size *= sqrt(1.0 - power) * sqrt(now / end);
        }
        s[0] = decay_of(t, k);
        s[1] = (float)(1.0 - beta1);
        s[2] = (float)beta2;
        s[3] = (float)(1.0 - beta2);
        s[4] = (float)size;
        s[5] = (float)t->eps[k];
        s[6] = length > 5.0;
    }
    every(t, radam_rule);
    return 0;
}
