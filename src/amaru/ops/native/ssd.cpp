// The scan of Mamba-2, forward and backward; the derivation is in ops/ssd/README.md.
//
// All four sums of forward and backward are one linear scan with the roles exchanged:
//
//     H_t = decay_t H_{t-1} + K_t ⊗ V_t        out_t = Q_t · H_t
//
//     out    direction   Q     K     V      (u = dt x; H of the reverse scans is the gradient G of the state)
//     y      forward     C     B     u
//     dC     forward     dy    u     B
//     dB     reverse     u     dy    C
//     du     reverse     B     C     dy
//
// It runs in blocks of BLOCK tokens: the state is read and written once per block, and vectors lie along V.

#include "common.h"

namespace {

// Heads of a group are cut into parts so that about this many tasks share a sequence: a fixed number,
// not the number of threads, so that sums over heads are taken in the same order on every machine.
constexpr int PARTS = 8;
constexpr int BLOCK = 4;                // tokens; 8 is not faster, and no longer fits the registers of AVX2
constexpr int LIMIT = 256;              // largest `channels` and `state`
constexpr float NEGLIGIBLE = 0x1p-24f;  // a decay below the rounding of the terms that it multiplies
constexpr int STRIDE = LIMIT + WIDTH;   // keeps the rows of a block out of one another's cache sets

struct Rows {
    alignas(64) float token[BLOCK][STRIDE];
    void zero() { std::memset(token, 0, sizeof token); }
};

// What one block needs besides its rows: products of decays, and Q_k · K_j.
struct Mixing {
    float since[BLOCK], until[BLOCK], mixed[BLOCK][BLOCK];

    Mixing(const float *decay, const float (*scores)[BLOCK]) {
        for (int k = 0; k < BLOCK; k++) {
            since[k] = (k ? since[k - 1] : 1.f) * decay[k];
            float product = 1.f;
            for (int j = k; j >= 0; j--) {
                mixed[k][j] = product * scores[k][j];
                product *= decay[j];
            }
        }
        float product = 1.f;
        for (int k = BLOCK - 1; k >= 0; k--) {
            until[k] = product;
            product *= decay[k];
        }
    }
};

// H [rows][width] is advanced by one block; out_k = since_k Q_k · H is what comes from before the block.
void scan_block(float *H, int rows, int width, const Rows &Q, const Rows &K, const Rows &V, const Mixing &m, Rows &out) {
    for (int lane = 0; lane < width; lane += WIDTH) {
        vec sums[BLOCK] = {}, values[BLOCK];
#pragma GCC unroll 4
        for (int k = 0; k < BLOCK; k++) values[k] = m.until[k] * *(const vec *)&V.token[k][lane];
        float *column = H + lane;
        for (int r = 0; r < rows; r++, column += width) {
            vec h = *(vec *)column;
            vec next = m.since[BLOCK - 1] * h;
#pragma GCC unroll 4
            for (int k = 0; k < BLOCK; k++) sums[k] += Q.token[k][r] * h;
#pragma GCC unroll 4
            for (int k = 0; k < BLOCK; k++) next += K.token[k][r] * values[k];
            *(vec *)column = next;
        }
#pragma GCC unroll 4
        for (int k = 0; k < BLOCK; k++) *(vec *)&out.token[k][lane] = m.since[k] * sums[k];
    }
}

// out_k += sum over j <= k of mixed_kj V_j: what comes from within the block.
void add_within(const Rows &V, const Mixing &m, int width, Rows &out) {
    for (int lane = 0; lane < width; lane += WIDTH)
#pragma GCC unroll 4
        for (int k = 0; k < BLOCK; k++)
#pragma GCC unroll 4
            for (int j = 0; j <= k; j++) *(vec *)&out.token[k][lane] += m.mixed[k][j] * *(const vec *)&V.token[j][lane];
}

float dot(const float *a, const float *b, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

// scores[k][j] = Q_k · K_j for j <= k
void score(const Rows &Q, const Rows &K, int n, float (*scores)[BLOCK]) {
    for (int k = 0; k < BLOCK; k++)
        for (int j = 0; j <= k; j++) scores[k][j] = dot(Q.token[k], K.token[j], n);
}

void transpose(const float *from, int rows, int columns, int from_stride, float *to, int to_stride) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) to[c * to_stride + r] = from[r * from_stride + c];
}

void copy(const float *from, int rows, int columns, int from_stride, float *to, int to_stride) {
    for (int r = 0; r < rows; r++) std::memcpy(to + r * to_stride, from + r * from_stride, columns * sizeof(float));
}

struct Shape {
    int64_t sequences, heads, channels, groups, state;
    const int64_t *bounds;

    int shared() const { return heads / groups; }
    int parts_per_group() const { return std::max<int>(1, std::min<int>(shared(), PARTS / groups)); }
    int parts() const { return groups * parts_per_group(); }
    int64_t state_size() const { return channels * state; }
};

// The heads of one part: a range inside one group.
struct Part {
    int group, first, count, slot;

    Part(const Shape &s, int part) : group(part / s.parts_per_group()), slot(part % s.parts_per_group()) {
        int start = s.shared() * slot / s.parts_per_group(), stop = s.shared() * (slot + 1) / s.parts_per_group();
        first = group * s.shared() + start;
        count = stop - start;
    }
};

// Reads tokens of one sequence into blocks, zeros behind its end, in the order of the scan.
template <class T> struct Reader {
    const T *base;
    int64_t stride;

    void rows(Rows &to, int64_t token, int64_t n, bool reverse, int64_t offset, int width) const {
        for (int k = 0; k < BLOCK; k++) {
            int64_t step = reverse ? BLOCK - 1 - k : k;
            float *row = to.token[k];
            if (step >= n) {
                std::memset(row, 0, width * sizeof(float));
                continue;
            }
            const T *from = base + (token + step) * stride + offset;
            for (int i = 0; i < width; i++) row[i] = load(from[i]);
        }
    }
};

void scale(Rows &rows, const float *factors, int width) {
    for (int k = 0; k < BLOCK; k++)
        for (int i = 0; i < width; i++) rows.token[k][i] *= factors[k];
}

template <class T> struct Inputs {
    Shape s;
    Reader<T> x, B, C;
    const float *dt, *A, *D, *initial;
};

// One token, the recurrence itself, in the layout of the caller: decoding is bound by reading the state.
template <class T> void step(const Inputs<T> &in, int64_t sequence, const Part &part, T *y, float *final) {
    const Shape &s = in.s;
    int64_t t = s.bounds[sequence];
    float B[LIMIT], C[LIMIT];
    for (int n = 0; n < s.state; n++) {
        B[n] = load(in.B.base[t * in.B.stride + part.group * s.state + n]);
        C[n] = load(in.C.base[t * in.C.stride + part.group * s.state + n]);
    }
    for (int head = part.first; head < part.first + part.count; head++) {
        float dt = in.dt[t * s.heads + head], decay = std::exp(dt * in.A[head]), scores = dot(B, C, s.state);
        int64_t place = (sequence * s.heads + head) * s.state_size();
        for (int p = 0; p < s.channels; p++) {
            float x = load(in.x.base[t * in.x.stride + head * s.channels + p]), u = dt * x, sum = 0;
            const float *before = in.initial ? in.initial + place + p * s.state : nullptr;
            float *after = final ? final + place + p * s.state : nullptr;
            if (before) sum = decay * dot(before, C, s.state);
            if (after)
                for (int n = 0; n < s.state; n++) after[n] = u * B[n] + (before ? decay * before[n] : 0.f);
            store(y[(t * s.heads + head) * s.channels + p], sum + u * scores + in.D[head] * x);
        }
    }
}

template <class T> void forward_part(const Inputs<T> &in, int64_t sequence, const Part &part, T *y, float *final) {
    const Shape &s = in.s;
    const int64_t start = s.bounds[sequence], stop = s.bounds[sequence + 1];
    if (stop - start == 1) return step(in, sequence, part, y, final);
    const int width = padded(s.channels), size = s.state * width;
    Floats H(size_t(size) * part.count);  // per head [state][channels]
    auto B = std::make_unique<Rows>(), C = std::make_unique<Rows>(), u = std::make_unique<Rows>(), out = std::make_unique<Rows>();
    u->zero();
    auto place = [&](int i) { return (sequence * s.heads + part.first + i) * s.state_size(); };
    if (in.initial)
        for (int i = 0; i < part.count; i++) transpose(in.initial + place(i), s.channels, s.state, s.state, H.at(i * size), width);

    for (int64_t t = start; t < stop; t += BLOCK) {
        const int64_t n = std::min<int64_t>(BLOCK, stop - t);
        float scores[BLOCK][BLOCK];
        in.B.rows(*B, t, n, false, part.group * s.state, s.state);
        in.C.rows(*C, t, n, false, part.group * s.state, s.state);
        score(*C, *B, s.state, scores);
        for (int i = 0; i < part.count; i++) {
            const int head = part.first + i;
            float dt[BLOCK] = {}, decay[BLOCK];
            for (int k = 0; k < n; k++) dt[k] = in.dt[(t + k) * s.heads + head];
            for (int k = 0; k < BLOCK; k++) decay[k] = std::exp(dt[k] * in.A[head]);
            in.x.rows(*u, t, n, false, head * s.channels, s.channels);
            scale(*u, dt, s.channels);
            const Mixing mixing(decay, scores);
            scan_block(H.at(i * size), s.state, width, *C, *B, *u, mixing, *out);
            add_within(*u, mixing, width, *out);
            for (int k = 0; k < n; k++) {
                const T *x = in.x.base + (t + k) * in.x.stride + head * s.channels;
                T *to = y + ((t + k) * s.heads + head) * s.channels;
                for (int p = 0; p < s.channels; p++) store(to[p], out->token[k][p] + in.D[head] * load(x[p]));
            }
        }
    }
    if (final)
        for (int i = 0; i < part.count; i++) transpose(H.at(i * size), s.state, s.channels, width, final + place(i), s.state);
}

// Where the gradients of one (sequence, part) go; dB and dC are sums over the heads of the part.
template <class T> struct Gradients {
    Reader<T> dy;
    const float *final;
    T *dx;
    float *ddt, *dA, *dD;           // dA, dD per sequence [S][heads]
    float *dB, *dC, *initial;       // dB, dC [T][parts][state]
    int64_t chunk;
};

// The backward pass of one sequence and part. Only states at chunk starts are kept, of this part, while it runs.
template <class T> struct Backward {
    const Inputs<T> &in;
    const Gradients<T> &grad;
    const Shape &s;
    const Part &part;
    const int64_t sequence, start, length, blocks, blocks_per_chunk;
    const int number, width, size;  // of [channels][padded state]
    Floats decay, passing;          // per head, per token: exp(dt A), and the gradient by dt A
    Floats starts;                  // per head, per chunk: the state before it
    Floats H;                       // per head: the state of the running scan
    Rows B, C, u, dy, out, total;

    Backward(const Inputs<T> &in, const Gradients<T> &grad, int64_t sequence, const Part &part, int number)
        : in(in), grad(grad), s(in.s), part(part), sequence(sequence), start(s.bounds[sequence]),
          length(s.bounds[sequence + 1] - start), blocks((length + BLOCK - 1) / BLOCK),
          blocks_per_chunk(std::max<int64_t>(1, grad.chunk / BLOCK)), number(number), width(padded(s.state)), size(s.channels * width),
          decay(part.count * length), passing(part.count * length),
          starts(size_t(size) * part.count * (blocks / blocks_per_chunk + 1)),
          H(size_t(part.count) * std::max<size_t>(size, s.state * padded(s.channels))) {
        for (Rows *rows : {&B, &C, &u, &dy}) rows->zero();
        for (int i = 0; i < part.count; i++)
            for (int64_t k = 0; k < length; k++) at(decay, i, k) = std::exp(dt(i, k) * in.A[part.first + i]);
    }

    float &at(Floats &values, int i, int64_t k) { return values[i * length + k]; }
    float dt(int i, int64_t k) const { return in.dt[(start + k) * s.heads + part.first + i]; }
    int64_t place(int i) const { return (sequence * s.heads + part.first + i) * s.state_size(); }
    float *chunk_start(int i, int64_t block) { return starts.at((block / blocks_per_chunk * part.count + i) * size); }
    bool starts_chunk(int64_t block) const { return block % blocks_per_chunk == 0; }
    int tokens(int64_t block) const { return std::min<int64_t>(BLOCK, length - block * BLOCK); }

    void read_group(int64_t block, bool reverse) {
        in.B.rows(B, start + block * BLOCK, tokens(block), reverse, part.group * s.state, s.state);
        in.C.rows(C, start + block * BLOCK, tokens(block), reverse, part.group * s.state, s.state);
    }

    void read_head(int i, int64_t block, bool reverse) {
        const int64_t offset = (part.first + i) * s.channels;
        in.x.rows(u, start + block * BLOCK, tokens(block), reverse, offset, s.channels);
        grad.dy.rows(dy, start + block * BLOCK, tokens(block), reverse, offset, s.channels);
        float factors[BLOCK] = {};
        for (int k = 0; k < tokens(block); k++) factors[reverse ? BLOCK - 1 - k : k] = dt(i, block * BLOCK + k);
        scale(u, factors, s.channels);
    }

    // The factor into each step of a block. In reverse, the step to token t is by the decay of token t + 1.
    void read_decay(int i, int64_t block, bool reverse, float *factors) {
        for (int k = 0; k < BLOCK; k++) {
            int64_t token = block * BLOCK + (reverse ? BLOCK - k : k);
            factors[k] = token < length ? at(decay, i, token) : 1.f;
        }
    }

    // The gradient by dt A of token t is decay_t g_t · h_{t-1}: all that passes from tokens before t, or from the state
    // before the block, to t and later tokens, or to behind the block. Every term but `through` carries the decay of t
    // as a factor, so nothing cancels where the decay is strong. On entry `passing` holds what came from before the block;
    // rows are in the order of the reverse scan.
    void sum_passing(int i, int64_t block, const Mixing &m, const float (*of_group)[BLOCK], float after) {
        float arriving[BLOCK] = {}, leaving[BLOCK], through = after;
        for (int k = 0; k < BLOCK; k++) {
            const int token = BLOCK - 1 - k;
            if (token < tokens(block)) arriving[k] = at(passing, i, block * BLOCK + token);
            leaving[k] = dot(B.token[k], out.token[k], s.state);
            through -= leaving[k];
        }
        if (m.since[BLOCK - 1] * at(decay, i, block * BLOCK) < NEGLIGIBLE) through = 0;
        for (int t = BLOCK - tokens(block); t < BLOCK; t++) {
            float sum = through;
            for (int k = 0; k <= t; k++) sum += arriving[k];
            for (int j = t + 1; j < BLOCK; j++) {
                sum += leaving[j];
                for (int k = 0; k <= t; k++) sum += m.mixed[j][k] * of_group[j][k];
            }
            at(passing, i, block * BLOCK + BLOCK - 1 - t) = sum;
        }
    }

    void add_total(int width) {
        for (int k = 0; k < BLOCK; k++)
            for (int c = 0; c < width; c++) total.token[k][c] += out.token[k][c];
    }

    void write_total(float *to, int64_t block, bool reverse) {
        for (int k = 0; k < tokens(block); k++) {
            const float *row = total.token[reverse ? BLOCK - 1 - k : k];
            std::memcpy(to + ((start + block * BLOCK + k) * s.parts() + number) * s.state, row, s.state * sizeof(float));
        }
    }

    // Forward scan of h as [channels][state]: dC, dy · y, and the states at chunk starts.
    void scan_dC() {
        for (int i = 0; i < part.count && in.initial; i++) copy(in.initial + place(i), s.channels, s.state, s.state, H.at(i * size), width);
        for (int64_t block = 0; block < blocks; block++) {
            read_group(block, false);
            total.zero();
            for (int i = 0; i < part.count; i++) {
                if (starts_chunk(block)) std::memcpy(chunk_start(i, block), H.at(i * size), size * sizeof(float));
                float factors[BLOCK], scores[BLOCK][BLOCK];
                read_head(i, block, false);
                read_decay(i, block, false, factors);
                score(dy, u, s.channels, scores);
                const Mixing mixing(factors, scores);
                scan_block(H.at(i * size), s.channels, width, dy, u, B, mixing, out);
                for (int k = 0; k < tokens(block); k++) at(passing, i, block * BLOCK + k) = dot(C.token[k], out.token[k], s.state);
                add_within(B, mixing, width, out);
                add_total(s.state);
            }
            write_total(grad.dC, block, false);
        }
    }

    // Reverse scan of the state's gradient g as [channels][state]: dB, and the gradient by dt A.
    void scan_dB() {
        std::vector<float> after(part.count);  // decay g · h between the block at hand and the next
        for (int i = 0; i < part.count; i++) {
            float *g = H.at(i * size);
            const std::vector<float> last(g, g + size);
            std::memset(g, 0, size * sizeof(float));
            if (grad.final) copy(grad.final + place(i), s.channels, s.state, s.state, g, width);
            after[i] = dot(g, last.data(), size);
        }
        for (int64_t block = blocks - 1; block >= 0; block--) {
            float of_group[BLOCK][BLOCK];
            read_group(block, true);
            score(B, C, s.state, of_group);
            total.zero();
            for (int i = 0; i < part.count; i++) {
                float factors[BLOCK], scores[BLOCK][BLOCK];
                float *g = H.at(i * size);
                read_head(i, block, true);
                read_decay(i, block, true, factors);
                score(u, dy, s.channels, scores);
                const Mixing mixing(factors, scores);
                scan_block(g, s.channels, width, u, dy, C, mixing, out);
                sum_passing(i, block, mixing, of_group, after[i]);
                add_within(C, mixing, width, out);
                add_total(s.state);
                after[i] = starts_chunk(block) ? at(decay, i, block * BLOCK) * dot(g, chunk_start(i, block), size)
                                               : at(passing, i, block * BLOCK);
            }
            write_total(grad.dB, block, true);
        }
        for (int i = 0; i < part.count && grad.initial; i++) {
            float first = length ? at(decay, i, 0) : 1.f;
            for (int p = 0; p < s.channels; p++)
                for (int n = 0; n < s.state; n++) grad.initial[place(i) + p * s.state + n] = first * H[i * size + p * width + n];
        }
    }

    // Reverse scan of g as [state][channels]: du, and from it the gradients of x, dt, A and D.
    void scan_du() {
        const int width = padded(s.channels), size = s.state * width;
        H.zero();
        for (int i = 0; i < part.count && grad.final; i++)
            transpose(grad.final + place(i), s.channels, s.state, s.state, H.at(i * size), width);
        std::vector<double> dA(part.count, 0.), dD(part.count, 0.);
        for (int64_t block = blocks - 1; block >= 0; block--) {
            float scores[BLOCK][BLOCK];
            read_group(block, true);
            score(B, C, s.state, scores);
            for (int i = 0; i < part.count; i++) {
                float factors[BLOCK];
                read_head(i, block, true);
                read_decay(i, block, true, factors);
                const Mixing mixing(factors, scores);
                scan_block(H.at(i * size), s.state, width, B, C, dy, mixing, out);
                add_within(dy, mixing, width, out);
                for (int k = tokens(block) - 1; k >= 0; k--) {
                    const int row = BLOCK - 1 - k;
                    write_token(i, block * BLOCK + k, out.token[row], dy.token[row], dA[i], dD[i]);
                }
            }
        }
        for (int i = 0; i < part.count; i++) {
            grad.dA[sequence * s.heads + part.first + i] = dA[i];
            grad.dD[sequence * s.heads + part.first + i] = dD[i];
        }
    }

    void write_token(int i, int64_t k, const float *du, const float *dy, double &dA, double &dD) {
        const int head = part.first + i;
        const int64_t t = start + k;
        const T *x = in.x.base + t * in.x.stride + head * s.channels;
        T *dx = grad.dx + (t * s.heads + head) * s.channels;
        const float step = dt(i, k), D = in.D[head], l = at(passing, i, k);
        float by_step = 0, by_skip = 0;
#pragma omp simd reduction(+ : by_step, by_skip)
        for (int p = 0; p < s.channels; p++) {
            const float value = load(x[p]);
            by_step += du[p] * value;
            by_skip += dy[p] * value;
            store(dx[p], step * du[p] + D * dy[p]);
        }
        grad.ddt[t * s.heads + head] = l * in.A[head] + by_step;
        dA += double(l) * step;
        dD += by_skip;
    }
};

template <class T>
void forward(const Inputs<T> &in, T *y, float *final, int threads) {
    const Shape &s = in.s;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(threads)
    for (int64_t sequence = 0; sequence < s.sequences; sequence++)
        for (int part = 0; part < s.parts(); part++) forward_part(in, sequence, Part(s, part), y, final);
}

template <class T>
void backward(const Inputs<T> &in, const Gradients<T> &grad, int threads) {
    const Shape &s = in.s;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(threads)
    for (int64_t sequence = 0; sequence < s.sequences; sequence++)
        for (int number = 0; number < s.parts(); number++) {
            const Part part(s, number);
            auto task = std::make_unique<Backward<T>>(in, grad, sequence, part, number);
            task->scan_dC();
            task->scan_dB();
            task->scan_du();
        }
}

template <class T>
Inputs<T> inputs(const int64_t *sizes, const int64_t *bounds, const int64_t *strides, const void *x, const float *dt, const float *A,
                 const void *B, const void *C, const float *D, const float *initial) {
    Shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], bounds};
    return {s, {(const T *)x, strides[0]}, {(const T *)B, strides[1]}, {(const T *)C, strides[2]}, dt, A, D, initial};
}

}  // namespace

// sizes: sequences, heads, channels, groups, state. strides: of x, B, C from token to token. initial and final may be null.
EXPORT void ssd_forward(int64_t is_bf16, const int64_t *sizes, const int64_t *bounds, const int64_t *strides, const void *x, const float *dt,
                        const float *A, const void *B, const void *C, const float *D, const float *initial, void *y, float *final,
                        int64_t threads) {
    if (is_bf16)
        forward(inputs<bf16>(sizes, bounds, strides, x, dt, A, B, C, D, initial), (bf16 *)y, final, threads);
    else
        forward(inputs<float>(sizes, bounds, strides, x, dt, A, B, C, D, initial), (float *)y, final, threads);
}

// How many partial sums over heads dB and dC have per token.
EXPORT int ssd_parts(const int64_t *sizes) { return Shape{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], nullptr}.parts(); }

// dy and dx are [T][heads][channels]; dB and dC [T][parts][state]; dA and dD [S][heads].
EXPORT void ssd_backward(int64_t is_bf16, const int64_t *sizes, const int64_t *bounds, const int64_t *strides, const void *x, const float *dt,
                         const float *A, const void *B, const void *C, const float *D, const float *initial, const void *dy,
                         const float *dfinal, void *dx, float *ddt, float *dA, float *dD, float *dB, float *dC, float *dinitial,
                         int64_t chunk, int64_t threads) {
    const int64_t stride = sizes[1] * sizes[2];
    if (is_bf16)
        backward<bf16>(inputs<bf16>(sizes, bounds, strides, x, dt, A, B, C, D, initial),
                       {{(const bf16 *)dy, stride}, dfinal, (bf16 *)dx, ddt, dA, dD, dB, dC, dinitial, chunk}, threads);
    else
        backward<float>(inputs<float>(sizes, bounds, strides, x, dt, A, B, C, D, initial),
                        {{(const float *)dy, stride}, dfinal, (float *)dx, ddt, dA, dD, dB, dC, dinitial, chunk}, threads);
}
