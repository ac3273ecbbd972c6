/* NAdam, as nadam.py prints it. */

static inline __attribute__((always_inline)) void nadam_loop(
    float *restrict p, const float *restrict g, float *restrict m, float *restrict v, const float *s, int64_t n,
    float factor, int decoupled) {
    const float decay = s[0], weight = s[1], beta2 = s[2], rest2 = s[3];
    const float of_grad = s[4], of_mean = s[5], root = s[6], eps = s[7];
    for (int64_t i = 0; i < n; i++) {
        float grad = g[i] * factor, param = p[i];
        if (decoupled) param = param * decay;
        else grad = fmaf(param, decay, grad);
        m[i] = lerp(m[i], grad, weight);
        v[i] = fmaf(rest2 * grad, grad, v[i] * beta2);
        p[i] = param + fmaf(of_mean, m[i], of_grad * grad) / (sqrtf(v[i]) / root + eps);
    }
}

static void nadam_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int32_t k = t->setting[j];
    float *p = t->param[j] + from, *m = t->first[j] + from, *v = t->second[j] + from;
    const float *g = t->grad[j] + from, *s = t->scalars + j * SCALARS, factor = factor_of(t, k);
    if (is_decoupled(t, k)) nadam_loop(p, g, m, v, s, to - from, factor, 1);
    else nadam_loop(p, g, m, v, s, to - from, factor, 0);
}

/* more1: momentum_decay; number1: mu_product. */
int lrdiff_nadam(const Table *t) {
    int32_t last = -1;
    float counted = 0;
    double mu = 0, next = 0, root = 0;
    for (int64_t j = 0; j < t->count; j++) {
        const int32_t k = t->setting[j];
        const double lr = t->lr[k], beta1 = t->beta1[k], beta2 = t->beta2[k];
        float *s = t->scalars + j * SCALARS;
        const float step = (*t->step[j] += 1.0f);
        if (k != last || step != counted) { /* else the same settings at the same step as the tensor before */
            last = k, counted = step;
            mu = beta1 * (1.0 - 0.5 * pow(0.96, step * t->more1[k]));
            next = beta1 * (1.0 - 0.5 * pow(0.96, (step + 1.0) * t->more1[k]));
            root = sqrt(1.0 - pow(beta2, (double)step));
        }
        const double product = (*t->number1[j] *= (float)mu);
        s[0] = decay_of(t, k);
        s[1] = (float)(1.0 - beta1);
        s[2] = (float)beta2;
        s[3] = (float)(1.0 - beta2);
        s[4] = (float)(-lr * (1.0 - mu) / (1.0 - product));
        s[5] = (float)(-lr * next / (1.0 - product * next));
        s[6] = (float)root;
        s[7] = (float)t->eps[k];
    }
    every(t, nadam_rule);
    return 0;
}
