// Quickshift in three steps: the density of every pixel, its parent, the root that its parents lead to.
// Compiled for CHANNELS planes of features (n, CHANNELS, h, w).
//
// Neighbouring pixels share most of their windows, and a warp reads 32 neighbours in a row: the cache serves a block as
// shared memory would, for windows and channels of any size. Sums and comparisons run in the order of scikit-image and
// round as it does (no product is fused with a sum: the sources are compiled with -fmad=false).

constexpr bool HELD = CHANNELS <= 32;          // the colours of a thread's pixel, in registers
constexpr int TOGETHER = HELD ? CHANNELS : 4;  // channels that a thread asks for before it looks at the first

// The pixel of a thread, in a grid of tiles that cover one image after another.
struct Pixel {
    long long image;
    int row, column;

    __device__ Pixel(int h, int w) {
        const unsigned across = (w + blockDim.x - 1) / blockDim.x, down = (h + blockDim.y - 1) / blockDim.y;
        const unsigned tile = blockIdx.x % (across * down);
        image = blockIdx.x / (across * down);
        row = (int)(tile / across * blockDim.y + threadIdx.y);
        column = (int)(tile % across * blockDim.x + threadIdx.x);
    }
};

// What of a window lies inside the image, along one axis.
struct Range {
    int first, last;

    __device__ Range(int centre, int radius, int size)
        : first(centre < radius ? 0 : centre - radius), last(centre < size - radius ? centre + radius : size - 1) {}
};

// A pixel in the space of colour and place, and squared distances there.
struct Point {
    long long pixels;  // between one channel and the next
    int row, column;
    const float* own;
    float held[HELD ? CHANNELS : 1];

    __device__ Point(const float* own, long long pixels, int row, int column)
        : pixels(pixels), row(row), column(column), own(own) {
        for (int c = 0; HELD && c < CHANNELS; ++c) held[c] = own[c * pixels];
    }

    __device__ float squares(const float* other, int other_row, int other_column) const {
        float sum = 0;
#pragma unroll TOGETHER
        for (int c = 0; c < CHANNELS; ++c) {
            const float apart = (HELD ? held[HELD ? c : 0] : own[c * pixels]) - other[c * pixels];
            sum += apart * apart;
        }
        const float down = (float)(row - other_row), across = (float)(column - other_column);
        sum += down * down;
        sum += across * across;
        return sum;
    }
};

// noise (h, w) and a Gaussian of every neighbour -> density (n, h, w)
extern "C" __global__ void densities(const float* __restrict__ features, const float* __restrict__ noise,
                                     float* __restrict__ density, long long h, long long w, long long radius, float scale) {
    const Pixel pixel((int)h, (int)w);
    if (pixel.row >= h || pixel.column >= w) return;
    const Range rows(pixel.row, (int)radius, (int)h), columns(pixel.column, (int)radius, (int)w);
    const long long own = pixel.row * w + pixel.column;
    features += pixel.image * CHANNELS * h * w;
    const Point point(features + own, h * w, pixel.row, pixel.column);

    float sum = noise[own];
    for (int row = rows.first; row <= rows.last; ++row) {
        const float* line = features + row * w;
        for (int column = columns.first; column <= columns.last; ++column) {
            const float exponent = point.squares(line + column, row, column) * scale;
            sum = (float)(sum + exp((double)exponent));
        }
    }
    density[pixel.image * h * w + own] = sum;
}

// density (n, h, w) -> parents (n, h, w): the nearest pixel of higher density, the first of several; a root is its own
extern "C" __global__ void parents(const float* __restrict__ features, const float* __restrict__ density,
                                   int* __restrict__ parents, long long h, long long w, long long radius, float max_dist) {
    const Pixel pixel((int)h, (int)w);
    if (pixel.row >= h || pixel.column >= w) return;
    const Range rows(pixel.row, (int)radius, (int)h), columns(pixel.column, (int)radius, (int)w);
    const long long own = pixel.row * w + pixel.column;
    features += pixel.image * CHANNELS * h * w;
    const Point point(features + own, h * w, pixel.row, pixel.column);
    density += pixel.image * h * w;

    const float least = density[own];
    float nearest = __int_as_float(0x7f800000);  // infinity
    int parent = (int)own;
    for (int row = rows.first; row <= rows.last; ++row) {
        const long long line = row * w;
        for (int column = columns.first; column <= columns.last; ++column) {
            if (!(density[line + column] > least)) continue;
            const float squares = point.squares(features + line + column, row, column);
            if (squares < nearest) {
                nearest = squares;
                parent = (int)(line + column);
            }
        }
    }
    parents[pixel.image * h * w + own] = sqrtf(nearest) > max_dist ? (int)own : parent;
}

// parents (n, pixels) -> roots (n, pixels): densities rise from child to parent, so every walk ends
extern "C" __global__ void roots(const int* __restrict__ parents, int* __restrict__ roots, long long n, long long pixels) {
    const long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= n * pixels) return;
    const int* family = parents + place / pixels * pixels;
    int at = (int)(place % pixels);
    while (family[at] != at) at = family[at];
    roots[place] = at;
}
