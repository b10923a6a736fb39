// SLIC in three steps: pixels to centres, centres to pixels, and, at the end, labels to connected parts of sensible size.
// Compiled for CHANNELS features of a pixel (n, h, w, CHANNELS); a centre (n, k, 2 + CHANNELS) has row and column before them.
//
// A window holds few of the image's pixels and a pixel is in few windows. What a block needs of either is a set of bits, which
// keeps the order that sums and ties depend on. All rounds as scikit-image does (the sources are compiled with -fmad=false).

constexpr int POINT = 2 + CHANNELS;
constexpr int CENTRES = CHANNELS <= 26 ? 256 : 32;  // that a block compares its pixels to at a time: 32 KB of them at most
constexpr int CHUNK = 4096;                         // pixels of a window that a block looks at at a time

// A stretch of rows or columns.
struct Range {
    int first, last;  // the last is not in it

    __device__ bool holds(int place) const { return first <= place && place < last; }
    __device__ bool meets(int from, int to) const { return first < to && from < last; }
};

// What of a centre's window lies inside the image, along one axis; a centre without pixels is NaN and has none.
__device__ inline Range window(float centre, long long reach, long long size) {
    if (centre != centre) return {0, 0};
    return {(int)fmaxf(centre - (float)reach, 0.0f), (int)fminf(centre + (float)reach + 1.0f, (float)size)};
}

// features, centres -> labels (n, h, w): the nearest centre whose window holds the pixel, the first of several. Where there is
// none, a label stays, and strays (n,) tells: then a centre's pixels may lie anywhere.
extern "C" __global__ void slic_assign(const float* __restrict__ features, const float* __restrict__ centres,
                                       int* __restrict__ labels, int* __restrict__ strays, long long h, long long w,
                                       long long k, long long reach_y, long long reach_x, float weight) {
    __shared__ float points[CENTRES][POINT];
    __shared__ Range rows[CENTRES], columns[CENTRES];
    __shared__ unsigned near[CENTRES / 32];
    const int thread = (int)(threadIdx.y * blockDim.x + threadIdx.x), threads = (int)(blockDim.x * blockDim.y);
    const long long across = (w + blockDim.x - 1) / blockDim.x, down = (h + blockDim.y - 1) / blockDim.y;
    const long long image = blockIdx.x / (across * down);
    const int top = (int)(blockIdx.x / across % down * blockDim.y), left = (int)(blockIdx.x % across * blockDim.x);
    const int y = top + (int)threadIdx.y, x = left + (int)threadIdx.x;
    const bool inside = y < h && x < w;
    const long long pixel = (image * h + y) * w + x;

    float colour[CHANNELS];
    for (int c = 0; c < CHANNELS; ++c) colour[c] = inside ? features[pixel * CHANNELS + c] : 0.0f;
    float nearest = __int_as_float(0x7f800000);  // infinity
    int label = -1;
    for (long long start = 0; start < k; start += CENTRES) {
        const int count = (int)(k - start < CENTRES ? k - start : CENTRES);
        for (int word = thread; word < CENTRES / 32; word += threads) near[word] = 0;
        __syncthreads();
        for (int i = thread; i < count; i += threads) {
            const float* centre = centres + (image * k + start + i) * POINT;
            rows[i] = window(centre[0], reach_y, h);
            columns[i] = window(centre[1], reach_x, w);
            for (int c = 0; c < POINT; ++c) points[i][c] = centre[c];
            const bool met = rows[i].meets(top, top + (int)blockDim.y) && columns[i].meets(left, left + (int)blockDim.x);
            if (met) atomicOr(&near[i / 32], 1u << i % 32);
        }
        __syncthreads();
        for (int word = 0; word < CENTRES / 32; ++word) {
            for (unsigned bits = near[word]; bits; bits &= bits - 1) {
                const int i = word * 32 + __ffs((int)bits) - 1;
                if (!rows[i].holds(y) || !columns[i].holds(x)) continue;
                const float dy = points[i][0] - (float)y, dx = points[i][1] - (float)x;
                float apart = 0;
                for (int c = 0; c < CHANNELS; ++c) {
                    const float difference = colour[c] - points[i][2 + c];
                    apart += difference * difference;
                }
                const float distance = (dy * dy + dx * dx) * weight + apart;
                if (distance < nearest) {
                    nearest = distance;
                    label = (int)(start + i);
                }
            }
        }
        __syncthreads();
    }
    if (inside && label >= 0) labels[pixel] = label;
    if (inside && label < 0) atomicOr(&strays[image], 1);
}

// features, labels -> centres, a block each: the mean of its pixels, which a thread for each coordinate adds in raster order;
// NaN where there are none.
extern "C" __global__ void slic_update(const float* __restrict__ features, const int* __restrict__ labels,
                                       const int* __restrict__ strays, float* __restrict__ centres, long long h, long long w,
                                       long long k, long long reach_y, long long reach_x) {
    __shared__ unsigned members[CHUNK / 32];
    const long long image = blockIdx.x / k;
    const int own = (int)(blockIdx.x % k), coordinate = (int)threadIdx.x, threads = (int)blockDim.x;
    features += image * h * w * CHANNELS;
    labels += image * h * w;
    centres += blockIdx.x * (long long)POINT;

    const bool anywhere = strays[image] != 0;
    const Range rows = anywhere ? Range{0, (int)h} : window(centres[0], reach_y, h);
    const Range columns = anywhere ? Range{0, (int)w} : window(centres[1], reach_x, w);
    const int width = columns.last - columns.first, area = (rows.last - rows.first) * width;
    __syncthreads();  // all have read the centre

    float sum = 0;
    int count = 0;
    for (int start = 0; start < area; start += CHUNK) {
        for (int word = coordinate; word < CHUNK / 32; word += threads) members[word] = 0;
        __syncthreads();
        for (int i = coordinate; i < CHUNK && i < area - start; i += threads) {
            const long long y = rows.first + (start + i) / width, x = columns.first + (start + i) % width;
            if (labels[y * w + x] == own) atomicOr(&members[i / 32], 1u << i % 32);
        }
        __syncthreads();
        for (int word = 0; word < CHUNK / 32 && coordinate < POINT; ++word) {
            for (unsigned bits = members[word]; bits; bits &= bits - 1) {
                const int at = start + word * 32 + __ffs((int)bits) - 1;
                const int y = rows.first + at / width, x = columns.first + at % width;
                const float place = (float)(coordinate == 0 ? y : x);
                sum += coordinate < 2 ? place : features[(y * w + x) * CHANNELS + coordinate - 2];
                ++count;
            }
        }
        __syncthreads();
    }
    if (coordinate < POINT) centres[coordinate] = sum / (float)count;
}

// labels -> connected (n, h, w): parts that are connected, from 0 in raster order. A part is grown breadth first and ends at
// max_size; one below min_size goes to the last labelled neighbour that was met. A block an image: what is around each pixel
// is found by all of its threads, the parts, each of which depends on those before, by one.
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
