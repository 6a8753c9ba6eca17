/* Passes over channels-last activations, each in as few walks through memory as it can be done.
 *
 * A volume is [rows, width]: one row per image and position, channels side by side. Every pass exists for float32 and
 * bfloat16 (suffix _f32, _bf16), computes in float32, deals its rows to `parts` threads, and returns 0, or 1 without
 * memory for its few tables. Sums come by part, one after the other in memory, for the caller to add in order. Vectors
 * are written in the extension that gcc and clang share.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

enum { IDENTITY, RELU, GELU, SILU, LEAKY_RELU, TANH };
#ifdef __AVX512F__ /* numbers of a vector: a register full; compilers keep arrays of longer ones in memory */
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
enum { BLOCK = 8 };  /* vectors of sums that are kept in registers */
enum { FLUSH = 64 }; /* rows whose sums are kept in float32 before they are added up in float64 */
enum { SHORT = 64 }; /* channels of rows that lie so close together that one channel's are walked down fast */

typedef uint16_t bf16;
typedef float f32;
typedef f32 vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));
typedef uint8_t bvec __attribute__((vector_size(LANES)));

INLINE vec fill(float x) { return x - (vec){0}; }
INLINE vec choose(ivec where, vec yes, vec no) { return (vec)((where & (ivec)yes) | (~where & (ivec)no)); }

/* Copies n of the lanes; n is LANES in the loops, where the compiler knows it, and less at the end of a row. */
INLINE void copy(void *to, const void *from, long n, long size) {
    if (n == LANES) memcpy(to, from, LANES * size);
    else if (n == LANES / 2) memcpy(to, from, LANES / 2 * size);
    else memcpy(to, from, n * size);
}
#if defined(__AVX512BW__) && defined(__AVX512VL__) /* by a mask: what goes through memory in parts is waited for */
#define LANES_OF(n) ((__mmask16)((1u << (n)) - 1))
INLINE vec load_f32(const f32 *p, long n) { return (vec)_mm512_maskz_loadu_ps(LANES_OF(n), p); }
INLINE void store_f32(f32 *p, vec x, long n) { _mm512_mask_storeu_ps(p, LANES_OF(n), (__m512)x); }
INLINE hvec load_half(const bf16 *p, long n) { return (hvec)_mm256_maskz_loadu_epi16(LANES_OF(n), p); }
INLINE void store_half(bf16 *p, hvec h, long n) { _mm256_mask_storeu_epi16(p, LANES_OF(n), (__m256i)h); }
#else
INLINE vec load_f32(const f32 *p, long n) { vec x = {0}; copy(&x, p, n, 4); return x; }
INLINE void store_f32(f32 *p, vec x, long n) { copy(p, &x, n, 4); }
INLINE hvec load_half(const bf16 *p, long n) { hvec h = {0}; copy(&h, p, n, 2); return h; }
INLINE void store_half(bf16 *p, hvec h, long n) { copy(p, &h, n, 2); }
#endif
INLINE vec load_bf16(const bf16 *p, long n) {
#ifdef __AVX512F__
    return (vec)((uvec)_mm512_cvtepu16_epi32((__m256i)load_half(p, n)) << 16);
#else
    return (vec)(__builtin_convertvector(load_half(p, n), uvec) << 16);
#endif
}
INLINE void store_bf16(bf16 *p, vec x, long n) { /* to the nearest, ties to even */
#ifdef __AVX512BF16__
    store_half(p, (hvec)_mm512_cvtneps_pbh((__m512)x), n);
#else
    uvec bits = (uvec)x;
    store_half(p, __builtin_convertvector((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, hvec), n);
#endif
}

/* Numbers that are only moved. */
typedef uvec bits_f32;
typedef hvec bits_bf16;
INLINE uvec load_bits_f32(const f32 *p, long n) { return (uvec)load_f32(p, n); }
INLINE void store_bits_f32(f32 *p, uvec x, long n) { store_f32(p, (vec)x, n); }
INLINE hvec load_bits_bf16(const bf16 *p, long n) { return load_half(p, n); }
INLINE void store_bits_bf16(bf16 *p, hvec x, long n) { store_half(p, x, n); }

/* One number, for rows too narrow for vectors. */
INLINE f32 get_f32(const f32 *p) { return *p; }
INLINE void put_f32(f32 *p, f32 x) { *p = x; }
INLINE f32 get_bf16(const bf16 *p) { uint32_t bits = (uint32_t)*p << 16; f32 x; memcpy(&x, &bits, 4); return x; }
INLINE void put_bf16(bf16 *p, f32 x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    *p = (bf16)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

/* e^x as 2^n · e^r with |r| <= ln 2 / 2, and e^r by its series: to 1.2e-7, or 4e-5 if rough. */
INLINE vec exponential(vec x, int rough) {
    x = choose(x < -87.0f, fill(-87.0f), choose(x > 87.0f, fill(87.0f), x));
    vec shifted = x * 1.44269504f + 12582912.0f; /* 1.5 · 2^23: the last bits of the sum are the rounded integer */
    vec n = shifted - 12582912.0f;
    vec r = (x - n * 0.693145752f) - n * 1.42860677e-6f; /* ln 2 in two parts */
    vec p = rough ? fill(1.0f / 24) : 1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720));
    p = 1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * p)));
    return p * (vec)(((ivec)shifted - 0x4B400000 + 127) << 23);
}

/* 1 / d for d >= 1 by Newton's steps, from a guess out of the exponent: divisions are slow. */
INLINE vec reciprocal(vec d, int rough) {
    vec r = (vec)(0x7EF311C7 - (ivec)d);
    r *= 2.0f - d * r;
    r *= 2.0f - d * r;
    return rough ? r : r * (2.0f - d * r);
}

/* The normal distribution function, and its density: Abramowitz and Stegun 7.1.26, to 1.5e-7. */
INLINE vec normal(vec z, vec *density) {
    vec size = (vec)((ivec)z & 0x7FFFFFFF) * 0.707106781f, e = exponential(-size * size, 0);
    vec t = reciprocal(1.0f + 0.3275911f * size, 0);
    vec tail = t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f)));
    tail = 0.5f * e * t * (0.254829592f + tail);
    *density = 0.398942280f * e;
    return choose(z < 0.0f, tail, 1.0f - tail);
}

/* An odd function plus 1/2, by a polynomial in z² that reaches 0 and 1 at -4 and 4 and is held there. For bfloat16, which
 * resolves 2e-3: the coefficients (least squares, reweighted towards the least largest error) err by 3e-5 for the
 * normal distribution function and 5e-4 for the slope of gelu. */
INLINE vec sigmoidal(vec z, const float *c) {
    z = choose(z > 4.0f, fill(4.0f), choose(z < -4.0f, fill(-4.0f), z));
    vec u = z * z, even = c[0] + u * (c[1] + u * (c[2] + u * (c[3] + u * (c[4] + u * (c[5] + u * (c[6] + u * c[7]))))));
    return 0.5f + z * even;
}
static const float CDF[8] = {3.988066316e-1f, -6.606692076e-2f, 9.583429433e-3f, -1.021684846e-3f,
                             7.629159518e-5f, -3.718148264e-6f, 1.048055935e-7f, -1.284123141e-9f};
static const float GELU_SLOPE[8] = {7.989800572e-1f, -2.662788630e-1f, 5.844375864e-2f, -8.379204199e-3f,
                                    7.870775880e-4f, -4.622663982e-5f, 1.525849598e-6f, -2.146953371e-8f};

INLINE vec logistic(vec z, int rough) {
    vec e = exponential((vec)((ivec)z | (int32_t)0x80000000), rough), t = reciprocal(1.0f + e, rough);
    return choose(z < 0.0f, e * t, t);
}

INLINE vec activate(vec z, int kind, int rough) {
    vec density;
    switch (kind) {
    case RELU: return choose(z < 0.0f, fill(0), z);
    case GELU: return z * (rough ? sigmoidal(z, CDF) : normal(z, &density));
    case SILU: return z * logistic(z, rough);
    case LEAKY_RELU: return choose(z < 0.0f, 0.01f * z, z);
    case TANH: return 2.0f * logistic(2.0f * z, rough) - 1.0f;
    default: return z;
    }
}

INLINE vec slope(vec z, int kind, int rough) {
    vec density, share;
    switch (kind) {
    case RELU: return choose(z > 0.0f, fill(1), fill(0));
    case GELU: if (rough) return sigmoidal(z, GELU_SLOPE); share = normal(z, &density); return share + z * density;
    case SILU: share = logistic(z, rough); return share * (1.0f + z * (1.0f - share));
    case LEAKY_RELU: return choose(z > 0.0f, fill(1), fill(0.01f));
    case TANH: share = logistic(2.0f * z, rough); return 4.0f * share * (1.0f - share);
    default: return fill(1);
    }
}

/* Narrow rows are taken several at once, so that vectors are full. */
INLINE long repeats(long width, long rows) {
    long times = 1;
    while ((width * times) % LANES && times < LANES) times *= 2;
    return times > rows ? 1 : times;
}

/* Per-channel values of so many rows, one after the other; NULL without memory. */
static float *repeated(const float *values, long width, long times) {
    float *out = malloc(sizeof(float) * width * times);
    for (long n = 0; out && n < times; n++) memcpy(out + n * width, values, sizeof(float) * width);
    return out;
}

static void flush(float *from, double *to, long width, long span) {
    for (long first = 0; first < span; first += width)
        for (long c = 0; c < width; c++) to[c] += from[first + c];
    memset(from, 0, span * sizeof(float));
}

/* One loop over the channels of a row: whole vectors, then the rest. */
#define ACROSS(span, STEP)                                                                                             \
    {                                                                                                                  \
        long c = 0;                                                                                                    \
        for (; c + LANES <= (span); c += LANES) STEP(c, LANES)                                                         \
        if (c < (span)) STEP(c, (span) - c)                                                                            \
    }

/* The right loop for an activation, chosen outside of it. */
#define KINDS(CALL)                                                                                                    \
    switch (kind) {                                                                                                    \
    case RELU: CALL(RELU) break;                                                                                       \
    case GELU: CALL(GELU) break;                                                                                       \
    case SILU: CALL(SILU) break;                                                                                       \
    case LEAKY_RELU: CALL(LEAKY_RELU) break;                                                                           \
    case TANH: CALL(TANH) break;                                                                                       \
    default: CALL(IDENTITY)                                                                                            \
    }

/* Deals `all` rows to the threads of OpenMP; CALL does [start, stop) as one of them, and what it returns is added to
 * `failed`. Without OpenMP the parts follow on one another. */
#define DEAL(all, CALL)                                                                                                \
    _Pragma("omp parallel for num_threads(parts) schedule(static, 1) reduction(| : failed) if (parts > 1)")            \
    for (int part = 0; part < parts; part++) {                                                                         \
        long start = (all) * part / parts, stop = (all) * (part + 1) / parts;                                          \
        failed |= CALL;                                                                                                \
    }

/* A pass that is nothing else. */
#define PASS(all, CALL)                                                                                                \
    int failed = 0;                                                                                                    \
    DEAL(all, CALL)                                                                                                    \
    return failed;

/* Whether parts run side by side. */
int threaded(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

#define NAME2(name, suffix) name##_##suffix
#define NAME1(name, suffix) NAME2(name, suffix)
#define NAME(name) NAME1(name, T)
#define LOAD NAME(load)
#define STORE NAME(store)
#define GET NAME(get)
#define PUT NAME(put)
#define BITS NAME(bits)

/* Products, of which those of mixing.h are made. Numbers lie in a tile as NARROW and are multiplied as TERMs: float32
 * one by one; bfloat16 in pairs where the processor has an instruction for it, and else as float32, rounded. */
enum { TILE = 64 }; /* rows */
#define UNROLLED(r) _Pragma("GCC unroll 8") for (int r = 0; r < BLOCK; r++)
typedef uint32_t __attribute__((may_alias)) pair;

/* One number, or n of a vector, to a tile; a vector of sums, and one number's share of it; and where the rows of a tile
 * lie as terms down its columns. */
INLINE void keep_f32(f32 *p, f32 x) { *p = x; }
INLINE void hold_f32(f32 *p, vec x, long n) { store_f32(p, x, n); }
INLINE vec dot_f32(vec sum, vec w, const f32 *x) { return sum + w * *x; }
INLINE const f32 *lace_f32(const f32 *rows, long terms, long width, f32 *out) {
    (void)terms, (void)width, (void)out;
    return rows;
}
#ifdef __AVX512BF16__
INLINE void keep_bf16(bf16 *p, f32 x) { put_bf16(p, x); }
INLINE void hold_bf16(bf16 *p, vec x, long n) { store_bf16(p, x, n); }
INLINE vec dot_bf16(vec sum, vec w, const pair *x) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32((int)*x));
}
INLINE const pair *lace_bf16(const bf16 *rows, long terms, long width, pair *out) { /* two rows to one of pairs */
    for (long t = 0; t < terms; t++)
        for (long c = 0; c < width; c += LANES) {
            const bf16 *p = rows + 2 * t * width + c;
            uvec both = (uvec)load_bf16(p, LANES) >> 16 | (uvec)load_bf16(p + width, LANES);
            memcpy(out + t * width + c, &both, sizeof both);
        }
    return out;
}
#else
INLINE void keep_bf16(f32 *p, f32 x) { bf16 h; put_bf16(&h, x); *p = get_bf16(&h); }
INLINE void hold_bf16(f32 *p, vec x, long n) {
    bf16 h[LANES];
    store_bf16(h, x, n);
    store_f32(p, load_bf16(h, n), n);
}
INLINE vec dot_bf16(vec sum, vec w, const f32 *x) { return dot_f32(sum, w, x); }
INLINE const f32 *lace_bf16(const f32 *rows, long terms, long width, f32 *out) {
    return lace_f32(rows, terms, width, out);
}
#endif

/* A layer: its volumes, the table of each (see tabulate), and hidden and output channels; padded to whole vectors they
 * are `deep` and `wide`. */
typedef struct {
    const void *const *volumes;
    const float *const *tables;
    const long *widths;
    long count, hidden, out, deep, wide;
} layer;

static long padded(long width) { return (width + LANES - 1) / LANES * LANES; }

static layer describe(const void *const *volumes, const float *const *tables, const long *widths, long count,
                      long out) {
    long hidden = 0;
    for (long n = 0; n < count; n++) hidden += widths[n];
    return (layer){volumes, tables, widths, count, hidden, out, padded(hidden), padded(out)};
}

/* Zeroed memory that begins where a vector may. */
static void *zeros(long size) {
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);
    if (p) memset(p, 0, size);
    return p;
}

/* Sums that several parts found, added in their order into those of the first. */
static void total(double *sums, long count, int parts) {
    for (int part = 1; part < parts; part++)
        for (long i = 0; i < count; i++) sums[i] += sums[part * count + i];
}

/* A table: mean (where the pivot stood before), biased variance, and the scale and shift that normalise, from sums. */
static void tabulate(const double *sums, const double *squares, const float *weight, const float *bias, long rows,
                     long width, double epsilon, float *table) {
    float *mean = table, *variance = table + width, *scale = table + 2 * width, *shift = table + 3 * width;
    for (long c = 0; c < width; c++) {
        double m = sums[c] / rows, v = squares[c] / rows - m * m;
        v = v < 0 ? 0 : v; /* a NaN stays */
        double a = weight[c] / sqrt(v + epsilon);
        m += mean[c];
        mean[c] = (float)m;
        variance[c] = (float)v;
        scale[c] = (float)a;
        shift[c] = (float)(bias[c] - m * a);
    }
}

/* From the sums of backward: what finish multiplies and adds, and in their place the gradients of bias and weight. */
static void differentiate(double *sums, double *products, const float *mean, const float *variance, const float *weight,
                          long rows, long width, double epsilon, float *slopes, float *offsets) {
    for (long c = 0; c < width; c++) {
        double r = 1 / sqrt(variance[c] + epsilon), a = weight[c] * r, e = -a * r * r * products[c] / rows;
        slopes[c] = (float)e;
        offsets[c] = (float)(-a * sums[c] / rows - e * mean[c]);
        products[c] *= r;
    }
}

#define T f32
#define ROUGH 0
#define NARROW f32
#define TERM f32
#define DEPTH 1
#include "passes.h"
#include "mixing.h"
#undef T
#undef ROUGH
#define T bf16
#define ROUGH 1
#ifdef __AVX512BF16__
#undef NARROW
#undef TERM
#undef DEPTH
#define NARROW bf16
#define TERM pair
#define DEPTH 2
#endif
#include "passes.h"
#include "mixing.h"
