/* CUDA's runtime and driver without a device: memory is the host's, kernels are counted and not run.
 *
 * Functions whose results matter are here; stub.py adds one that does nothing for each other function that PyTorch calls.
 * Types are those of the installed CUDA, since cudaDeviceProp differs between versions. Its prototypes are not included:
 * they rename functions.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <driver_types.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "stub.h"

#define ROOM (1ul << 38) /* bytes of addresses for each kind of memory; pages exist once they are written */

typedef unsigned long long u64;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct call *calls;
static struct room { char *start; size_t used; } device, pinned;
static _Thread_local int current;
static struct { char bytes[4096]; size_t size; } answers[2]; /* what the host gets if it reads that many bytes */

/* For tests. */

void stub_count(struct call *call)
{
    if (__atomic_fetch_add(&call->count, 1, __ATOMIC_RELAXED))
        return;
    pthread_mutex_lock(&lock);
    call->next = calls;
    calls = call;
    pthread_mutex_unlock(&lock);
}

void stub_counts(char *text, size_t size)
{
    pthread_mutex_lock(&lock);
    for (struct call *call = calls; call && size > 1; call = call->next) {
        size_t length = snprintf(text, size, "%s %ld\n", call->name, call->count);
        text += length, size = length < size ? size - length : 0;
    }
    pthread_mutex_unlock(&lock);
}

void stub_answer(int number, const void *bytes, size_t size)
{
    memcpy(answers[number].bytes, bytes, answers[number].size = size);
}

/* Memory, which is never given back: PyTorch keeps it, too. */

static int take(struct room *room, void **found, size_t bytes)
{
    pthread_mutex_lock(&lock);
    if (!room->start)
        room->start = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *found = room->start + room->used;
    int failed = room->start == MAP_FAILED || bytes > ROOM - room->used;
    room->used += failed ? 0 : (bytes + 511) / 512 * 512;
    pthread_mutex_unlock(&lock);
    return failed ? cudaErrorMemoryAllocation : cudaSuccess;
}

static int holds(struct room *room, const void *address)
{
    return room->start && (const char *)address >= room->start && (const char *)address < room->start + ROOM;
}

int cudaMalloc(void **found, size_t bytes) { COUNT(); return take(&device, found, bytes); }
int cudaMallocAsync(void **found, size_t bytes, void *stream) { COUNT(); return take(&device, found, bytes); }
int cudaHostAlloc(void **found, size_t bytes, unsigned flags) { COUNT(); return take(&pinned, found, bytes); }
int cudaMallocHost(void **found, size_t bytes) { COUNT(); return take(&pinned, found, bytes); }

int cudaMemGetInfo(size_t *unused, size_t *total)
{
    *unused = 140ul << 30, *total = 141ul << 30;
    return cudaSuccess;
}

int cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address)
{
    memset(found, 0, sizeof *found);
    found->type = holds(&device, address)   ? cudaMemoryTypeDevice
                  : holds(&pinned, address) ? cudaMemoryTypeHost
                                            : cudaMemoryTypeUnregistered;
    found->devicePointer = found->hostPointer = (void *)address;
    return cudaSuccess;
}

int cuPointerGetAttribute(void *found, int attribute, void *address)
{
    *(void **)found = address;
    return cudaSuccess;
}

/* Copies. The driver may wait before it copies memory of the host that is not pinned. */

static void copy_pageable(void) { COUNT(); }

static int copy(void *to, const void *from, size_t bytes)
{
    if (holds(&device, from) && !holds(&device, to))
        for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
            from = bytes == answers[i].size ? answers[i].bytes : from;
    memcpy(to, from, bytes);
    return cudaSuccess;
}

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) { COUNT(); return copy(to, from, bytes); }

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream)
{
    COUNT();
    if (!(holds(&device, to) || holds(&pinned, to)) || !(holds(&device, from) || holds(&pinned, from)))
        copy_pageable();
    return copy(to, from, bytes);
}

/* The device: an H200. Numbers of attributes are the same in runtime and driver. */

int cudaGetDeviceCount(int *count) { *count = 1; return cudaSuccess; }
int cudaGetDevice(int *found) { *found = current; return cudaSuccess; }
int cudaSetDevice(int chosen) { current = chosen; return cudaSuccess; }
int cudaDriverGetVersion(int *version) { *version = VERSION; return cudaSuccess; }
int cudaRuntimeGetVersion(int *version) { *version = VERSION; return cudaSuccess; }

int cudaGetDeviceProperties(struct cudaDeviceProp *found, int number)
{
    memset(found, 0, sizeof *found);
    strcpy(found->name, "Stub H200");
    found->totalGlobalMem = 141ul << 30;
    found->major = 9;
    found->multiProcessorCount = 132;
    found->warpSize = 32;
    found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
    found->maxThreadsDim[2] = 64;
    found->maxThreadsPerMultiProcessor = 2048;
    found->sharedMemPerBlock = 48 << 10;
    found->sharedMemPerBlockOptin = 227 << 10;
    found->sharedMemPerMultiprocessor = 228 << 10;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->maxGridSize[0] = 0x7fffffff;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->l2CacheSize = 60 << 20;
    found->unifiedAddressing = 1;
    return cudaSuccess;
}

int cudaGetDeviceProperties_v2(struct cudaDeviceProp *found, int number) { return cudaGetDeviceProperties(found, number); }

int cudaDeviceGetAttribute(int *found, int attribute, int number)
{
    struct cudaDeviceProp all;
    cudaGetDeviceProperties(&all, number);
    *found = attribute == cudaDevAttrMultiProcessorCount            ? all.multiProcessorCount
             : attribute == cudaDevAttrComputeCapabilityMajor       ? all.major
             : attribute == cudaDevAttrWarpSize                     ? all.warpSize
             : attribute == cudaDevAttrMaxThreadsPerBlock           ? all.maxThreadsPerBlock
             : attribute == cudaDevAttrMaxThreadsPerMultiProcessor  ? all.maxThreadsPerMultiProcessor
             : attribute == cudaDevAttrMaxSharedMemoryPerBlock      ? (int)all.sharedMemPerBlock
             : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? (int)all.sharedMemPerBlockOptin
             : attribute == cudaDevAttrMaxRegistersPerBlock         ? all.regsPerBlock
                                                                    : 0;
    return cudaSuccess;
}

int cuDeviceGet(int *found, int number) { *found = number; return cudaSuccess; }
int cuCtxGetDevice(int *found) { *found = current; return cudaSuccess; }
int cuDeviceGetAttribute(int *found, int attribute, int number) { return cudaDeviceGetAttribute(found, attribute, number); }
int cuDriverGetVersion(int *version) { *version = VERSION; return cudaSuccess; }
int cuCtxGetCurrent(void **context) { *context = (void *)64; return cudaSuccess; }

int cuDevicePrimaryCtxGetState(int number, unsigned *flags, int *active)
{
    *flags = 0, *active = 1;
    return cudaSuccess;
}

/* Streams and events: every event has happened. */

static int handle(void **made)
{
    static long last = 64;
    *made = (void *)(__atomic_add_fetch(&last, 64, __ATOMIC_RELAXED));
    return cudaSuccess;
}

int cudaStreamCreateWithPriority(void **made, unsigned flags, int priority) { return handle(made); }
int cudaEventCreateWithFlags(void **made, unsigned flags) { return handle(made); }
int cudaStreamGetPriority(void *stream, int *priority) { *priority = 0; return cudaSuccess; }
int cudaStreamGetFlags(void *stream, unsigned *flags) { *flags = 0; return cudaSuccess; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0, *greatest = -5; return cudaSuccess; }
int cudaEventElapsedTime(float *milliseconds, void *from, void *to) { *milliseconds = 1; return cudaSuccess; }
int cudaEventElapsedTime_v2(float *milliseconds, void *from, void *to) { *milliseconds = 1; return cudaSuccess; }

/* Graphs: one stream is captured at a time. */

static void *captured;

int cudaStreamBeginCapture(void *stream, int mode) { COUNT(); captured = stream; return cudaSuccess; }
int cudaStreamEndCapture(void *stream, void **graph) { COUNT(); captured = NULL; return handle(graph); }
int cudaGraphInstantiateWithFlags(void **made, void *graph, u64 flags) { COUNT(); return handle(made); }
int cudaGraphGetNodes(void *graph, void **nodes, size_t *count) { *count = 1; return cudaSuccess; }

int cudaStreamIsCapturing(void *stream, int *status)
{
    *status = captured && stream == captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

int cudaStreamGetCaptureInfo(void *stream, int *status, u64 *id)
{
    cudaStreamIsCapturing(stream, status);
    if (id)
        *id = 1;
    return cudaSuccess;
}

int cudaStreamGetCaptureInfo_v2(void *stream, int *status, u64 *id) { return cudaStreamGetCaptureInfo(stream, status, id); }
int cudaStreamGetCaptureInfo_v3(void *stream, int *status, u64 *id) { return cudaStreamGetCaptureInfo(stream, status, id); }

/* Kernels. */

void **__cudaRegisterFatBinary(void *binary) { static void *registered[4]; return registered; }
int __cudaGetKernel(void **kernel, const void *function) { *kernel = (void *)function; return cudaSuccess; }
int cuModuleLoadData(void **module, const void *image) { return handle(module); }
int cuModuleGetFunction(void **function, void *module, const char *name) { return handle(function); }
int cuFuncGetAttribute(int *found, int attribute, void *function) { *found = attribute ? 0 : 1024; return cudaSuccess; }

int cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *function)
{
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->binaryVersion = found->ptxVersion = 90;
    return cudaSuccess;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks) { *blocks = 4; return cudaSuccess; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) { *blocks = 4; return cudaSuccess; }

int cuGetErrorString(int error, const char **text) { *text = "an error that no stub gives"; return cudaSuccess; }
int cuGetErrorName(int error, const char **text) { return cuGetErrorString(error, text); }

/* Functions of the driver that are looked up by name. */

static int find(const char *name, void **function, int *status)
{
    *function = dlsym(RTLD_DEFAULT, name);
    if (status)
        *status = *function ? 0 : 1;
    return cudaSuccess;
}

int cudaGetDriverEntryPoint(const char *name, void **function, u64 flags, int *status) { return find(name, function, status); }

int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, u64 flags, int *status)
{
    return find(name, function, status);
}

int cuGetProcAddress_v2(const char *name, void **function, int version, u64 flags, int *status)
{
    return find(name, function, status);
}
