/* Adafactor, as adafactor.py prints it. Work is counted in blocks, whole rows of a tensor's matrices: sums of a row are
 * made within one block, sums of columns in each block by itself and then in order, both in double. No bit of them
 * depends on threads or groups. A vector is stepped as a row whose squares are all kept (columns 0). */

typedef struct Factors {
    const int64_t *rows, *columns;  /* [count] of the tensor's matrices, its last two dimensions; columns 0: none */
    const int64_t *share;           /* [count] rows that a block takes, of one matrix or all of one or several */
    const int64_t *begin;           /* [count] where the tensor's sums begin */
    double *sums;                   /* for each tensor [blocks, columns], scratch */
} Factors;

/* Rows of a tensor, counted over all its matrices. */
typedef struct {
    int64_t from, to;
    double *sums;                   /* [columns] */
} Rows;

static Rows rows_of(const Table *t, int64_t j, int64_t block) {
    const Factors *f = t->factors;
    const int64_t rows = f->rows[j], share = f->share[j], all = t->size[j] / f->columns[j];
    int64_t from = block * share, most = all;
    if (share < rows) { /* several blocks for each matrix */
        const int64_t each = (rows + share - 1) / share, matrix = block / each;
        from = matrix * rows + block % each * share, most = (matrix + 1) * rows;
    }
    return (Rows){from, from + share < most ? from + share : most, f->sums + f->begin[j] + block * f->columns[j]};
}

/* The sum of a row's squares, each of which is added to its column's. */
static double row_squares(const float *restrict g, int64_t n, float factor, double *restrict sums) {
    double sum = 0;
    int64_t i = 0;
    if (n >= LANES) {
        double lane[LANES] = {0};
        for (; i + LANES <= n; i += LANES)
            for (int k = 0; k < LANES; k++) {
                const double grad = g[i + k] * factor, square = grad * grad;
                sums[i + k] += square;
                lane[k] += square;
            }
        for (int k = 0; k < LANES; k++) sum += lane[k];
    }
    for (; i < n; i++) {
        const double grad = g[i] * factor, square = grad * grad;
        sums[i] += square;
        sum += square;
    }
    return sum;
}

static inline float factored_square(float column, float row, float least) {
    const float square = row * column;
    return square < least ? least : square; /* NaN stays */
}

/* The sum of the squares of a row's directions. */
static double row_ways(
    const float *restrict g, const float *restrict column, int64_t n, float factor, float row, float least) {
    double sum = 0;
    int64_t i = 0;
    if (n >= LANES) {
        double lane[LANES] = {0};
        for (; i + LANES <= n; i += LANES)
            for (int k = 0; k < LANES; k++) {
                const float grad = g[i + k] * factor;
                lane[k] += grad * grad / factored_square(column[i + k], row, least);
            }
        for (int k = 0; k < LANES; k++) sum += lane[k];
    }
    for (; i < n; i++) {
        const float grad = g[i] * factor;
        sum += grad * grad / factored_square(column[i], row, least);
    }
    return sum;
}

static void row_step(
    float *restrict p, const float *restrict g, const float *restrict column, int64_t n, float factor, float row,
    float least, float decay, float size) {
    for (int64_t i = 0; i < n; i++)
        p[i] = fmaf(g[i] * factor / sqrtf(factored_square(column[i], row, least)), size, p[i] * decay);
}

/* What a matrix's rows are divided by: their mean. */
static float mean_of_rows(const float *row, int64_t n, float least) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += row[i];
    const float mean = (float)(sum / n);
    return mean < least ? least : mean;
}

/* From sums over rows, which are all there. */
static void lerp_columns(float *restrict column, const double *restrict sums, int64_t n, int64_t rows, float weight) {
    for (int64_t i = 0; i < n; i++) column[i] = lerp(column[i], (float)(sums[i] / rows), weight);
}

/* s[0] 1 - beta2, s[1] eps1, s[2] its square, s[3] decay, s[4] the step's size. */

static void adafactor_vector_sums(const Table *t, int64_t j, int64_t block, float factor) {
    const float *s = t->scalars + j * SCALARS, *g = t->grad[j] + block * t->piece;
    const int64_t left = t->size[j] - block * t->piece, n = left < t->piece ? left : t->piece;
    float *restrict v = t->largest[j] + block * t->piece;
    double *sums = t->partial + 2 * (t->offset[j] / t->piece + block);
    for (int64_t i = 0; i < n; i++) {
        const float grad = g[i] * factor;
        v[i] = lerp(v[i], grad * grad, s[0]);
    }
    sums[0] = reduce(t->param[j] + block * t->piece, n, 0);
    sums[1] = row_ways(g, v, n, factor, 1.0f, s[2]);
}

static void adafactor_matrix_sums(const Table *t, int64_t j, int64_t block, float factor) {
    const Factors *f = t->factors;
    const int64_t rows = f->rows[j], n = f->columns[j];
    const float *s = t->scalars + j * SCALARS, *g = t->grad[j];
    const Rows b = rows_of(t, j, block);
    double *sums = t->partial + 2 * (t->offset[j] / t->piece + block);
    float *row = t->first[j];
    sums[0] = reduce(t->param[j] + b.from * n, (b.to - b.from) * n, 0);
    sums[1] = 0;
    for (int64_t from = b.from; from < b.to; from += rows) { /* one turn if the matrix has more rows than the block */
        const int64_t to = from + rows < b.to ? from + rows : b.to;
        for (int64_t i = 0; i < n; i++) b.sums[i] = 0;
        for (int64_t i = from; i < to; i++)
            row[i] = lerp(row[i], (float)(row_squares(g + i * n, n, factor, b.sums) / n), s[0]);
        if (f->share[j] < rows) return; /* columns are still to be added up */
        float *column = t->second[j] + from / rows * n;
        lerp_columns(column, b.sums, n, rows, s[0]);
        const float mean = mean_of_rows(row + from, rows, s[1]);
        for (int64_t i = from; i < to; i++) sums[1] += row_ways(g + i * n, column, n, factor, row[i] / mean, s[2]);
    }
}

static void adafactor_sums(const Table *t, int64_t j, int64_t from, int64_t to) {
    const float factor = factor_of(t, t->setting[j]);
    for (int64_t block = from / t->piece; block < to / t->piece; block++)
        if (t->factors->columns[j]) adafactor_matrix_sums(t, j, block, factor);
        else adafactor_vector_sums(t, j, block, factor);
}

/* Of a tensor whose matrices have several blocks each: the columns; the mean of the rows, in place of the first sum. */
static void adafactor_columns(const Table *t, int64_t j) {
    const Factors *f = t->factors;
    const int64_t rows = f->rows[j], n = f->columns[j], each = (rows + f->share[j] - 1) / f->share[j];
    const float *s = t->scalars + j * SCALARS;
    double *sums = f->sums + f->begin[j];
    for (int64_t matrix = 0; matrix < t->size[j] / (rows * n); matrix++, sums += each * n) {
        for (int64_t block = 1; block < each; block++)
            for (int64_t i = 0; i < n; i++) sums[i] += sums[block * n + i];
        lerp_columns(t->second[j] + matrix * n, sums, n, rows, s[0]);
        sums[0] = mean_of_rows(t->first[j] + matrix * rows, rows, s[1]);
    }
}

static int is_cut(const Table *t, int64_t j) { return t->size[j] && t->factors->share[j] < t->factors->rows[j]; }

static void adafactor_ways(const Table *t, int64_t j, int64_t from, int64_t to) {
    const Factors *f = t->factors;
    if (!is_cut(t, j)) return;
    const int64_t rows = f->rows[j], n = f->columns[j], each = (rows + f->share[j] - 1) / f->share[j];
    const float factor = factor_of(t, t->setting[j]), least = t->scalars[j * SCALARS + 2];
    for (int64_t block = from / t->piece; block < to / t->piece; block++) {
        const Rows b = rows_of(t, j, block);
        const float mean = (float)f->sums[f->begin[j] + block / each * each * n];
        const float *column = t->second[j] + b.from / rows * n;
        double sum = 0;
        for (int64_t i = b.from; i < b.to; i++)
            sum += row_ways(t->grad[j] + i * n, column, n, factor, t->first[j][i] / mean, least);
        t->partial[2 * (t->offset[j] / t->piece + block) + 1] = sum;
    }
}

static void adafactor_rule(const Table *t, int64_t j, int64_t from, int64_t to) {
    const Factors *f = t->factors;
    const int64_t rows = f->rows[j], n = f->columns[j];
    const float factor = factor_of(t, t->setting[j]), *s = t->scalars + j * SCALARS, *g = t->grad[j];
    float *p = t->param[j];
    if (!n) {
        const int64_t end = to < t->size[j] ? to : t->size[j];
        row_step(p + from, g + from, t->largest[j] + from, end - from, factor, 1.0f, s[2], s[3], s[4]);
        return;
    }
    const int64_t each = is_cut(t, j) ? (rows + f->share[j] - 1) / f->share[j] : 0;
    for (int64_t block = from / t->piece; block < to / t->piece; block++) {
        const Rows b = rows_of(t, j, block);
        float mean = each ? (float)f->sums[f->begin[j] + block / each * each * n] : 0;
        for (int64_t i = b.from; i < b.to; i++) {
            if (!each && i % rows == 0) mean = mean_of_rows(t->first[j] + i, rows, s[1]);
            row_step(p + i * n, g + i * n, t->second[j] + i / rows * n, n, factor, t->first[j][i] / mean, s[2], s[3], s[4]);
        }
    }
}

/* beta1: beta2_decay, beta2: eps2, eps: eps1, more1: d. */
int lrdiff_adafactor(const Table *t) {
    int cut = 0;
    for (int64_t j = 0; j < t->count; j++) {
        const int32_t k = t->setting[j];
        float *s = t->scalars + j * SCALARS;
        const float step = (*t->step[j] += 1.0f);
        s[0] = (float)pow(step, t->beta1[k]);
        s[1] = (float)t->eps[k];
        s[2] = (float)(t->eps[k] * t->eps[k]);
        s[3] = (float)(t->weight_decay[k] == 0 ? 1.0 : 1.0 - t->lr[k] * t->weight_decay[k]); /* lr may be infinite */
        cut |= is_cut(t, j);
    }
    every(t, adafactor_sums);
    if (cut) {
        for (int64_t j = 0; j < t->count; j++)
            if (is_cut(t, j)) adafactor_columns(t, j);
        every(t, adafactor_ways);
    }
    for (int64_t j = 0; j < t->count; j++) {
        const int32_t k = t->setting[j];
        double own = 0, way = 0;
        for (int64_t i = t->offset[j] / t->piece; i < t->offset[j + 1] / t->piece; i++)
            own += t->partial[2 * i], way += t->partial[2 * i + 1];
        own = sqrt(own / t->size[j]), way = sqrt(way / t->size[j]) / t->more1[k];
        const double limit = 1.0 / sqrt(*t->step[j]), rate = limit < t->lr[k] ? limit : t->lr[k];
        const double size = (own > t->beta2[k] ? own : t->beta2[k]) * rate; /* with NaN as Python's max and min */
        t->scalars[j * SCALARS + 4] = (float)-(size / (way > 1.0 ? way : 1.0));
    }
    every(t, adafactor_rule);
    return 0;
}
