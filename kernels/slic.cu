// SLIC in three steps: pixels to centres, centres to pixels, and, at the end, labels to connected parts of sensible size.
// Compiled for CHANNELS features of a pixel (n, h, w, CHANNELS); a centre (n, k, 2 + CHANNELS) has row and column before them.
//
// A window holds few of the image's pixels and a pixel is in few windows. A warp finds what it needs of either by votes, whose
// bits keep the order that sums and ties depend on. All rounds as scikit-image does (the sources are compiled with -fmad=false).

constexpr int POINT = 2 + CHANNELS;
constexpr int WARPS = 8;                            // of a block
constexpr int BLOCKS = POINT <= 32 ? 4 : 2;         // of a multiprocessor at least: 64 registers a thread, or 128
constexpr int ROWS = 4;                             // of 32 pixels that a warp assigns, so that what it reads of a centre serves four
constexpr int CENTRES = CHANNELS <= 26 ? 256 : 32;  // that a block compares its pixels to at a time: 32 KB of them at most
constexpr bool HELD = CHANNELS <= 4;                // the colours of a thread's pixels, in registers
constexpr int TOGETHER = HELD ? POINT : 4;          // coordinates that a thread asks for before it looks at the first
constexpr int AHEAD = 4;                            // labels that a thread asks for before it looks at the first
constexpr unsigned FOUND = 64 * AHEAD;              // pixels that a warp may have found: as many new ones, and 31 that wait
constexpr int ADDED = POINT < 32 ? POINT : 32;      // coordinates that a warp adds at a time
constexpr int PADDED = 36;                          // members that are added at a time, on a place of 16 bytes, in other banks
constexpr unsigned WARP = 0xffffffffu;

// A stretch of rows or columns.
struct Range {
    int first, last;  // the last is not in it

    __device__ bool holds(int place) const { return (first <= place) & (place < last); }
    __device__ bool meets(int from, int to) const { return (first < to) & (from < last); }
};

struct Window {
    Range rows, columns;
};

// The part of a centre's window inside the image, along one axis; a centre without pixels is NaN and has none.
__device__ inline Range inside(float centre, long long reach, long long size) {
    if (centre != centre) return {0, 0};
    return {(int)fmaxf(centre - (float)reach, 0.0f), (int)fminf(centre + (float)reach + 1.0f, (float)size)};
}

__device__ inline float squared(float value) { return value * value; }

// features, centres -> labels (n, h, w): the nearest centre whose window holds the pixel, the first of several. Without
// one the label stays, and strays (n,) is set: then a centre's pixels may lie anywhere.
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    slic_assign(const float* __restrict__ features, const float* __restrict__ centres, int* __restrict__ labels,
                int* __restrict__ strays, long long h, long long w, long long k, long long reach_y, long long reach_x,
                float weight) {
    __shared__ float points[CENTRES][POINT];
    __shared__ Window windows[CENTRES];
    const float infinity = __int_as_float(0x7f800000);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const unsigned across = (unsigned)(w + 31) / 32, down = (unsigned)(h + WARPS * ROWS - 1) / (WARPS * ROWS);
    const unsigned image = blockIdx.x / (across * down), tile = blockIdx.x % (across * down);
    const int top = (int)(tile / across * WARPS + warp) * ROWS, left = (int)(tile % across) * 32, x = left + lane;
    features += image * h * w * CHANNELS;
    centres += image * k * POINT;
    labels += image * h * w;

    const float* own[ROWS];
    float held[ROWS][HELD ? CHANNELS : 1], nearest[ROWS];
    int label[ROWS];
    for (int row = 0; row < ROWS; ++row) {
        own[row] = features + (min(top + row, (int)h - 1) * w + min(x, (int)w - 1)) * CHANNELS;
        for (int c = 0; HELD && c < CHANNELS; ++c) held[row][c] = own[row][c];
        nearest[row] = infinity;
        label[row] = -1;
    }
    for (long long start = 0; start < k; start += CENTRES) {
        const int count = (int)(k - start < CENTRES ? k - start : CENTRES);
        for (int i = (int)threadIdx.x; i < count; i += 32 * WARPS) {
            const float* centre = centres + (start + i) * POINT;
            windows[i] = {inside(centre[0], reach_y, h), inside(centre[1], reach_x, w)};
#pragma unroll 8
            for (int c = 0; c < POINT; ++c) points[i][c] = centre[c];
        }
        __syncthreads();
        for (int first = 0; first < count; first += 32) {
            const Window window = windows[min(first + lane, count - 1)];
            const bool met = (first + lane < count) & window.rows.meets(top, top + ROWS) & window.columns.meets(left, left + 32);
            for (unsigned near = __ballot_sync(WARP, met); near; near &= near - 1) {
                const int i = first + __ffs((int)near) - 1;
                const float* centre = points[i];
                // Outside the window it is infinitely far to the centre: no branches, and so all rows at once.
                const float dx = windows[i].columns.holds(x) ? squared(centre[1] - (float)x) : infinity;
#pragma unroll
                for (int row = 0; row < ROWS; ++row) {
                    const int y = top + row;
                    const float dy = windows[i].rows.holds(y) ? squared(centre[0] - (float)y) : infinity;
                    float apart = 0;
#pragma unroll TOGETHER
                    for (int c = 0; c < CHANNELS; ++c) {
                        const float square = squared((HELD ? held[row][HELD ? c : 0] : own[row][c]) - centre[2 + c]);
                        apart = c == 0 ? square : apart + square;
                    }
                    const float distance = (dy + dx) * weight + apart;
                    if (distance < nearest[row]) {
                        nearest[row] = distance;
                        label[row] = (int)start + i;
                    }
                }
            }
        }
        __syncthreads();
    }
    for (int row = 0; row < ROWS; ++row) {
        const int y = top + row;
        if (y >= h || x >= w) continue;
        if (label[row] >= 0)
            labels[y * w + x] = label[row];
        else
            atomicOr(&strays[image], 1);
    }
}

// Pixels of a segment, in raster order, that a warp has found and not yet added, and where its threads show each other values.
struct Members {
    int pixels[FOUND];  // a ring
    alignas(16) float values[ADDED][PADDED];
};

// Add the next 32 members to the sums of a warp, or the `count` that are left: each thread reads the coordinates of a member,
// then adds one coordinate of all, in their order.
__device__ inline void add(Members& members, unsigned from, unsigned count, const float* features, int w, float* sums) {
    const unsigned lane = threadIdx.x % 32;
    const int pixel = lane < count ? members.pixels[(from + lane) % FOUND] : 0, y = pixel / w, x = pixel % w;
    const float* own = features + (long long)pixel * CHANNELS;
    const float4* shown = reinterpret_cast<const float4*>(members.values[lane < ADDED ? lane : 0]);
#pragma unroll
    for (int first = 0; first < POINT; first += 32) {
#pragma unroll TOGETHER
        for (int c = first; c < POINT && c < first + 32; ++c) {
            const float value = c == 0 ? (float)y : c == 1 ? (float)x : own[c < 2 ? 0 : c - 2];
            members.values[c - first][lane] = lane < count ? value : 0.0f;  // which changes no sum
        }
        __syncwarp();
        float sum = sums[first / 32];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float4 four = shown[i];
            sum = sum + four.x + four.y + four.z + four.w;
        }
        sums[first / 32] = sum;
        __syncwarp();
    }
}

// features, labels -> centres, a warp each: the mean of its pixels, added in raster order; NaN where there are none.
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    slic_update(const float* __restrict__ features, const int* __restrict__ labels, const int* __restrict__ strays,
                float* __restrict__ centres, long long h, long long w, long long k, long long reach_y, long long reach_x) {
    __shared__ Members of_warps[WARPS];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const unsigned blocks = (unsigned)(k + WARPS - 1) / WARPS, image = blockIdx.x / blocks;
    const int own = (int)(blockIdx.x % blocks) * WARPS + warp;
    if (own >= k) return;  // a whole warp, and the block has no barrier
    Members& members = of_warps[warp];
    features += image * h * w * CHANNELS;
    labels += image * h * w;
    centres += (image * k + own) * POINT;

    const bool anywhere = strays[image] != 0;
    const Range rows = anywhere ? Range{0, (int)h} : inside(centres[0], reach_y, h);
    const Range columns = anywhere ? Range{0, (int)w} : inside(centres[1], reach_x, w);
    // The window's pixels one after another, 32 at a time: a division once, and then so many rows and columns on.
    const int width = max(1, columns.last - columns.first), area = (rows.last - rows.first) * width;
    const int end = (rows.last - 1) * (int)w + columns.last;
    const int right = 32 % width, on = 32 / width * (int)w + right, wrap = (int)w - width;
    int x = columns.first + lane % width, pixel = (rows.first + lane / width) * (int)w + x;
    unsigned found = 0, added = 0;
    float sums[(POINT + 31) / 32] = {};
    for (int start = 0; start < area; start += 32 * AHEAD) {
        int pixels[AHEAD], seen[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            pixels[i] = pixel;
            seen[i] = pixel < end ? labels[pixel] : -1;
            x += right;
            pixel += on;
            if (x >= columns.last) x -= width, pixel += wrap;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const unsigned votes = __ballot_sync(WARP, seen[i] == own), before = votes & ((1u << lane) - 1);
            if (seen[i] == own) members.pixels[(found + __popc(before)) % FOUND] = pixels[i];
            found += __popc(votes);
        }
        __syncwarp();
        for (; found - added >= 32; added += 32) add(members, added, 32, features, (int)w, sums);
    }
    add(members, added, found - added, features, (int)w, sums);
    for (int first = 0; first < POINT; first += 32)
        if (first + lane < POINT) centres[first + lane] = sums[first / 32] / (float)found;
}

// labels -> connected (n, h, w): parts that are connected, from 0 in raster order. A part is grown breadth first and ends at
// max_size; one below min_size joins the last labelled neighbour that was met. One block per image: all threads find the
// neighbours of pixels; one thread follows the parts, since each depends on those before.
extern "C" __global__ void slic_connect(const int* __restrict__ labels, int* __restrict__ connected,
                                        unsigned char* __restrict__ around, int* __restrict__ queue, long long h, long long w,
                                        long long min_size, long long max_size) {
    const int steps[4] = {1, -1, (int)w, -(int)w}, pixels = (int)(h * w);
    const long long image = blockIdx.x;
    labels += image * pixels;
    connected += image * pixels;
    around += image * pixels;
    queue += image * pixels;

    for (int at = (int)threadIdx.x; at < pixels; at += (int)blockDim.x) {
        const int y = at / (int)w, x = at % (int)w;
        const bool inside[4] = {x + 1 < w, x > 0, y + 1 < h, y > 0};
        unsigned found = 0;  // bits 0 to 3: inside the image, 4 to 7: of the same label
        for (int i = 0; i < 4; ++i) {
            if (inside[i]) found |= 1u << i;
            if (inside[i] && labels[at + steps[i]] == labels[at]) found |= 16u << i;
        }
        around[at] = (unsigned char)found;
        connected[at] = -1;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;

    int own = 0;
    for (int first = 0; first < pixels; ++first) {
        if (connected[first] >= 0 || labels[first] < 0) continue;
        int beside = own, size = 1;
        connected[first] = own;
        queue[0] = first;
        for (int visited = 0; visited < size && size < max_size; ++visited) {
            const int at = queue[visited];
            const unsigned found = around[at];
            int there[4];  // all four are asked for before the first is looked at
            for (int i = 0; i < 4; ++i) there[i] = found >> i & 1 ? connected[at + steps[i]] : -1;
            for (int i = 0; i < 4 && size < max_size; ++i) {
                if (there[i] < 0 && found >> (i + 4) & 1) {
                    connected[at + steps[i]] = own;
                    queue[size++] = at + steps[i];
                } else if (there[i] >= 0 && there[i] != own) {
                    beside = there[i];
                }
            }
        }
        if (size < min_size) {
            for (int i = 0; i < size; ++i) connected[queue[i]] = beside;
        } else {
            ++own;
        }
    }
}
