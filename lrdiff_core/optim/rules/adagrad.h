/* Adagrad, with the bits of torch's fused kernel (the vector part). */

static void adagrad_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int32_t k = t->setting[j];
    float *restrict p = t->param[j] + from, *restrict sum = t->first[j] + from;
    const float *restrict g = t->grad[j] + from, rate = t->scalars[j * SCALARS], factor = factor_of(t, k);
    const float decay = (float)t->weight_decay[k], eps = (float)t->eps[k];
    for (int64_t i = 0; i < to - from; i++) {
        float grad = g[i] * factor;
        const float param = p[i];
        if (decay != 0) grad = fmaf(param, decay, grad);
        sum[i] = fmaf(grad, grad, sum[i]);
        p[i] = param - rate * grad / (sqrtf(sum[i]) + eps);
    }
}

/* beta1: lr_decay. */
int lrdiff_adagrad(const Table *t) {
    for (int64_t j = 0; j < t->count; j++) {
        const int32_t k = t->setting[j];
        const double step = (*t->step[j] += 1.0f);
        t->scalars[j * SCALARS] = (float)(t->lr[k] / (1.0 + (step - 1.0) * t->beta1[k]));
    }
    every(t, adagrad_rule);
    return 0;
}
