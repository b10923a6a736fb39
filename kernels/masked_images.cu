// Rows of the model's input: an image, with its fill where a mask hides the segment. The contract stands in README.md.
//
// A row is c * h * w values in the order of its memory format, so one source serves both formats: they differ only in which pixel a
// value belongs to. A block takes a tile of values and a group of up to 32 rows. For each image among those rows a thread loads its
// values of image and fill once, and asks once for each which rows show its segment: a word with a bit a row. Then a row costs a bit
// test a value and the store; nothing is read for it.
//
// The launcher defines BITS, an unsigned integer of the size of a row's values, and LABEL, the type of the labels.

constexpr int THREADS = 256;
constexpr int BLOCKS = 4;                  // of a multiprocessor at least: 64 registers a thread
constexpr int GROUP = 32;                  // the most rows of a block: the bits of a word
constexpr int VALUES = 16 / sizeof(BITS);  // of a thread: what one store takes where all is aligned

struct Problem {
    const BITS *images, *fills;  // n times size
    const LABEL* labels;         // (n, pixels)
    const unsigned char* masks;  // those of the group, (rows, k)
    const unsigned* table;       // (k,), the rows that show a segment; null where it finds no room in shared memory
    BITS* out;                   // those of the group, rows times size
    long long k, channels, pixels, size;
    int rows, channels_last;
};

__device__ inline unsigned rows_that_show(const Problem& problem, long long label) {
    if (problem.table) return problem.table[label];
    unsigned shown = 0;
#pragma unroll 1
    for (int row = 0; row < problem.rows; ++row)
        shown |= static_cast<unsigned>(problem.masks[row * problem.k + label] != 0) << row;
    return shown;
}

// Write a thread's values of an image's rows; `own` has a bit for each of them. WIDTH values lie together and are stored at once.
template <int WIDTH>
__device__ inline void write(const Problem& problem, long long image, unsigned own, long long value) {
    alignas(16) BITS shows[WIDTH], hides[WIDTH], chosen[WIDTH];
    unsigned shown[WIDTH];
    const BITS *images = problem.images + image * problem.size + value, *fills = problem.fills + image * problem.size + value;
    if (WIDTH > 1) {
        *reinterpret_cast<uint4*>(shows) = *reinterpret_cast<const uint4*>(images);
        *reinterpret_cast<uint4*>(hides) = *reinterpret_cast<const uint4*>(fills);
    } else {
        shows[0] = *images, hides[0] = *fills;
    }
    // The pixel is counted on from value to value, since a division is dear.
    long long pixel = problem.channels_last ? value / problem.channels : value % problem.pixels;
    long long step = problem.channels_last ? value - pixel * problem.channels : 0;
    const LABEL* labels = problem.labels + image * problem.pixels;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        shown[i] = rows_that_show(problem, labels[pixel]);
        if (!problem.channels_last)
            pixel = pixel + 1 == problem.pixels ? 0 : pixel + 1;
        else if (++step == problem.channels)
            step = 0, ++pixel;
    }
    BITS* out = problem.out + value;
#pragma unroll 1
    for (unsigned left = own; left; left &= left - 1) {
        int row = __ffs(static_cast<int>(left)) - 1;
        unsigned bit = 1u << row;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) chosen[i] = shown[i] & bit ? shows[i] : hides[i];
        // Streaming stores: the rows are read later by the model, and the images shall stay in the cache.
        if (WIDTH > 1)
            __stcs(reinterpret_cast<uint4*>(out + row * problem.size), *reinterpret_cast<const uint4*>(chosen));
        else
            __stcs(out + row * problem.size, chosen[0]);
    }
}

template <int WIDTH>
__device__ inline void write_tile(const Problem& problem, long long image, unsigned own, long long tile) {
#pragma unroll 1
    for (int i = 0; i < VALUES; i += WIDTH) {
        const long long value = (tile * VALUES + i) * THREADS + threadIdx.x * WIDTH;
        if (value < problem.size) write<WIDTH>(problem, image, own, value);
    }
}

// Blocks: the tiles of a row, for a group of rows after the other.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    masked_images(const BITS* images, const BITS* fills, const LABEL* labels, const long long* index, const unsigned char* masks,
                  BITS* out, long long b, long long k, long long channels, long long pixels, long long group, int channels_last,
                  int wide, int in_table) {
    extern __shared__ unsigned table[];
    __shared__ long long image_of[GROUP];
    const long long size = channels * pixels;
    const unsigned tiles = (size + THREADS * VALUES - 1) / (THREADS * VALUES);
    const long long tile = blockIdx.x % tiles, first = blockIdx.x / tiles * group;
    const int rows = min(group, b - first);
    masks += first * k;
    const Problem problem{images, fills, labels,   masks,  in_table ? table : nullptr, out + first * size,
                          k,      channels, pixels, size, rows,                        channels_last};

    for (int label = threadIdx.x; in_table && label < k; label += THREADS) table[label] = 0;
    __syncthreads();
    if (threadIdx.x < rows) image_of[threadIdx.x] = index[first + threadIdx.x];
    for (int row = threadIdx.x / 32; in_table && row < rows; row += THREADS / 32)  // a warp a row
        for (int label = threadIdx.x % 32; label < k; label += 32)
            if (masks[row * k + label]) atomicOr(&table[label], 1u << row);
    __syncthreads();

    unsigned left = 0xffffffffu >> (GROUP - rows);
    while (left) {
        const long long image = image_of[__ffs(static_cast<int>(left)) - 1];
        unsigned own = 0;
        for (int row = 0; row < rows; ++row) own |= static_cast<unsigned>(image_of[row] == image) << row;
        left &= ~own;
        if (wide)
            write_tile<VALUES>(problem, image, own, tile);
        else
            write_tile<1>(problem, image, own, tile);
    }
}
