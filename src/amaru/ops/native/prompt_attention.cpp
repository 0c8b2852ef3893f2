// Attention of many queries over keys and values that lie in pages, in bfloat16: two products of matrices for a block of keys, and a
// softmax between them that is corrected as larger scores are found.
//
// A task has the queries of some tokens that read one head of the keys. Blocks of keys begin at fixed places, and every row has
// arithmetic of its own; but few queries are summed in another order (paged_attention.cpp).

#include "products.h"
#include "team.h"

#if defined(__AVX512BF16__)

namespace {

constexpr int KEYS = 128;          // places of a block
constexpr int ABREAST = 6;         // rows of a product in registers, by WIDE vectors
constexpr int WIDE = 4;
constexpr int NEAR = 8 * ABREAST;  // rows whose scores stay in the first-level cache
constexpr int TASK = 256;          // rows of a task: a block of keys is laid out for as many

struct Shape {
    int64_t sequences, heads, kv_heads, qk, v, page, pages, table, window, sinks, q_stride;  // window < 0: none
    const int64_t *bounds, *lengths, *places;                                               // places: the table of pages
    float scale;

    int64_t shared() const { return heads / kv_heads; }
    int64_t tokens() const { return std::max<int64_t>(16, TASK / shared()); }  // of a task
    int64_t queries(int64_t sequence) const { return bounds[sequence + 1] - bounds[sequence]; }
    int64_t first(int64_t sequence) const { return lengths[sequence] - queries(sequence); }  // the place of its first query
    bool sees(int64_t query, int64_t key) const { return key <= query && (window < 0 || query - key <= window || key < sinks); }
    // Whether any query from `first` on sees a place of the block, as far as the window decides.
    bool reaches(int64_t first, int64_t start) const { return window < 0 || start < sinks || start + KEYS > first - window; }
    bool all_seen(int64_t first, int64_t last, int64_t start) const {
        return start + KEYS - 1 <= first && (window < 0 || last - start <= window);
    }
};

struct Inputs {
    Shape s;
    const bf16 *q, *keys, *values;
    bf16 *out;
};

struct Task {
    int64_t sequence, head, token;  // of the keys; the first of its tokens, within the sequence
};

// c [R][16 Z] = a bᵀ, or more of it: two columns of a in each 32 bits of a row, b [pairs][lanes] with the same two in each lane.
template <int R, int Z> void multiply_rows(const bf16 *a, int64_t a_stride, const uint32_t *b, int64_t lanes, int64_t pairs, float *c, int64_t c_stride, bool more) {
    __m512 sum[R][Z];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int z = 0; z < Z; z++) sum[r][z] = more ? _mm512_loadu_ps(c + r * c_stride + 16 * z) : _mm512_setzero_ps();
    for (int64_t pair = 0; pair < pairs; pair++, b += lanes) {
        __m512bh column[Z];
#pragma GCC unroll 4
        for (int z = 0; z < Z; z++) column[z] = (__m512bh)_mm512_loadu_si512(b + 16 * z);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const __m512bh both = (__m512bh)_mm512_set1_epi32(unaligned<int32_t>(a + r * a_stride + 2 * pair));
#pragma GCC unroll 4
            for (int z = 0; z < Z; z++) sum[r][z] = _mm512_dpbf16_ps(sum[r][z], both, column[z]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int z = 0; z < Z; z++) _mm512_storeu_ps(c + r * c_stride + 16 * z, sum[r][z]);
}

template <int R, int Z> void multiply_some(int rows, const bf16 *a, int64_t a_stride, const uint32_t *b, int64_t lanes, int64_t pairs, float *c, int64_t c_stride, bool more) {
    if constexpr (R > 1) {
        if (rows < R) return multiply_some<R - 1, Z>(rows, a, a_stride, b, lanes, pairs, c, c_stride, more);
    }
    multiply_rows<R, Z>(a, a_stride, b, lanes, pairs, c, c_stride, more);
}

// `lanes` is a multiple of 16.
void multiply_all(int64_t rows, const bf16 *a, int64_t a_stride, const uint32_t *b, int64_t lanes, int64_t pairs, float *c, int64_t c_stride, bool more) {
    for (int64_t lane = 0; lane < lanes;) {
        const bool wide = lanes - lane >= 16 * WIDE;
        for (int64_t row = 0; row < rows; row += ABREAST) {
            const int some = std::min<int64_t>(ABREAST, rows - row);
            (wide ? multiply_some<ABREAST, WIDE> : multiply_some<ABREAST, 1>)(some, a + row * a_stride, a_stride, b + lane, lanes, pairs,
                                                                              c + row * c_stride + lane, c_stride, more);
        }
        lane += wide ? 16 * WIDE : 16;
    }
}

// A block of keys and values, two columns of the product in each 32 bits; places that the sequence does not have are zeros.
struct Block {
    std::vector<uint32_t> keys, values;  // [qk / 2][KEYS], [KEYS / 2][v]

    explicit Block(const Shape &s) : keys(s.qk / 2 * KEYS), values(KEYS / 2 * s.v) {}

    void lay_out(const Inputs &in, const Task &task, int64_t start) {
        const Shape &s = in.s;
        const bf16 *key_rows[KEYS], *value_rows[KEYS];
        const std::vector<bf16> nothing(std::max(s.qk, s.v));
        for (int k = 0; k < KEYS; k++) {
            const int64_t place = start + k, page = place < s.lengths[task.sequence] ? s.places[task.sequence * s.table + place / s.page] : -1;
            const int64_t row = (page * s.page + place % s.page) * s.kv_heads + task.head;
            key_rows[k] = page < 0 ? nothing.data() : in.keys + row * s.qk;
            value_rows[k] = page < 0 ? nothing.data() : in.values + row * s.v;
        }
        for (int64_t first = 0; first < s.qk / 2; first += 16)  // what is written stays near while sixteen pairs of each key are read
            for (int k = 0; k < KEYS; k++)
                for (int64_t pair = first; pair < std::min(first + 16, s.qk / 2); pair++)
                    keys[pair * KEYS + k] = unaligned<uint32_t>(key_rows[k] + 2 * pair);
        for (int k = 0; k < KEYS; k += 2)
            for (int64_t i = 0; i < s.v; i++) values[k / 2 * s.v + i] = value_rows[k][i] | uint32_t(value_rows[k + 1][i]) << 16;
    }
};

// Of one row so far: the largest score, the sum of weights, and the weighted values, not yet divided.
struct Row {
    float most = -INFINITY, sum = 0;
};

// Scores of a row with a block become weights; what was summed before is made smaller where a larger score was found.
void weigh(const Shape &s, int64_t query, int64_t start, bool all_seen, float *scores, bf16 *weights, Row &row, float *total) {
    if (!all_seen)
        for (int k = 0; k < KEYS; k++)
            if (!s.sees(query, start + k)) scores[k] = -INFINITY;
    vec most = vec{} + row.most, sum = {};
    for (int k = 0; k < KEYS; k += WIDTH) {
        const vec score = unaligned<vec>(scores + k) * s.scale;
        std::memcpy(scores + k, &score, sizeof score);
        most = score > most || score != score ? score : most;
    }
    float larger = most[0];
    for (int i = 1; i < WIDTH; i++) larger = most[i] > larger || most[i] != most[i] ? most[i] : larger;
    if (larger == -INFINITY) {
        std::fill_n(weights, KEYS, 0);
        return;
    }
    for (int k = 0; k < KEYS; k++) scores[k] = scores[k] == -INFINITY ? 0.f : exponential(scores[k] - larger);
    for (int k = 0; k < KEYS; k += WIDTH) sum += unaligned<vec>(scores + k);
    for (int k = 0; k < KEYS; k++) store(weights[k], scores[k]);
    if (larger != row.most) {
        const float factor = row.most == -INFINITY ? 0.f : exponential(row.most - larger);
        row.sum *= factor;
        for (int64_t i = 0; i < s.v; i++) total[i] *= factor;
        row.most = larger;
    }
    for (int i = 0; i < WIDTH; i++) row.sum += sum[i];
}

void attend(const Inputs &in, const Task &task) {
    const Shape &s = in.s;
    const int64_t shared = s.shared(), tokens = std::min(s.tokens(), s.queries(task.sequence) - task.token), rows = tokens * shared;
    const int64_t place = s.first(task.sequence) + task.token, token = s.bounds[task.sequence] + task.token;
    std::vector<bf16> q(rows * s.qk);
    for (int64_t r = 0; r < rows; r++)
        std::memcpy(&q[r * s.qk], in.q + (token + r / shared) * s.q_stride + (task.head * shared + r % shared) * s.qk, s.qk * sizeof(bf16));
    std::vector<Row> state(rows);
    Block block(s);
    Floats totals(rows * s.v), scores(NEAR * KEYS);
    alignas(64) bf16 weights[NEAR * KEYS];
    for (int64_t start = 0; start < place + tokens; start += KEYS) {
        if (!s.reaches(place, start)) continue;
        block.lay_out(in, task, start);
        for (int64_t first = 0; first < rows; first += NEAR) {
            const int64_t some = std::min<int64_t>(NEAR, rows - first), low = place + first / shared, high = place + (first + some - 1) / shared;
            if (start > high) continue;
            multiply_all(some, &q[first * s.qk], s.qk, block.keys.data(), KEYS, s.qk / 2, scores.data, KEYS, false);
            const bool all_seen = s.all_seen(low, high, start);
            for (int64_t r = 0; r < some; r++)
                weigh(s, place + (first + r) / shared, start, all_seen, scores.at(r * KEYS), weights + r * KEYS, state[first + r], totals.at((first + r) * s.v));
            multiply_all(some, weights, KEYS, block.values.data(), s.v, KEYS / 2, totals.at(first * s.v), s.v, true);
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        bf16 *to = in.out + ((token + r / shared) * s.heads + task.head * shared + r % shared) * s.v;
        for (int64_t i = 0; i < s.v; i++) store(to[i], totals[r * s.v + i] / state[r].sum);
    }
}

void attention(const Inputs &in, int threads) {
    const Shape &s = in.s;
    std::vector<Task> tasks;
    for (int64_t sequence = 0; sequence < s.sequences; sequence++)
        for (int64_t token = 0; token < s.queries(sequence); token += s.tokens())
            for (int64_t head = 0; head < s.kv_heads; head++) tasks.push_back({sequence, head, token});
    share(tasks.size(), threads, [&](int64_t i) { attend(in, tasks[tasks.size() - 1 - i]); });  // those that see most first
}

// The first sequence that would read a page behind the pool or its table, or -1.
int64_t lost(const Shape &s) {
    for (int64_t sequence = 0; sequence < s.sequences; sequence++) {
        if (s.lengths[sequence] > s.table * s.page) return sequence;
        for (int64_t place = 0; place < s.lengths[sequence]; place += s.page)
            if (s.places[sequence * s.table + place / s.page] >= s.pages) return sequence;
    }
    return -1;
}

}  // namespace

#endif

// Whether this processor multiplies bfloat16.
EXPORT int64_t prompt_attention_serves() {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}

// As paged_attention, in bfloat16, with an even width of q and k and a multiple of 16 of v. A page below 0 is read by nobody.
EXPORT int64_t prompt_attention(const int64_t *sizes, float scale, const int64_t *bounds, const int64_t *lengths, const int64_t *table,
                                const void *q, const void *keys, const void *values, void *out, int64_t threads) {
#if defined(__AVX512BF16__)
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10], bounds, lengths, table, scale};
    const int64_t wrong = lost(s);
    if (wrong >= 0) return wrong;
    attention({s, (const bf16 *)q, (const bf16 *)keys, (const bf16 *)values, (bf16 *)out}, threads);
#endif
    return -1;
}
