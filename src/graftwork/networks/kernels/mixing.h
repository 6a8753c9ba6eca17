/* σ of normalised volumes, the 1×1 filters that mix them, and the residual, in one walk through memory; and back. For
 * one type T, as in passes.h.
 *
 * Rows are taken TILE at a time: what lies between the volumes of a layer and its output, the hidden channels, is never
 * all in memory, and computed again on the way back.
 */

/* Packed for products: of each LANES columns of w [depth, columns] (strides `down` and `across`) all terms one below
 * the other; missing rows and columns are zero. */
static void NAME(pack)(const float *w, long depth, long columns, long down, long across, TERM *packed) {
    long terms = (depth + DEPTH - 1) / DEPTH, tall = padded(columns);
    NARROW *out = (NARROW *)packed;
    for (long first = 0; first < tall; first += LANES)
        for (long t = 0; t < terms; t++)
            for (long c = first; c < first + LANES; c++)
                for (long k = t * DEPTH; k < (t + 1) * DEPTH; k++)
                    NAME(keep)(out++, k < depth && c < columns ? w[k * down + c * across] : 0);
}

/* sum[r] += Σ in[r, t] · w[t] for BLOCK rows r and vectors w[t]: rows and terms of in are `far` and `next` terms apart,
 * vectors `step`. */
INLINE void NAME(gather)(vec *sum, const TERM *in, long far, long next, const TERM *w, long step, long terms) {
    for (long t = 0; t < terms; t++) {
        vec v;
        memcpy(&v, w + t * step, sizeof v);
        UNROLLED(r) sum[r] = NAME(dot)(sum[r], v, in + r * far + t * next);
    }
}

/* Of a tile's rows of one volume: hidden = σ(x · scale + shift). */
INLINE void NAME(hide)(const T *x, long width, const float *table, long rows, NARROW *hidden, long deep, int kind) {
#define STEP(c, n)                                                                                                     \
    {                                                                                                                  \
        vec scale = load_f32(table + 2 * width + c, n), shift = load_f32(table + 3 * width + c, n);                    \
        for (long r = 0; r < rows; r++)                                                                                \
            NAME(hold)(hidden + r * deep + c, activate(LOAD(x + r * width + c, n) * scale + shift, kind, ROUGH), n);   \
    }
    ACROSS(width, STEP)
#undef STEP
}

/* Columns c to c + n of y [rows, out] = hidden · packed + bias + source, whose rows have `more` of them. */
INLINE void NAME(mix_columns)(const layer *l, const NARROW *hidden, const TERM *packed, const float *bias, long rows,
                              const T *source, long channels, T *y, long n, long more) {
    long terms = (l->hidden + DEPTH - 1) / DEPTH;
    vec add = load_f32(bias, n);
    for (long r = 0; r < rows; r += BLOCK) {
        vec sum[BLOCK];
        UNROLLED(i) sum[i] = add;
        NAME(gather)(sum, (const TERM *)(hidden + r * l->deep), l->deep / DEPTH, 1, packed, LANES, terms);
        UNROLLED(i) {
            if (r + i == rows) break;
            if (more) sum[i] += LOAD(source + (r + i) * channels, more);
            STORE(y + (r + i) * l->out, sum[i], n);
        }
    }
}

static int NAME(mix_part)(const layer *l, const TERM *packed, const float *bias, long start, long stop, int kind,
                          const T *source, long channels, T *y) {
    long step = (l->hidden + DEPTH - 1) / DEPTH;
    NARROW *hidden = zeros(TILE * l->deep * sizeof(NARROW));
    if (!hidden) return 1;
    for (long row = start; row < stop; row += TILE) {
        long rows = stop - row < TILE ? stop - row : TILE, first = 0;
        for (long n = 0; n < l->count; n++) {
            const T *x = (const T *)l->volumes[n] + row * l->widths[n];
#define HIDE(KIND) NAME(hide)(x, l->widths[n], l->tables[n], rows, hidden + first, l->deep, KIND);
            KINDS(HIDE)
#undef HIDE
            first += l->widths[n];
        }
#define COLUMNS(n, more)                                                                                               \
    NAME(mix_columns)(l, hidden, packed + c * step, bias + c, rows, source + row * channels + c, channels,             \
                      y + row * l->out + c, n, more);
        for (long c = 0; c < l->out; c += LANES) {
            long n = l->out - c < LANES ? l->out - c : LANES, more = channels - c < n ? channels - c : n;
            if (more == LANES) COLUMNS(LANES, LANES)
            else COLUMNS(n, more < 0 ? 0 : more)
        }
#undef COLUMNS
    }
    free(hidden);
    return 0;
}

/* y = mixing · σ(x · scale + shift) + bias, and the source [rows, channels] added to as many channels as it has. */
int NAME(mix)(const void *const *volumes, const float *const *tables, const long *widths, long count, long rows,
              int kind, const float *mixing, const float *bias, long out, const T *source, long channels, T *y,
              int parts) {
    layer l = describe(volumes, tables, widths, count, out);
    TERM *packed = zeros((l.hidden + DEPTH - 1) / DEPTH * l.wide * sizeof(TERM));
    int failed = 0;
    if (!packed) return 1;
    NAME(pack)(mixing, l.hidden, out, 1, l.hidden, packed);
    DEAL(rows, NAME(mix_part)(&l, packed, bias, start, stop, kind, source, channels, y))
    free(packed);
    return failed;
}

/* Columns of one volume on the way back: e = (g · packed) · σ'(x · scale + shift) to d, σ to hidden, and Σ e and
 * Σ e (x − mean) added to the sums; `table` begins with the first column. */
INLINE void NAME(back_columns)(const layer *l, const NARROW *g, const TERM *packed, const T *x, long width,
                               const float *table, long rows, T *d, NARROW *hidden, double *sums, double *products,
                               long n, int kind) {
    vec mean = load_f32(table, n), scale = load_f32(table + 2 * width, n), shift = load_f32(table + 3 * width, n);
    vec total = {0}, product = {0};
    long terms = (l->out + DEPTH - 1) / DEPTH;
    for (long r = 0; r < rows; r += BLOCK) {
        vec sum[BLOCK], found[BLOCK];
        UNROLLED(i) sum[i] = fill(0);
        NAME(gather)(sum, (const TERM *)(g + r * l->wide), l->wide / DEPTH, 1, packed, LANES, terms);
        UNROLLED(i) found[i] = sum[i]; /* those in registers can't be numbered */
        long until = rows - r < BLOCK ? rows - r : BLOCK;
        for (long i = 0; i < until; i++) {
            vec v = LOAD(x + (r + i) * width, n);
            vec e = NAME(backward_lanes)(v, found[i], scale, shift, mean, &total, &product, kind);
            NAME(hold)(hidden + (r + i) * l->deep, activate(v * scale + shift, kind, ROUGH), n);
            STORE(d + (r + i) * width, e, n);
        }
    }
    for (long i = 0; i < n; i++) {
        sums[i] += total[i];
        products[i] += product[i];
    }
}

/* Rows of g as products take them, and their sums. */
INLINE void NAME(take)(const T *g, long rows, long out, NARROW *to, long wide, double *sums) {
#define STEP(c, n)                                                                                                     \
    {                                                                                                                  \
        vec sum = {0};                                                                                                 \
        long m = n;                                                                                                    \
        for (long r = 0; r < rows; r++) {                                                                              \
            vec v = LOAD(g + r * out + c, m);                                                                          \
            NAME(hold)(to + r * wide + c, v, m);                                                                       \
            sum += v;                                                                                                  \
        }                                                                                                              \
        for (long i = 0; i < m; i++) sums[c + i] += sum[i];                                                            \
    }
    ACROSS(out, STEP)
#undef STEP
}

/* One thread's share of mix_backward: `found` gets Σ e and Σ e (x − mean) of all hidden channels and Σ g, `by_mixing`
 * [wide, deep] the gradient by the mixing filters. */
static int NAME(back_part)(const layer *l, const TERM *packed, long start, long stop, int kind, const T *g,
                           void *const *ds, double *found, float *by_mixing) {
    NARROW *hidden = zeros(TILE * (l->deep + l->wide) * sizeof(NARROW)), *taken = hidden + TILE * l->deep;
    TERM *laced = zeros(TILE / DEPTH * (l->deep + l->wide) * sizeof(TERM));
    long depth = (l->out + DEPTH - 1) / DEPTH, high = (l->out + BLOCK - 1) / BLOCK * BLOCK;
    if (!hidden || !laced) { free(hidden); free(laced); return 1; }
    for (long row = start; row < stop; row += TILE) {
        long rows = stop - row < TILE ? stop - row : TILE, terms = (rows + DEPTH - 1) / DEPTH, first = 0;
        const TERM *next = packed;
        NAME(take)(g + row * l->out, rows, l->out, taken, l->wide, found + 2 * l->hidden);
        for (long v = 0; v < l->count; v++) {
            long width = l->widths[v];
            const T *x = (const T *)l->volumes[v] + row * width;
            T *d = (T *)ds[v] + row * width;
            double *sums = found + first, *products = sums + l->hidden;
#define STEP(c, n)                                                                                                     \
    {                                                                                                                  \
        NAME(back_columns)(l, taken, next, x + c, width, l->tables[v] + c, rows, d + c, hidden + first + c, sums + c,  \
                           products + c, n, KIND);                                                                     \
        next += LANES * depth;                                                                                         \
    }
#define BACK(kind) { enum { KIND = kind }; ACROSS(width, STEP) }
            KINDS(BACK)
#undef BACK
#undef STEP
            first += width;
        }
        if (rows % DEPTH) { /* half a pair */
            memset(hidden + rows * l->deep, 0, l->deep * sizeof(NARROW));
            memset(taken + rows * l->wide, 0, l->wide * sizeof(NARROW));
        }
        const TERM *deep = NAME(lace)(hidden, terms, l->deep, laced);
        const TERM *wide = NAME(lace)(taken, terms, l->wide, laced + TILE / DEPTH * l->deep);
        for (long o = 0; o < high; o += BLOCK)
            for (long c = 0; c < l->hidden; c += LANES) {
                float *to = by_mixing + o * l->deep + c;
                vec sum[BLOCK];
                UNROLLED(i) sum[i] = load_f32(to + i * l->deep, LANES);
                NAME(gather)(sum, wide + o, 1, l->wide, deep + c, l->deep, terms);
                UNROLLED(i) store_f32(to + i * l->deep, sum[i], LANES);
            }
    }
    free(hidden); free(laced);
    return 0;
}

/* The way back through mix, and through a norm by batch statistics (see backward): from g, the gradient by y, those by
 * the volumes to `ds`, and by the norm's weight and bias [2, hidden], the mixing filters [out, hidden] and its bias. */
int NAME(mix_backward)(const void *const *volumes, const float *const *tables, const long *widths, long count,
                       long rows, int kind, const float *mixing, long out, const T *g, const float *weight,
                       double epsilon, void *const *ds, float *by_norm, float *by_mixing, float *by_bias, int parts) {
    layer l = describe(volumes, tables, widths, count, out);
    long sums = 2 * l.hidden + out, products = l.wide * l.deep, depth = (out + DEPTH - 1) / DEPTH, tall = 0, first = 0;
    for (long n = 0; n < count; n++) tall += padded(widths[n]);
    TERM *packed = zeros(tall * depth * sizeof(TERM)), *next = packed;
    double *found = zeros(parts * sums * sizeof(double));
    float *by_part = zeros((parts * products + 2 * l.hidden) * sizeof(float)), *slopes = by_part + parts * products;
    float *offsets = slopes + l.hidden;
    int failed = !packed || !found || !by_part;
    if (failed) goto end;
    for (long n = 0; n < count; n++) {
        NAME(pack)(mixing + first, out, widths[n], l.hidden, 1, next);
        next += padded(widths[n]) * depth;
        first += widths[n];
    }
    DEAL(rows, NAME(back_part)(&l, packed, start, stop, kind, g, ds, found + part * sums, by_part + part * products))
    total(found, sums, parts);
    for (int part = 1; part < parts; part++)
        for (long i = 0; i < products; i++) by_part[i] += by_part[part * products + i];
    for (long o = 0; o < out; o++) {
        memcpy(by_mixing + o * l.hidden, by_part + o * l.deep, l.hidden * sizeof(float));
        by_bias[o] = (float)found[2 * l.hidden + o];
    }
    first = 0;
    for (long n = 0; weight && n < count; n++) {
        long width = widths[n];
        const float *table = tables[n];
        const T *x = volumes[n];
        T *d = ds[n];
        differentiate(found + first, found + l.hidden + first, table, table + width, weight + first, rows, width,
                      epsilon, slopes, offsets);
        DEAL(rows, NAME(finish_part)(x + start * width, d + start * width, stop - start, width, table + 2 * width,
                                     slopes, offsets))
        first += width;
    }
    for (long c = 0; c < l.hidden; c++) {
        by_norm[c] = (float)found[l.hidden + c];
        by_norm[l.hidden + c] = (float)found[c];
    }
end:
    free(packed); free(found); free(by_part);
    return failed;
}
