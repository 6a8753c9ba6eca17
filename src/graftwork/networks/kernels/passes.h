/* The passes of kernels.c for one type T. Of each there is the work of one thread, on the rows that it is given, and
 * the pass itself, which deals rows to threads. */

/* sums = Σ (x − pivot), squares = Σ (x − pivot)²; the pivot keeps differences of large numbers away. */
static int NAME(moments_part)(const T *x, long rows, long width, const float *pivot, double *sums, double *squares) {
    long times = repeats(width, rows), span = width * times, blocks = rows / times;
    float *shift = repeated(pivot, width, times), *one = calloc(2 * span, sizeof(float)), *two = one + span;
    if (!shift || !one) { free(shift); free(one); return 1; }
    for (long c = 0; c < width; c++) sums[c] = squares[c] = 0;
#define STEP(c, n)                                                                                                     \
    {                                                                                                                  \
        vec v = LOAD(row + c, n) - load_f32(shift + c, n);                                                             \
        store_f32(one + c, load_f32(one + c, n) + v, n);                                                               \
        store_f32(two + c, load_f32(two + c, n) + v * v, n);                                                           \
    }
    for (long b = 0; b < blocks; b += FLUSH) {
        long until = b + FLUSH < blocks ? b + FLUSH : blocks;
        if (span % LANES == 0 && span <= SHORT) { /* down the rows, with the sums in registers */
            for (long c = 0; c < span; c += LANES) {
                vec p = load_f32(shift + c, LANES), sum = {0}, square = {0};
                for (const T *row = x + b * span + c; row < x + until * span; row += span) {
                    vec v = LOAD(row, LANES) - p;
                    sum += v;
                    square += v * v;
                }
                store_f32(one + c, sum, LANES);
                store_f32(two + c, square, LANES);
            }
        } else
            for (long n = b; n < until; n++) {
                const T *row = x + n * span;
                ACROSS(span, STEP)
            }
        flush(one, sums, width, span);
        flush(two, squares, width, span);
    }
    for (long r = blocks * times; r < rows; r++) {
        const T *row = x + r * width;
        ACROSS(width, STEP)
    }
#undef STEP
    flush(one, sums, width, span);
    flush(two, squares, width, span);
    free(shift); free(one);
    return 0;
}
/* The table [4, width] that normalises x: see tabulate. */
int NAME(normaliser)(const T *x, long rows, long width, const float *weight, const float *bias, double epsilon,
                     float *table, int parts) {
    double *found = malloc(2 * parts * width * sizeof(double));
    int failed = 0;
    if (!found) return 1;
    for (long c = 0; c < width; c++) table[c] = GET(x + c); /* the first row is the pivot */
    DEAL(rows, NAME(moments_part)(x + start * width, stop - start, width, table, found + 2 * part * width,
                                  found + (2 * part + 1) * width))
    total(found, 2 * width, parts);
    tabulate(found, found + width, weight, bias, rows, width, epsilon, table);
    free(found);
    return failed;
}

INLINE void NAME(forward_row)(const T *x, const float *scale, const float *shift, T *y, long span, int kind) {
#define STEP(c, n) STORE(y + c, activate(LOAD(x + c, n) * load_f32(scale + c, n) + load_f32(shift + c, n), kind, ROUGH), n);
    ACROSS(span, STEP)
#undef STEP
}

/* y = σ(x · scale + shift). */
static int NAME(forward_part)(const T *x, long rows, long width, const float *scale, const float *shift, int kind,
                              T *y) {
    long times = repeats(width, rows), span = width * times, blocks = rows / times;
    float *a = repeated(scale, width, times), *b = repeated(shift, width, times);
    if (!a || !b) { free(a); free(b); return 1; }
#define LOOP(KIND)                                                                                                     \
    for (long n = 0; n < blocks; n++) NAME(forward_row)(x + n * span, a, b, y + n * span, span, KIND);                 \
    for (long r = blocks * times; r < rows; r++)                                                                       \
        NAME(forward_row)(x + r * width, a, b, y + r * width, width, KIND);
    KINDS(LOOP)
#undef LOOP
    free(a); free(b);
    return 0;
}
int NAME(forward)(const T *x, long rows, long width, const float *table, int kind, T *y, int parts) {
    PASS(rows, NAME(forward_part)(x + start * width, stop - start, width, table + 2 * width, table + 3 * width, kind,
                                  y + start * width))
}

/* d of some lanes, by what normalises them: from x and g; adds to their sums and products. */
INLINE vec NAME(backward_lanes)(vec v, vec g, vec scale, vec shift, vec mean, vec *sum, vec *product, int kind) {
    vec e = g * slope(v * scale + shift, kind, ROUGH);
    *sum += e;
    *product += e * (v - mean);
    return e;
}

INLINE void NAME(backward_row)(const T *x, const T *g, const float *tables, T *d, float *sums, long all, long span,
                               int kind) {
    const float *a = tables, *b = tables + all, *m = tables + 2 * all;
#define STEP(c, n)                                                                                                     \
    {                                                                                                                  \
        vec sum = load_f32(sums + c, n), product = load_f32(sums + all + c, n);                                        \
        STORE(d + c, NAME(backward_lanes)(LOAD(x + c, n), LOAD(g + c, n), load_f32(a + c, n), load_f32(b + c, n),      \
                                          load_f32(m + c, n), &sum, &product, kind), n);                               \
        store_f32(sums + c, sum, n);                                                                                   \
        store_f32(sums + all + c, product, n);                                                                         \
    }
    ACROSS(span, STEP)
#undef STEP
}

/* The same of all rows for one vector of channels, with its sums in registers. */
INLINE void NAME(backward_down)(const T *x, const T *g, const float *tables, T *d, float *sums, long span, long rows,
                                int kind) {
    vec scale = load_f32(tables, LANES), shift = load_f32(tables + span, LANES);
    vec mean = load_f32(tables + 2 * span, LANES), sum = {0}, product = {0};
    for (long r = 0; r < rows; r++) {
        vec e = NAME(backward_lanes)(LOAD(x + r * span, LANES), LOAD(g + r * span, LANES), scale, shift, mean, &sum,
                                     &product, kind);
        STORE(d + r * span, e, LANES);
    }
    store_f32(sums, sum, LANES);
    store_f32(sums + span, product, LANES);
}

/* d = g · σ'(x · scale + shift), sums = Σ d, products = Σ d · (x − mean). */
static int NAME(backward_part)(const T *x, const T *g, long rows, long width, const float *scale, const float *shift,
                               const float *mean, int kind, T *d, double *sums, double *products) {
    long times = repeats(width, rows), span = width * times, blocks = rows / times;
    float *tables = malloc(3 * span * sizeof(float)), *one = calloc(2 * span, sizeof(float));
    if (!tables || !one) { free(tables); free(one); return 1; }
    for (long c = 0; c < span; c++) {
        tables[c] = scale[c % width];
        tables[span + c] = shift[c % width];
        tables[2 * span + c] = mean[c % width];
    }
    for (long c = 0; c < width; c++) sums[c] = products[c] = 0;
#define LOOP(KIND)                                                                                                     \
    for (long n = 0; n < blocks; n += FLUSH) {                                                                         \
        long until = n + FLUSH < blocks ? n + FLUSH : blocks;                                                          \
        if (span % LANES == 0 && span <= SHORT)                                                                        \
            for (long c = 0; c < span; c += LANES)                                                                     \
                NAME(backward_down)(x + n * span + c, g + n * span + c, tables + c, d + n * span + c, one + c, span,   \
                                    until - n, KIND);                                                                  \
        else                                                                                                           \
            for (long r = n; r < until; r++)                                                                           \
                NAME(backward_row)(x + r * span, g + r * span, tables, d + r * span, one, span, span, KIND);           \
        flush(one, sums, width, span);                                                                                 \
        flush(one + span, products, width, span);                                                                      \
    }                                                                                                                  \
    for (long r = blocks * times; r < rows; r++)                                                                       \
        NAME(backward_row)(x + r * width, g + r * width, tables, d + r * width, one, span, width, KIND);
    KINDS(LOOP)
#undef LOOP
    flush(one, sums, width, span);
    flush(one + span, products, width, span);
    free(tables); free(one);
    return 0;
}

/* d = d · scale + x · slopes + offsets, in place: the last step of a norm's gradient. */
static int NAME(finish_part)(const T *x, T *d, long rows, long width, const float *scale, const float *slopes,
                 const float *offsets) {
    long times = repeats(width, rows), span = width * times, blocks = rows / times;
    float *a = repeated(scale, width, times), *e = repeated(slopes, width, times), *f = repeated(offsets, width, times);
    if (!a || !e || !f) { free(a); free(e); free(f); return 1; }
#define STEP(c, n)                                                                                                     \
    STORE(out + c, LOAD(out + c, n) * load_f32(a + c, n) + LOAD(in + c, n) * load_f32(e + c, n) + load_f32(f + c, n), n);
    for (long b = 0; b < blocks; b++) {
        const T *in = x + b * span;
        T *out = d + b * span;
        ACROSS(span, STEP)
    }
    for (long r = blocks * times; r < rows; r++) {
        const T *in = x + r * width;
        T *out = d + r * width;
        ACROSS(width, STEP)
    }
#undef STEP
    free(a); free(e); free(f);
    return 0;
}

/* d = the gradient by x of what has the gradient g by σ(x · scale + shift); and [2, width]: the gradients by the norm's
 * weight and bias. Without a weight nothing goes through the norm, and these are Σ d · (x − mean) and Σ d. */
int NAME(backward)(const T *x, const T *g, long rows, long width, const float *table, int kind, const float *weight,
                   double epsilon, T *d, float *gradients, int parts) {
    const float *mean = table, *variance = table + width, *scale = table + 2 * width, *shift = table + 3 * width;
    double *found = malloc(2 * parts * width * sizeof(double) + 2 * width * sizeof(float)), *products = found + width;
    int failed = 0;
    if (!found) return 1;
    DEAL(rows, NAME(backward_part)(x + start * width, g + start * width, stop - start, width, scale, shift, mean, kind,
                                   d + start * width, found + 2 * part * width, found + (2 * part + 1) * width))
    total(found, 2 * width, parts);
    if (weight) {
        float *slopes = (float *)(found + 2 * parts * width), *offsets = slopes + width;
        differentiate(found, products, mean, variance, weight, rows, width, epsilon, slopes, offsets);
        DEAL(rows, NAME(finish_part)(x + start * width, d + start * width, stop - start, width, scale, slopes, offsets))
    }
    for (long c = 0; c < width; c++) {
        gradients[c] = (float)products[c];
        gradients[width + c] = (float)found[c];
    }
    free(found);
    return failed;
}

/* y[:, :width] += x[:, :width]; rows are `y_stride` and `x_stride` apart. */
static int NAME(add_part)(T *y, long y_stride, const T *x, long x_stride, long rows, long width) {
    if (y_stride == width && x_stride == width) { width *= rows; rows = 1; }
    if (width < 8) { /* the images themselves, as residual of a first layer */
        for (long r = 0; r < rows; r++, y += y_stride, x += x_stride)
            for (long c = 0; c < width; c++) PUT(y + c, GET(y + c) + GET(x + c));
        return 0;
    }
#define STEP(c, n) STORE(out + c, LOAD(out + c, n) + LOAD(in + c, n), n);
    for (long r = 0; r < rows; r++) {
        T *out = y + r * y_stride;
        const T *in = x + r * x_stride;
        ACROSS(width, STEP)
    }
#undef STEP
    return 0;
}
int NAME(add)(T *y, long y_stride, const T *x, long x_stride, long rows, long width, int parts) {
    PASS(rows, NAME(add_part)(y + start * y_stride, y_stride, x + start * x_stride, x_stride, stop - start, width))
}

/* 2×2 max-pool of images [height, breadth, width]: y, and in `which` the number of the largest, the first of equals. */
static int NAME(pool_part)(const T *x, long images, long height, long breadth, long width, T *y, uint8_t *which) {
#define LARGER(number, pointer)                                                                                        \
    {                                                                                                                  \
        vec v = LOAD(pointer, m);                                                                                      \
        ivec more = (v > best) | (v != v); /* NaN wins, as in torch */                                                 \
        best = choose(more, v, best);                                                                                  \
        k = (more & number) | (~more & k);                                                                             \
    }
#define STEP(c, n)                                                                                                     \
    {                                                                                                                  \
        long m = n;                                                                                                    \
        vec best = LOAD(p + c, m);                                                                                     \
        ivec k = {0};                                                                                                  \
        LARGER(1, p + width + c)                                                                                       \
        LARGER(2, q + c)                                                                                               \
        LARGER(3, q + width + c)                                                                                       \
        STORE(y + c, best, m);                                                                                         \
        bvec small = __builtin_convertvector(k, bvec);                                                                 \
        copy(which + c, &small, m, 1);                                                                                 \
    }
    for (long r = 0; r < images * (height / 2); r++) {
        const T *p = x + (r / (height / 2) * height + r % (height / 2) * 2) * breadth * width;
        for (long j = 0; j < breadth / 2; j++, p += 2 * width, y += width, which += width) {
            const T *q = p + breadth * width;
            ACROSS(width, STEP)
        }
    }
#undef STEP
#undef LARGER
    return 0;
}
int NAME(pool)(const T *x, long images, long height, long breadth, long width, T *y, uint8_t *which, int parts) {
    long whole = height * breadth * width, quarter = (height / 2) * (breadth / 2) * width;
    PASS(images, NAME(pool_part)(x + start * whole, stop - start, height, breadth, width, y + start * quarter,
                                 which + start * quarter))
}

/* The gradient of pool: g where the largest stood, zero elsewhere; writes all of d. */
static int NAME(unpool_part)(const T *g, const uint8_t *which, long images, long height, long breadth, long width,
                             T *d) {
    if (height % 2 || breadth % 2) memset(d, 0, sizeof(T) * images * height * breadth * width);
#define STEP(c, n)                                                                                                     \
    {                                                                                                                  \
        long m = n;                                                                                                    \
        BITS v = NAME(load_bits)(g + c, m);                                                                            \
        bvec small = {0};                                                                                              \
        copy(&small, which + c, m, 1);                                                                                 \
        BITS k = __builtin_convertvector(small, BITS);                                                                 \
        NAME(store_bits)(p + c, (BITS)(k == 0) & v, m);                                                                \
        NAME(store_bits)(p + width + c, (BITS)(k == 1) & v, m);                                                        \
        NAME(store_bits)(q + c, (BITS)(k == 2) & v, m);                                                                \
        NAME(store_bits)(q + width + c, (BITS)(k == 3) & v, m);                                                        \
    }
    for (long r = 0; r < images * (height / 2); r++) {
        T *p = d + (r / (height / 2) * height + r % (height / 2) * 2) * breadth * width;
        for (long j = 0; j < breadth / 2; j++, p += 2 * width, g += width, which += width) {
            T *q = p + breadth * width;
            ACROSS(width, STEP)
        }
    }
#undef STEP
    return 0;
}
int NAME(unpool)(const T *g, const uint8_t *which, long images, long height, long breadth, long width, T *d,
                 int parts) {
    long whole = height * breadth * width, quarter = (height / 2) * (breadth / 2) * width;
    PASS(images, NAME(unpool_part)(g + start * quarter, which + start * quarter, stop - start, height, breadth, width,
                                   d + start * whole))
}
