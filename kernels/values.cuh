// Numbers of pixels: half and bfloat16 to float and back, to the nearest, ties to even. Only bit operations, so a proof
// on a CPU holds on a GPU.

enum Kind { AS_THEY_ARE = -1, UINT8 = 0, FLOAT16 = 1, BFLOAT16 = 2, FLOAT32 = 3 };

// An exponent moves by 112 between half and float, a fraction by 13 bits. A subnormal half is a whole number of 2 ** -24, exact as a
// float; no float here is subnormal, since CuPy compiles with -ftz=true, which makes those 0.
__device__ inline float float_of_half(unsigned short half) {
    unsigned sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
    unsigned bits = rest >= 0x7c00u  ? 0x7f800000u | (rest << 13)
                    : rest >= 0x400u ? (rest << 13) + 0x38000000u
                                     : __float_as_uint(__fmul_rn(static_cast<float>(rest), 5.9604644775390625e-8f));
    return __uint_as_float(sign | bits);
}

__device__ inline unsigned short half_of_float(float value) {
    unsigned bits = __float_as_uint(value), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
    unsigned half;
    if (rest > 0x7f800000u)
        half = 0x7e00u;  // NaN
    else if (rest >= 0x477ff000u)
        half = 0x7c00u;  // 65,520 and more round to infinity
    else if (rest < 0x38800000u)  // subnormal: beside 0.5 a float's last place is 2 ** -24, the half's
        half = __float_as_uint(__fadd_rn(__uint_as_float(rest), 0.5f)) - 0x3f000000u;
    else
        half = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
    return static_cast<unsigned short>(sign | half);
}

__device__ inline float float_of_bfloat(unsigned short value) { return __uint_as_float(static_cast<unsigned>(value) << 16); }

__device__ inline unsigned short bfloat_of_float(float value) {
    unsigned bits = __float_as_uint(value);
    bool number = (bits & 0x7fffffffu) <= 0x7f800000u;
    return static_cast<unsigned short>(number ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : 0x7fc0u);
}

// The number at a place of an array of a kind; bytes stand for [0, 1].
__device__ inline float number_at(const void* values, int kind, long long place) {
    switch (kind) {
        case UINT8: return __fdiv_rn(static_cast<float>(static_cast<const unsigned char*>(values)[place]), 255.0f);
        case FLOAT16: return float_of_half(static_cast<const unsigned short*>(values)[place]);
        case BFLOAT16: return float_of_bfloat(static_cast<const unsigned short*>(values)[place]);
        default: return static_cast<const float*>(values)[place];
    }
}

// A number as the bits of a kind.
__device__ inline unsigned bits_of(float value, int kind) {
    return kind == FLOAT16 ? half_of_float(value) : kind == BFLOAT16 ? bfloat_of_float(value) : __float_as_uint(value);
}
