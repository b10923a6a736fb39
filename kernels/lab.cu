// images (n, 3, h, w) in sRGB -> (n, 3, h, w) in CIE Lab; a thread makes one pixel.
#include "lab.cuh"

extern "C" __global__ void rgb2lab(const float* images, float* lab, long long n, long long pixels) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n * pixels) return;
    const long long red = at / pixels * 3 * pixels + at % pixels, green = red + pixels, blue = green + pixels;
    float values[3];
    rgb_to_lab(images[red], images[green], images[blue], values);
    lab[red] = values[0];
    lab[green] = values[1];
    lab[blue] = values[2];
}
