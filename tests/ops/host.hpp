// What a CUDA source needs to run on a CPU: compiled before it by g++, it makes the very same text a plain C++ library.
//
// Blocks run in turn, in one thread of the operating system. A block's threads run one after the other too, as a loop, until one comes
// to a barrier: there it waits, its stack kept as a fiber, until all of its block are there. Blocks 0, 2, 4... run their threads from
// the last to the first, the others from the first to the last, so that a missing barrier shows. Shared memory is poisoned before each
// block. What a kernel may use is listed in kernels/README.md; anything else does not compile here.
#pragma once

#include <cfloat>
#include <climits>
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __constant__ static
// A section of their own, so that all shared variables are poisoned at once, and those that the compiler could leave out are counted.
#define __shared__ static __attribute__((section("host_shared"), used))

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define HOST_VECTOR(T, name)                                                                        \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                              \
    struct name##3 { T x, y, z; };                                                                  \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };              \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                      \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                              \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
HOST_VECTOR(unsigned char, uchar)
HOST_VECTOR(unsigned short, ushort)
HOST_VECTOR(int, int)
HOST_VECTOR(unsigned, uint)
HOST_VECTOR(long long, longlong)
HOST_VECTOR(unsigned long long, ulonglong)
HOST_VECTOR(float, float)
HOST_VECTOR(double, double)
#undef HOST_VECTOR

static dim3 threadIdx, blockIdx, blockDim, gridDim;

// ---- Threads and barriers

extern char host_shared_start[] __asm__("__start_host_shared") __attribute__((weak));
extern char host_shared_stop[] __asm__("__stop_host_shared") __attribute__((weak));

namespace host {

constexpr std::size_t STACK = 256 * 1024;
constexpr unsigned char POISON = 0xff;  // NaN as a float, -1 or the largest as an integer

enum class Wait { none, block, warp };

// Where a stack was left.
struct Left {
    ucontext_t context;
    std::jmp_buf jump;
    bool begun = false;
};

struct Fiber : Left {
    std::unique_ptr<char[]> stack{new char[STACK]};
    unsigned thread = 0, shows = 0;  // how often it has shown its warp a value
    Wait wait = Wait::none;
    int line = 0;  // of the barrier
    void* fake = nullptr;
};

struct Block {
    void (*body)(void*);
    void* data;
    unsigned threads, started, finished;
    bool backwards;
};

static std::vector<std::unique_ptr<Fiber>> fibers;  // made when first needed, then kept
static std::vector<Fiber*> idle;
static Left scheduler;
static void* scheduler_fake;
static const void* scheduler_stack;
static std::size_t scheduler_size;
static Fiber* current;
static Block block;
static char* dynamic_shared;
static std::string failure;
static unsigned long long exchanged[2][1024];  // what the threads of a warp show each other, in turns
static int counted[1024];                      // what they show their block

inline void now_runs(unsigned thread) {
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / blockDim.x / blockDim.y;
}

// AddressSanitizer is told of every change of stacks.
inline void leaves([[maybe_unused]] void** fake, [[maybe_unused]] const void* stack, [[maybe_unused]] std::size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake, stack, size);
#endif
}

inline void arrives([[maybe_unused]] void* fake, [[maybe_unused]] const void** stack, [[maybe_unused]] std::size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, stack, size);
#endif
}

// From one stack to another: by a jump, since swapcontext asks the system for the signals that are masked, every time.
inline void change(Left& from, Left& to) {
#if defined(__SANITIZE_ADDRESS__)
    swapcontext(&from.context, &to.context);  // AddressSanitizer takes a jump for the end of all functions on the stack
#else
    if (_setjmp(from.jump)) return;
    from.begun = true;
    if (to.begun) _longjmp(to.jump, 1);
    setcontext(&to.context);
#endif
}

inline void to_scheduler() {
    Fiber* self = current;
    leaves(&self->fake, scheduler_stack, scheduler_size);
    change(*self, scheduler);
    arrives(self->fake, &scheduler_stack, &scheduler_size);
}

inline void to_fiber(Fiber* fiber) {
    current = fiber;
    leaves(&scheduler_fake, fiber->stack.get(), STACK);
    change(scheduler, *fiber);
    arrives(scheduler_fake, nullptr, nullptr);
}

// A fiber runs threads until one waits; the scheduler then begins another fiber.
inline void fiber_main() {
    arrives(nullptr, &scheduler_stack, &scheduler_size);
    for (;;) {
        while (block.started < block.threads && failure.empty()) {
            unsigned number = block.started++;
            current->thread = block.backwards ? block.threads - 1 - number : number;
            current->shows = 0;
            now_runs(current->thread);
            block.body(block.data);
            ++block.finished;
        }
        idle.push_back(current);
        to_scheduler();
    }
}

inline Fiber* a_fiber() {
    if (idle.empty()) {
        fibers.push_back(std::make_unique<Fiber>());
        Fiber* fiber = fibers.back().get();
        getcontext(&fiber->context);
        fiber->context.uc_stack.ss_sp = fiber->stack.get();
        fiber->context.uc_stack.ss_size = STACK;
        fiber->context.uc_link = nullptr;
        makecontext(&fiber->context, fiber_main, 0);
        idle.push_back(fiber);
    }
    Fiber* fiber = idle.back();
    idle.pop_back();
    return fiber;
}

inline void wait(Wait what, int line) {
    unsigned thread = current->thread;
    current->wait = what;
    current->line = line;
    to_scheduler();
    now_runs(thread);
}

inline std::string met(Fiber* fiber) {
    return "thread " + std::to_string(fiber->thread) + " of block (" + std::to_string(blockIdx.x) + ", " +
           std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + "), line " + std::to_string(fiber->line) + ",";
}

// Let those go on who are all at one barrier: a whole warp, or the whole block.
inline std::vector<Fiber*> released() {
    std::vector<Fiber*> waiting;
    for (auto& fiber : fibers)
        if (fiber->wait != Wait::none) waiting.push_back(fiber.get());
    std::vector<unsigned> at_warp((block.threads + 31) / 32, 0);
    for (Fiber* fiber : waiting) at_warp[fiber->thread / 32] += fiber->wait == Wait::warp;
    std::vector<Fiber*> free;
    for (Fiber* fiber : waiting) {
        unsigned warp = fiber->thread / 32, size = std::min(32u, block.threads - 32 * warp);
        if (fiber->wait == Wait::warp && at_warp[warp] == size) free.push_back(fiber);
    }
    if (!free.empty()) return free;
    for (Fiber* fiber : waiting)
        if (fiber->wait == Wait::warp) failure = met(fiber) + " waits for its warp, and others of the warp do not";
    for (Fiber* fiber : waiting)
        if (failure.empty() && fiber->line != waiting[0]->line)
            failure = met(fiber) + " waits at another barrier than " + met(waiting[0]);
    if (failure.empty() && block.finished > 0) failure = met(waiting[0]) + " waits, and others have returned";
    return waiting;
}

inline void run_block() {
    block.started = block.finished = 0;
    while (failure.empty() && block.finished < block.threads) {
        while (block.started < block.threads && failure.empty()) to_fiber(a_fiber());
        if (block.finished == block.threads || !failure.empty()) break;
        for (Fiber* fiber : released()) {
            if (!failure.empty()) break;
            fiber->wait = Wait::none;
            to_fiber(fiber);
        }
    }
    if (!failure.empty()) {  // their stacks are given up as they are
        fibers.clear();
        idle.clear();
    }
}

#if !defined(__SANITIZE_ADDRESS__)
inline void poison_shared() {
    if (host_shared_start) std::memset(host_shared_start, POISON, host_shared_stop - host_shared_start);
}
#else
inline void poison_shared() {}  // the section holds the red zones between variables too
#endif

template <class T>
constexpr char kind() {
    using U = std::remove_cv_t<T>;
    if (std::is_pointer_v<U>) return 'p';
    if (std::is_same_v<U, long long>) return 'l';
    if (std::is_same_v<U, int>) return 'i';
    if (std::is_same_v<U, float>) return 'f';
    return std::is_same_v<U, double> ? 'd' : '?';
}

#if defined(__aarch64__)
constexpr unsigned long long FLUSH = 1 << 24;  // FZ
inline unsigned long long rounding() {
    unsigned long long now;
    __asm__ volatile("mrs %0, fpcr" : "=r"(now));
    return now;
}
inline void round_by(unsigned long long wanted) { __asm__ volatile("msr fpcr, %0" : : "r"(wanted)); }
#else
constexpr unsigned FLUSH = 0x8040;  // FTZ and DAZ
inline unsigned rounding() { return __builtin_ia32_stmxcsr(); }
inline void round_by(unsigned wanted) { __builtin_ia32_ldmxcsr(wanted); }
#endif

// While it lives subnormal floats are 0, read or written, as CuPy's -ftz=true has it; and doubles too, which a GPU keeps.
struct Flushed {
    decltype(rounding()) before = rounding();

    Flushed() { round_by(before | FLUSH); }
    ~Flushed() { round_by(before); }
};

// Launch as cuLaunchKernel does, with a pointer to each argument; unlike it, compare the kinds of what is passed.
template <class... Args, std::size_t... I>
const char* launch(void (*kernel)(Args...), const unsigned* sizes, unsigned shared, const char* kinds, void** args,
                   std::index_sequence<I...>) {
    failure.clear();
    const std::string taken{kind<Args>()..., '\0'};
    if (std::string(kinds) != taken.c_str()) {
        failure = std::string("takes arguments of the kinds '") + taken.c_str() + "', and was given '" + kinds + "'";
        return failure.c_str();
    }
    gridDim = dim3(sizes[0], sizes[1], sizes[2]);
    blockDim = dim3(sizes[3], sizes[4], sizes[5]);
    auto call = [&] { kernel(*static_cast<std::remove_cv_t<Args>*>(args[I])...); };
    block.body = [](void* data) { (*static_cast<decltype(call)*>(data))(); };
    block.data = &call;
    block.threads = blockDim.x * blockDim.y * blockDim.z;
    const Flushed flushed;
    unsigned number = 0;
    for (unsigned z = 0; z < gridDim.z; ++z)
        for (unsigned y = 0; y < gridDim.y; ++y)
            for (unsigned x = 0; x < gridDim.x && failure.empty(); ++x) {
                blockIdx = dim3(x, y, z);
                block.backwards = number++ % 2 == 0;
                poison_shared();
                // Its end is the end of the memory, so that AddressSanitizer sees what is beyond.
                dynamic_shared = static_cast<char*>(std::aligned_alloc(16, (shared + 15) / 16 * 16 + 16 * !shared));
                std::memset(dynamic_shared, POISON, shared);
                run_block();
                std::free(dynamic_shared);
            }
    return failure.empty() ? nullptr : failure.c_str();
}

template <class... Args>
const char* launch(void (*kernel)(Args...), const unsigned* sizes, unsigned shared, const char* kinds, void** args) {
    return launch(kernel, sizes, shared, kinds, args, std::index_sequence_for<Args...>{});
}

struct Entry {
    const char* name;
    const char* (*launch)(const unsigned*, unsigned, const char*, void**);
};

}  // namespace host

// A barrier is known by its line: the compiler may make several calls of one.
#define __syncthreads() host::wait(host::Wait::block, __LINE__)
#define __syncthreads_count(value) host::count(value, __LINE__)
#define __syncthreads_or(value) (host::count(value, __LINE__) > 0)
#define __syncthreads_and(value) (host::count(!(value), __LINE__) == 0)
inline void __syncwarp(unsigned = 0xffffffff) { host::wait(host::Wait::warp, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace host {

// The values that the threads of a warp show each other, all of which must take part. They show them in one of two places in turn:
// when a thread comes to the first again, the others have met it at the second, and so read what was there.
template <class T>
const unsigned long long* shown(T value) {
    static_assert(sizeof(T) <= 8);
    const unsigned thread = current->thread;
    unsigned long long* place = exchanged[current->shows++ % 2];
    std::memcpy(&place[thread], &value, sizeof(T));
    wait(Wait::warp, 0);
    return place + thread / 32 * 32;
}

// What thread `lane(own)` of the warp shows.
template <class T, class Lane>
T shown_by(T value, Lane lane) {
    const unsigned thread = current->thread, source = lane(thread % 32);
    const unsigned long long* place = shown(value);
    if (thread / 32 * 32 + source < block.threads) std::memcpy(&value, &place[source], sizeof(T));
    return value;
}

inline int count(int value, int line) {
    counted[current->thread] = value != 0;
    wait(Wait::block, line);
    int sum = 0;
    for (unsigned thread = 0; thread < block.threads; ++thread) sum += counted[thread];
    wait(Wait::block, line);
    return sum;
}

}  // namespace host

template <class T>
T __shfl_sync(unsigned, T value, int from, int = 32) {
    return host::shown_by(value, [&](unsigned) { return unsigned(from) % 32; });
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int with, int = 32) {
    return host::shown_by(value, [&](unsigned lane) { return lane ^ unsigned(with); });
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned by, int = 32) {
    return host::shown_by(value, [&](unsigned lane) { return lane + by < 32 ? lane + by : lane; });
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned by, int = 32) {
    return host::shown_by(value, [&](unsigned lane) { return lane >= by ? lane - by : lane; });
}
inline unsigned __ballot_sync(unsigned, int value) {
    const unsigned warp = host::current->thread / 32 * 32, size = std::min(32u, host::block.threads - warp);
    const unsigned long long* place = host::shown(value);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < size; ++lane) votes |= unsigned(int(place[lane]) != 0) << lane;
    return votes;
}

// ---- Intrinsics

template <class T>
T __ldg(const T* address) { return *address; }
template <class T>
T __ldcs(const T* address) { return *address; }
template <class T>
void __stcs(T* address, T value) { *address = value; }

template <class T>
struct host_same { using type = T; };
#define HOST_ATOMIC(name, expression)                              \
    template <class T>                                             \
    T name(T* address, typename host_same<T>::type value) {        \
        T old = *address;                                          \
        *address = (expression);                                   \
        return old;                                                \
    }
HOST_ATOMIC(atomicAdd, old + value)
HOST_ATOMIC(atomicSub, old - value)
HOST_ATOMIC(atomicMin, old < value ? old : value)
HOST_ATOMIC(atomicMax, old > value ? old : value)
HOST_ATOMIC(atomicExch, value)
HOST_ATOMIC(atomicAnd, old & value)
HOST_ATOMIC(atomicOr, old | value)
HOST_ATOMIC(atomicXor, old ^ value)
#undef HOST_ATOMIC
template <class T>
T atomicCAS(T* address, typename host_same<T>::type expected, typename host_same<T>::type value) {
    T old = *address;
    if (old == expected) *address = value;
    return old;
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

template <class To, class From>
To host_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline unsigned __float_as_uint(float a) { return host_bits<unsigned>(a); }
inline int __float_as_int(float a) { return host_bits<int>(a); }
inline float __uint_as_float(unsigned a) { return host_bits<float>(a); }
inline float __int_as_float(int a) { return host_bits<float>(a); }
inline long long __double_as_longlong(double a) { return host_bits<long long>(a); }
inline double __longlong_as_double(long long a) { return host_bits<double>(a); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a ? __builtin_clz(a) : 32; }
inline int __clzll(long long a) { return a ? __builtin_clzll(a) : 64; }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((1ull * a * b) >> 32); }

template <class A, class B>
std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }
