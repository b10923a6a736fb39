// One pixel from sRGB to CIE Lab (D65, 2 degrees), with the roundings of scikit-image's float32.
// gpulime/ops/lab.py says which; no product is fused with a sum (the sources are compiled with -fmad=false).
#pragma once

// What a display emits for a value in [0, 1].
__device__ inline float lab_light(float value) {
    return value > 0.04045f ? (float)pow((double)((value + 0.055f) / 1.055f), (double)2.4f) : value / 12.92f;
}

// a * b + c, rounded once.
__device__ inline float lab_fused(float a, float b, float c) { return (float)((double)a * b + c); }

// What an eye makes of one of X, Y and Z: a row of the matrix of primaries, over the white point.
__device__ inline float lab_response(const float light[3], float red, float green, float blue, float white) {
    float total = lab_fused(light[2], blue, lab_fused(light[1], green, light[0] * red)) / white;
    return total > 0.008856f ? (float)cbrt((double)total) : 7.787f * total + (float)(16.0 / 116.0);
}

__device__ inline void rgb_to_lab(float red, float green, float blue, float lab[3]) {
    const float light[3] = {lab_light(red), lab_light(green), lab_light(blue)};
    const float x = lab_response(light, 0.412453f, 0.357580f, 0.180423f, 0.95047f);
    const float y = lab_response(light, 0.212671f, 0.715160f, 0.072169f, 1.0f);
    const float z = lab_response(light, 0.019334f, 0.119193f, 0.950227f, 1.08883f);
    lab[0] = 116.0f * y - 16.0f;
    lab[1] = 500.0f * (x - y);
    lab[2] = 200.0f * (y - z);
}
