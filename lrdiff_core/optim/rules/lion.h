/* Lion, with the bits of its authors' PyTorch code. */

static void lion_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int32_t k = t->setting[j];
    const double beta1 = t->beta1[k], beta2 = t->beta2[k];
    const float rate = (float)-t->lr[k], decay = decay_of(t, k), factor = factor_of(t, k);
    const float keep = (float)beta1, take = (float)(1.0 - beta1), beta = (float)beta2, rest = (float)(1.0 - beta2);
    float *restrict p = t->param[j] + from, *restrict m = t->first[j] + from;
    const float *restrict g = t->grad[j] + from;
    for (int64_t i = 0; i < to - from; i++) {
        const float grad = g[i] * factor, mixed = m[i] * keep + grad * take;
        const float sign = (float)((mixed > 0) - (mixed < 0)); /* of NaN 0, as torch's */
        p[i] = fmaf(sign, rate, p[i] * decay);
        m[i] = fmaf(grad, rest, m[i] * beta);
    }
}

int lrdiff_lion(const Table *t) {
    every(t, lion_rule);
    return 0;
}
