// Attention of a few queries over keys and values that lie in pages, read where they lie.
//
// Places are cut into spans at fixed places. A task takes one span of one sequence for one head of the keys, all its queries at once:
// scores, softmax within the span, weighted values. Spans are then joined in order, so no bit depends on threads, on other
// sequences, or on how many queries come together.

#include "products.h"
#include "program.h"
#include "team.h"

namespace {

constexpr int SPAN = 256;  // places of a task
constexpr int RUN = 16;    // places whose values are turned to float together
constexpr int ABREAST = 4; // queries that share one reading of values

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
    int64_t sequence, head, start, partial;  // partial: where its result lies
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

template <class T> struct Inputs {
    Shape s;
    const T *q, *keys, *values;
    T *out;
};

template <class T> void score(const Inputs<T> &in, const Task &task, const std::vector<Segment> &segments, int queries, float *scores) {
    const Shape &s = in.s;
    std::vector<T> q(queries * s.qk);
    for (int i = 0; i < queries; i++) {
        const int64_t token = s.bounds[task.sequence] + i / s.shared(), head = task.head * s.shared() + i % s.shared();
        std::memcpy(&q[i * s.qk], in.q + token * s.q_stride + head * s.qk, s.qk * sizeof(T));
    }
    const int64_t stride = s.kv_heads * s.qk;
    float sums[MANY][ROWS];
    int done = 0;
    for (const Segment &segment : segments) {
        const Matrix<T> keys{in.keys + segment.row * stride + task.head * s.qk, stride};
        for (int first = 0; first < queries; first += MANY) {
            const int count = std::min(MANY, queries - first);
            const Matrix<T> x{&q[first * s.qk], s.qk};
            auto keep = [&](int place, int rows) {
                for (int n = 0; n < count; n++)
                    for (int r = 0; r < rows; r++) scores[(first + n) * SPAN + done + place + r] = s.scale * sums[n][r];
            };
            int place = 0;
            for (; place + ROWS <= segment.count; place += ROWS) {
                multiply<ROWS, MANY>(Matrix<T>{keys.row(place), stride}, x, count, s.qk, (const T *)nullptr, sums);
                keep(place, ROWS);
            }
            for (; place < segment.count; place++) {
                multiply<1, MANY>(Matrix<T>{keys.row(place), stride}, x, count, s.qk, (const T *)nullptr, sums);
                keep(place, 1);
            }
        }
        done += segment.count;
    }
}

// Scores of one query become weights; what it does not see weighs nothing.
void weigh(const Shape &s, int64_t query, const std::vector<Segment> &segments, float *scores, Partial &partial) {
    partial.most = -INFINITY;
    int i = 0;
    for (const Segment &segment : segments)
        for (int k = 0; k < segment.count; k++, i++) {
            if (!s.sees(query, segment.place + k)) scores[i] = -INFINITY;
            partial.most = scores[i] > partial.most || scores[i] != scores[i] ? scores[i] : partial.most;  // a NaN is not passed over
        }
    partial.sum = 0;
    if (partial.most == -INFINITY) {
        std::fill_n(scores, i, 0.f);
        return;
    }
    for (int k = 0; k < i; k++) scores[k] = scores[k] == -INFINITY ? 0.f : exponential(scores[k] - partial.most);
    for (int k = 0; k < i; k++) partial.sum += scores[k];
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

template <class T>
void mix(const Inputs<T> &in, const Task &task, const std::vector<Segment> &segments, int queries, const float *weights, Partial *partials) {
    const int width = padded(in.s.v);
    const int64_t stride = in.s.kv_heads * in.s.v;
    Floats rows(RUN * width);
    int done = 0;
    for (const Segment &segment : segments)
        for (int first = 0; first < segment.count; first += RUN) {
            const int count = std::min(RUN, segment.count - first);
            const T *from = in.values + (segment.row + first) * stride + task.head * in.s.v;
            for (int k = 0; k < count; k++)
                for (int64_t i = 0; i < in.s.v; i++) rows[k * width + i] = load(from[k * stride + i]);
            int n = 0;
            for (; n + ABREAST <= queries; n += ABREAST) add_values<ABREAST>(weights + n * SPAN + done, rows.data, count, width, partials + n);
            for (; n < queries; n++) add_values<1>(weights + n * SPAN + done, rows.data, count, width, partials + n);
            done += count;
        }
}

template <class T> void attend(const Inputs<T> &in, const Task &task, Partial *partials) {
    const Shape &s = in.s;
    const int queries = s.queries(task.sequence) * s.shared();
    const std::vector<Segment> segments = visible(s, task.sequence, task.start);
    Floats scores(queries * SPAN);
    score(in, task, segments, queries, scores.data);
    for (int i = 0; i < queries; i++)
        weigh(s, s.first(task.sequence) + i / s.shared(), segments, scores.at(i * SPAN), partials[i]);
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

// The queries of one sequence that read one head of the keys: their tasks follow one another.
struct Group {
    int64_t sequence, head, partial;
    int spans;
};

struct Work {
    std::vector<Task> tasks;
    std::vector<Group> groups;
    int64_t partials = 0;

    explicit Work(const Shape &s) {
        for (int64_t sequence = 0; sequence < s.sequences; sequence++)
            for (int64_t head = 0; head < s.kv_heads; head++) {
                groups.push_back({sequence, head, partials, 0});
                for (int64_t start = 0; start < s.lengths[sequence]; start += SPAN) {
                    if (start >= s.sinks && start + SPAN <= s.begin(sequence)) continue;
                    tasks.push_back({sequence, head, start, partials});
                    partials += s.queries(sequence) * s.shared();
                    groups.back().spans++;
                }
            }
    }
};

template <class T> void attention(const Inputs<T> &in, int threads) {
    const Shape &s = in.s;
    const Work work(s);
    const int width = padded(s.v);
    Floats values(work.partials * width);
    std::vector<Partial> partials(work.partials);
    for (int64_t i = 0; i < work.partials; i++) partials[i].values = values.at(i * width);
    share(work.tasks.size(), threads, [&](int64_t i) { attend(in, work.tasks[i], &partials[work.tasks[i].partial]); });
    for (const Group &group : work.groups) {
        const int queries = s.queries(group.sequence) * s.shared();
        for (int i = 0; i < queries; i++) {
            const int64_t token = s.bounds[group.sequence] + i / s.shared(), head = group.head * s.shared() + i % s.shared();
            join(&partials[group.partial + i], group.spans, queries, s.v, in.out + (token * s.heads + head) * s.v);
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
// window (-1: none), sinks, stride of q from token to token. q [T][heads][qk] and both pools are of one type; out [T][heads][v].
// Returns -1, or the first sequence whose table leads out of the pool: then nothing was done.
EXPORT int64_t paged_attention(int64_t is_bf16, const int64_t *sizes, float scale, const int64_t *bounds, const int64_t *lengths,
                               const int64_t *table, const void *q, const void *keys, const void *values, void *out, int64_t threads) {
    const Shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10], bounds, lengths, table, scale};
    const int64_t wrong = lost(s);
    if (wrong >= 0) return wrong;
    if (is_bf16)
        attention(Inputs<bf16>{s, (const bf16 *)q, (const bf16 *)keys, (const bf16 *)values, (bf16 *)out}, threads);
    else
        attention(Inputs<float>{s, (const float *)q, (const float *)keys, (const float *)values, (float *)out}, threads);
    return -1;
}

PROGRAMMABLE(paged_attention)
