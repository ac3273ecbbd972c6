/* Schedule-free AdamW, as schedule_free.py prints it; the parameter is y. */

static inline __attribute__((always_inline)) void schedule_free_loop(
    float *restrict y, const float *restrict g, float *restrict z, float *restrict v, const float *s, int64_t n,
    float factor, int decays) {
    const float beta2 = s[0], rest2 = s[1], root = s[2], eps = s[3];
    const float decay = s[4], share = s[5], of_y = s[6], of_z = s[7];
    for (int64_t i = 0; i < n; i++) {
        const float grad = g[i] * factor, param = y[i], base = z[i];
        v[i] = fmaf(rest2 * grad, grad, v[i] * beta2);
        float move = grad / (sqrtf(v[i]) / root + eps);
        if (decays) move = fmaf(param, decay, move);
        y[i] = fmaf(move, of_y, lerp(param, base, share));
        z[i] = fmaf(move, of_z, base);
    }
}

static void schedule_free_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const int32_t k = t->setting[j];
    float *y = t->param[j] + from, *z = t->first[j] + from, *v = t->second[j] + from;
    const float *g = t->grad[j] + from, *s = t->scalars + j * SCALARS, factor = factor_of(t, k);
    if (s[4] != 0) schedule_free_loop(y, g, z, v, s, to - from, factor, 1);
    else schedule_free_loop(y, g, z, v, s, to - from, factor, 0);
}

/* more1: warmup_steps, more2: r, more3: weight_lr_power; number1: the highest rate so far (lr_max), number2: the sum of
 * all weights of the average in units of the last one. */
int lrdiff_schedule_free(const Table *t) {
    int32_t last = -1;
    float counted = 0;
    double root = 0, grown = 0;
    for (int64_t j = 0; j < t->count; j++) {
        const int32_t k = t->setting[j];
        const double beta1 = t->beta1[k], beta2 = t->beta2[k];
        float *s = t->scalars + j * SCALARS;
        const float step = (*t->step[j] += 1.0f), before = *t->number1[j];
        if (k != last || step != counted) { /* else the same settings at the same step as the tensor before */
            last = k, counted = step;
            root = sqrt(1.0 - pow(beta2, (double)step));
            grown = pow((step - 1.0) / step, t->more2[k]);
        }
        const double rate = t->lr[k] * (step < t->more1[k] ? step / t->more1[k] : 1.0);
        const float top = (float)rate > before ? (*t->number1[j] = (float)rate) : before;
        double weight = grown;
        if (top != before) weight *= pow((double)before / top, t->more3[k]); /* while rates rise */
        const float sum = step == 1.0f ? 1.0f : (float)(1.0 + *t->number2[j] * weight);
        *t->number2[j] = sum;
        const double share = 1.0 / sum;
        s[0] = (float)beta2;
        s[1] = (float)(1.0 - beta2);
        s[2] = (float)root;
        s[3] = (float)t->eps[k];
        s[4] = (float)t->weight_decay[k];
        s[5] = (float)share;
        s[6] = (float)(rate * (beta1 * (1.0 - share) - 1.0));
        s[7] = (float)-rate;
    }
    every(t, schedule_free_rule);
    return 0;
}
