// Attention of a few queries over keys and values that lie in pages, read where they lie.
//
// Places are cut into spans at fixed places. A task takes one span of one sequence, all its queries at once: scores, softmax within
// the span, weighted values. Where there are enough tasks, one takes all heads of the keys, so that rows of the pool are read whole
// and in order: half of each row, and the other half later, comes from memory at half the rate. Spans are then joined in order, so no
// bit depends on threads, on other sequences, on how many queries come together, or on the heads of a task.

#include "products.h"
#include "program.h"
#include "team.h"

namespace {

constexpr int SPAN = 256;  // places of a task
constexpr int RUN = 16;    // places whose values are turned to float together
constexpr int ABREAST = 4; // queries that share one reading of values
constexpr int ENOUGH = 4;  // tasks for each thread, so that none waits long for the others
constexpr int KEYS_AHEAD = 8, VALUES_AHEAD = 32;  // rows; short parts of rows in turn are no pattern that a processor sees coming

struct Shape {
    int64_t sequences, heads, kv_heads, qk, v, page, pages, table, window, sinks, q_stride;  // window < 0: none
    const int64_t *bounds, *lengths, *places;                                               // places: the table of pages
    float scale;

    int shared() const { return heads / kv_heads; }
    int queries(int64_t sequence) const { return bounds[sequence + 1] - bounds[sequence]; }
    // The place of its first query, and of the first key behind the sinks that any of its queries sees.
    int64_t first(int64_t sequence) const { return lengths[sequence] - queries(sequence); }
    int64_t begin(int64_t sequence) const { return window < 0 ? 0 : std::max<int64_t>(0, first(sequence) - window); }
    bool sees(int64_t query, int64_t key) const { return key <= query && (window < 0 || query - key <= window || key < sinks); }
};

// Places that follow one another within a page.
struct Segment {
    int64_t place, row;  // row: of the pool, over all pages
    int count;
};

struct Task {
    int64_t sequence, head, heads, start;  // from `head` on, so many
};

void add_segments(const Shape &s, int64_t sequence, int64_t from, int64_t to, std::vector<Segment> &segments) {
    while (from < to) {
        const int64_t page = s.places[sequence * s.table + from / s.page], count = std::min(to - from, s.page - from % s.page);
        segments.push_back({from, page * s.page + from % s.page, (int)count});
        from += count;
    }
}

// What a span holds of the places that the sequence's queries see: sinks, and everything from the window on.
std::vector<Segment> visible(const Shape &s, int64_t sequence, int64_t start) {
    std::vector<Segment> segments;
    const int64_t stop = std::min(start + SPAN, s.lengths[sequence]), begin = s.begin(sequence);
    add_segments(s, sequence, start, std::min({stop, s.sinks, begin}), segments);
    add_segments(s, sequence, std::max(start, begin), stop, segments);
    return segments;
}

// The softmax of one query over one span, not yet divided: values weighted with e^(score - most), and the sum of weights.
struct Partial {
    float most, sum;
    float *values;
};

// Codes of 8 bits (E4M3) with a power of two for each head of a place: any of their numbers is one in bfloat16 too.
using eight = uint8_t;

inline float widened(eight code, float scale) {
    const uint32_t size = code & 127, sign = uint32_t(code & 128) << 24;
    const float normal = __builtin_bit_cast(float, (size << 20) + (120u << 23)), tiny = float(int32_t(size)) * 0x1p-9f;
    const float number = size == 127 ? NAN : size < 8 ? tiny : normal;
    return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, number) | sign) * scale;
}

// T of queries and what comes out, K of keys and values; scales [pages][page][kv_heads] of those, where they are codes.
template <class T, class K> struct Inputs {
    Shape s;
    const T *q;
    const K *keys, *values;
    const bf16 *key_scales, *value_scales;
    T *out;
};

inline void fetch(const void *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)from + i, 0, 3);
}

// The queries of one sequence that read one head of the keys, one behind the other.
template <class T, class K> void gather(const Inputs<T, K> &in, int64_t sequence, int64_t head, int queries, T *to) {
    const Shape &s = in.s;
    for (int i = 0; i < queries; i++) {
        const int64_t token = s.bounds[sequence] + i / s.shared();
        std::memcpy(to + i * s.qk, in.q + token * s.q_stride + (head * s.shared() + i % s.shared()) * s.qk, s.qk * sizeof(T));
    }
}

// Scores of `count` queries with R keys; those of one query lie SPAN apart from the next one's.
template <int R, class T> void score_rows(const Shape &s, const Matrix<T> &keys, const T *q, int count, float *scores) {
    float sums[MANY][ROWS];
    for (int first = 0; first < count; first += MANY) {
        const int some = std::min(MANY, count - first);
        multiply<R, MANY>(keys, Matrix<T>{q + first * s.qk, s.qk}, some, s.qk, (const T *)nullptr, sums);
        for (int n = 0; n < some; n++)
            for (int r = 0; r < R; r++) scores[(first + n) * SPAN + r] = s.scale * sums[n][r];
    }
}

template <class T, class K> void score(const Inputs<T, K> &in, const Task &task, const std::vector<Segment> &segments, int queries, float *scores) {
    const Shape &s = in.s;
    std::vector<T> q(task.heads * queries * s.qk);
    for (int64_t head = 0; head < task.heads; head++) gather(in, task.sequence, task.head + head, queries, &q[head * queries * s.qk]);
    const int64_t stride = s.kv_heads * s.qk;
    std::vector<T> wide(std::is_same_v<T, K> ? 0 : ROWS * s.qk);
    for (const Segment &segment : segments) {
        const K *keys = in.keys + segment.row * stride + task.head * s.qk;
        auto all_heads = [&](int place, auto rows) {
            fetch(keys + (place + KEYS_AHEAD) * stride, rows.value * stride * sizeof(K));
            for (int64_t head = 0; head < task.heads; head++) {
                const K *from = keys + place * stride + head * s.qk;
                Matrix<T> near{wide.data(), s.qk};
                if constexpr (std::is_same_v<T, K>)
                    near = {from, stride};
                else
                    for (int r = 0; r < rows.value; r++) {
                        const float scale = load(in.key_scales[(segment.row + place + r) * s.kv_heads + task.head + head]);
                        for (int64_t i = 0; i < s.qk; i++) store(wide[r * s.qk + i], widened(from[r * stride + i], scale));
                    }
                score_rows<decltype(rows)::value>(s, near, &q[head * queries * s.qk], queries,
                                                  scores + head * queries * SPAN + segment.place - task.start + place);
            }
        };
        int place = 0;
        for (; place + ROWS <= segment.count; place += ROWS) all_heads(place, std::integral_constant<int, ROWS>());
        for (; place < segment.count; place++) all_heads(place, std::integral_constant<int, 1>());
    }
}

// What one query does not see of a segment scores minus infinity. Most segments lie before every query and behind no window.
void hide(const Shape &s, int64_t query, const Segment &segment, float *scores) {
    if (segment.place + segment.count - 1 <= query && (s.window < 0 || query - segment.place <= s.window)) return;
    for (int k = 0; k < segment.count; k++)
        if (!s.sees(query, segment.place + k)) scores[k] = -INFINITY;
}

// The largest lane; a NaN is not passed over.
inline float largest(const vec &v) {
    float most = v[0];
    for (int i = 1; i < WIDTH; i++) most = v[i] > most || v[i] != v[i] ? v[i] : most;
    return most;
}

// Scores of one query with the places from `start` on become weights; what it does not see weighs nothing. A place has the same lane
// whatever others are visible beside it.
void weigh(const Shape &s, int64_t query, int64_t start, const std::vector<Segment> &segments, float *scores, Partial &partial) {
    const int count = segments.empty() ? 0 : segments.back().place + segments.back().count - start;
    for (const Segment &segment : segments) hide(s, query, segment, scores + segment.place - start);
    vec most = vec{} - INFINITY, sum = {};
    for (int k = 0; k < count; k += WIDTH) {
        const vec score = *(const vec *)(scores + k);
        most = score > most || score != score ? score : most;
    }
    partial.most = largest(most), partial.sum = 0;
    if (partial.most == -INFINITY) {
        std::fill_n(scores, count, 0.f);
        return;
    }
    for (int k = 0; k < padded(count); k++) scores[k] = scores[k] == -INFINITY ? 0.f : exponential(scores[k] - partial.most);
    for (int k = 0; k < count; k += WIDTH) sum += *(const vec *)(scores + k);
    for (int i = 0; i < WIDTH; i++) partial.sum += sum[i];
}

template <int N> void add_values(const float *weights, const float *rows, int count, int width, Partial *partials) {
    for (int lane = 0; lane < width; lane += WIDTH) {
        vec sum[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) sum[n] = *(const vec *)(partials[n].values + lane);
        for (int k = 0; k < count; k++) {
            const vec value = *(const vec *)(rows + k * width + lane);
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) sum[n] += weights[n * SPAN + k] * value;
        }
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) *(vec *)(partials[n].values + lane) = sum[n];
    }
}

template <class T, class K>
void mix(const Inputs<T, K> &in, const Task &task, const std::vector<Segment> &segments, int queries, const float *weights, Partial *partials) {
    const int width = padded(in.s.v);
    const int64_t stride = in.s.kv_heads * in.s.v;
    Floats rows(RUN * width);
    for (const Segment &segment : segments) {
        for (int first = 0; first < segment.count; first += RUN) {
            const int count = std::min(RUN, segment.count - first);
            for (int64_t head = 0; head < task.heads; head++) {
                const K *from = in.values + (segment.row + first) * stride + (task.head + head) * in.s.v;
                for (int k = 0; k < count; k++) {
                    fetch(from + (k + VALUES_AHEAD) * stride, in.s.v * sizeof(K));
                    if constexpr (std::is_same_v<T, K>) {
                        for (int64_t i = 0; i < in.s.v; i++) rows[k * width + i] = load(from[k * stride + i]);
                    } else {
                        const float scale = load(in.value_scales[(segment.row + first + k) * in.s.kv_heads + task.head + head]);
                        for (int64_t i = 0; i < in.s.v; i++) rows[k * width + i] = widened(from[k * stride + i], scale);
                    }
                }
                const float *own = weights + head * queries * SPAN + segment.place - task.start + first;
                Partial *to = partials + head * queries;
                int n = 0;
                for (; n + ABREAST <= queries; n += ABREAST) add_values<ABREAST>(own + n * SPAN, rows.data, count, width, to + n);
                for (; n < queries; n++) add_values<1>(own + n * SPAN, rows.data, count, width, to + n);
            }
        }
    }
}

// `partials` of this span: for each head of the keys those of all queries.
template <class T, class K> void attend(const Inputs<T, K> &in, const Task &task, Partial *partials) {
    const Shape &s = in.s;
    const int queries = s.queries(task.sequence) * s.shared();
    const std::vector<Segment> segments = visible(s, task.sequence, task.start);
    Floats scores(task.heads * queries * SPAN);
    std::fill_n(scores.data, scores.size, -INFINITY);
    score(in, task, segments, queries, scores.data);
    for (int i = 0; i < task.heads * queries; i++)
        weigh(s, s.first(task.sequence) + i % queries / s.shared(), task.start, segments, scores.at(i * SPAN), partials[i]);
    mix(in, task, segments, queries, scores.data, partials);
}

// The spans of one query, in order: `partials` of the first, and those of the next ones `stride` further on each.
template <class T> void join(const Partial *partials, int spans, int stride, int64_t width, T *out) {
    float most = -INFINITY, sum = 0;
    for (int i = 0; i < spans; i++) most = partials[i * stride].most > most || most != most ? partials[i * stride].most : most;
    std::vector<float> total(width, 0.f);
    for (int i = 0; i < spans; i++) {
        const Partial &partial = partials[i * stride];
        if (partial.most == -INFINITY) continue;
        const float factor = exponential(partial.most - most);
        sum += factor * partial.sum;
        for (int64_t k = 0; k < width; k++) total[k] += factor * partial.values[k];
    }
    for (int64_t k = 0; k < width; k++) store(out[k], total[k] / sum);
}

// One span of one sequence, and where its partial results lie: those of its heads of the keys one behind the other.
struct Span {
    int64_t sequence, start, partial;
};

struct Work {
    std::vector<Span> spans;
    std::vector<int64_t> begin;  // of each sequence among the spans, and the end
    int64_t partials = 0;

    explicit Work(const Shape &s) : begin{0} {
        for (int64_t sequence = 0; sequence < s.sequences; sequence++) {
            for (int64_t start = 0; start < s.lengths[sequence]; start += SPAN) {
                if (start >= s.sinks && start + SPAN <= s.begin(sequence)) continue;
                spans.push_back({sequence, start, partials});
                partials += s.queries(sequence) * s.heads;
            }
            begin.push_back(spans.size());
        }
    }
};

template <class T, class K> void attention(const Inputs<T, K> &in, int threads) {
    const Shape &s = in.s;
    const Work work(s);
    const int width = padded(s.v);
    Floats values(work.partials * width);
    std::vector<Partial> partials(work.partials);
    for (int64_t i = 0; i < work.partials; i++) partials[i].values = values.at(i * width);
    const int64_t count = work.spans.size(), parts = count < ENOUGH * threads ? s.kv_heads : 1, heads = s.kv_heads / parts;
    share(count * parts, threads, [&](int64_t i) {
        const Span &span = work.spans[i / parts];
        const int64_t head = i % parts * heads;
        attend(in, Task{span.sequence, head, heads, span.start}, &partials[span.partial + head * s.queries(span.sequence) * s.shared()]);
    });
    for (int64_t sequence = 0; sequence < s.sequences; sequence++) {
        const int queries = s.queries(sequence) * s.shared(), spans = work.begin[sequence + 1] - work.begin[sequence];
        for (int64_t i = 0; i < s.kv_heads * queries; i++) {
            const int64_t token = s.bounds[sequence] + i % queries / s.shared(), head = i / queries * s.shared() + i % s.shared();
            join(&partials[work.spans[work.begin[sequence]].partial + i], spans, s.kv_heads * queries, s.v, in.out + (token * s.heads + head) * s.v);
        }
    }
}

// The first sequence that would read a page which is none, or -1.
int64_t lost(const Shape &s) {
    for (int64_t sequence = 0; sequence < s.sequences; sequence++)
        for (int64_t place = 0; place < s.lengths[sequence]; place = (place / s.page + 1) * s.page) {
            const int64_t page = s.places[sequence * s.table + place / s.page];
            const bool seen = place < s.sinks || (place / s.page + 1) * s.page > s.begin(sequence);
            if (seen && (page < 0 || page >= s.pages)) return sequence;
        }
    return -1;
}

}  // namespace

// sizes: sequences, heads, kv_heads, width of q and k, width of v, places of a page, pages of the pool, pages of a row of the table,
// window (-1: none), sinks, stride of q from token to token. q [T][heads][qk] and both pools are of one type, or the pools are codes with
// scales (else null); out [T][heads][v]. Returns -1, or the first sequence whose table leads out of the pool: then nothing was done.
EXPORT int64_t paged_attention(int64_t is_bf16, const void *key_scales, const void *value_scales, const int64_t *sizes, float scale,
                               const int64_t *bounds, const int64_t *lengths, const int64_t *table, const void *q, const void *keys,
                               const void *values, void *out, int64_t threads) {
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10], bounds, lengths, table, scale};
    const int64_t wrong = lost(s);
    if (wrong >= 0) return wrong;
    auto run = [&](auto type, auto held) {
        using T = decltype(type);
        using K = decltype(held);
        attention(Inputs<T, K>{s, (const T *)q, (const K *)keys, (const K *)values, (const bf16 *)key_scales, (const bf16 *)value_scales, (T *)out},
                  threads);
    };
    if (is_bf16)
        key_scales ? run(bf16(), eight()) : run(bf16(), bf16());
    else
        key_scales ? run(float(), eight()) : run(float(), float());
    return -1;
}

PROGRAMMABLE(paged_attention)
