// keys (places,), rows (places,) -> masks (places, k): for segment j of a row, bit j % 128 of the Philox4x32-10 block with the
// counter (j / 128, row, key) and the key seed; all of row 0 is shown. A thread makes one entry.

extern "C" __global__ void bernoulli(const long long* keys, const long long* rows, unsigned char* masks, long long places,
                                     long long k, long long seed) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= places * k) return;
    const long long place = at / k, segment = at % k, row = rows[place], key = keys[place];
    unsigned x0 = (unsigned)(segment / 128), x1 = (unsigned)row, x2 = (unsigned)key, x3 = (unsigned)(key >> 32);
    unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xD2511F53u, x0), low0 = 0xD2511F53u * x0;
        const unsigned high1 = __umulhi(0xCD9E8D57u, x2), low1 = 0xCD9E8D57u * x2;
        x0 = high1 ^ x1 ^ k0;
        x1 = low1;
        x2 = high0 ^ x3 ^ k1;
        x3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const int word = (int)(segment / 32 % 4);
    const unsigned bits = word == 0 ? x0 : word == 1 ? x1 : word == 2 ? x2 : x3;
    masks[at] = row == 0 || (bits >> segment % 32 & 1);
}
