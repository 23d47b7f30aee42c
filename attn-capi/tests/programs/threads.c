// attn.h and attn_dlpack.h from several threads at once: one plan, plans of their own, one tensor's memory, each thread's own last error. Then the
// library is closed while a tensor of its is still held. Exit status 0 when all is as it should be.
//
// threads LIBRARY: opened at run time, so that it can be closed.

#define _POSIX_C_SOURCE 200809L // barriers

#include "attn_dlpack.h"

#include <dlfcn.h>
#include <pthread.h>

static const char *(*last_error)(void);
#define attn_last_error last_error
#include "common.h"

enum { THREADS = 4, ROUNDS = 6, HEADS = 2, DIM = 64, ELEMENTS = HEADS * DIM };

// The library's functions by the header's types.
static __typeof__(&attn_problem_init) problem_init;
static __typeof__(&attn_plan_create) plan_create;
static __typeof__(&attn_plan_destroy) plan_destroy;
static __typeof__(&attn_dlpack_launch) launch;
static __typeof__(&attn_dlpack_output) output;
static __typeof__(&attn_dlpack_share) share;

static void *context;
static attn_plan *plan;
static attn_problem problem;
static DLManagedTensorVersioned *common;
static pthread_barrier_t together;

static int64_t shape[] = {1, 1, HEADS, DIM};

static DLTensor tensor(const void *data) {
    DLTensor made = {(void *)(uintptr_t)upload(data, ELEMENTS * 2), {kDLCUDA, 0}, 4, {kDLBfloat, 16, 1}, shape, NULL, 0};
    return made;
}

// One query and one key for each head: the output is V, bit by bit.
static int compute(const attn_plan *plan, unsigned salt) {
    uint16_t bits[ELEMENTS], found[ELEMENTS];
    for (unsigned i = 0; i < ELEMENTS; i++) bits[i] = (uint16_t)(0x3f80 + (i + salt) % 128);
    DLManagedTensorVersioned *o;
    CHECK(output(plan, ATTN_OUTPUT_O, &o) == ATTN_STATUS_OK);
    DLTensor v = tensor(bits);
    attn_dlpack_tensors tensors = {.struct_size = sizeof tensors, .q = &v, .k = &v, .v = &v, .o = &o->dl_tensor};
    CHECK(launch(plan, &tensors, NULL) == ATTN_STATUS_OK && cuCtxSynchronize() == 0);
    CHECK(cuMemcpyDtoH_v2(found, (uintptr_t)o->dl_tensor.data, sizeof found) == 0);
    o->deleter(o);
    CHECK(memcmp(found, bits, sizeof bits) == 0);
    return 0;
}

static int work(unsigned number) {
    char text[64];
    attn_plan *own;
    CHECK(last_error() == NULL);
    // A context is a thread's own, too.
    CHECK(plan_create(&problem, &own) == ATTN_STATUS_CONTEXT && says("no CUDA context"));
    CHECK(cuCtxSetCurrent(context) == 0);
    attn_problem wrong = problem;
    wrong.dtype = 100 + number;
    snprintf(text, sizeof text, "dtype is %u;", 100 + number);
    for (int round = 0; round < ROUNDS; round++) {
        CHECK(plan_create(&wrong, &own) == ATTN_STATUS_INVALID_PROBLEM && own == NULL);
        pthread_barrier_wait(&together);
        CHECK(says(text));
        CHECK(compute(plan, number + (unsigned)round) == 0);
        CHECK(plan_create(&problem, &own) == ATTN_STATUS_OK && compute(own, number) == 0);
        plan_destroy(own);
        DLManagedTensorVersioned *shared;
        CHECK(share(common, &shared) == ATTN_STATUS_OK && shared->dl_tensor.data == common->dl_tensor.data);
        shared->deleter(shared);
        CHECK(says(text));
    }
    return 0;
}

static void *run(void *number) {
    int failed = work((unsigned)(uintptr_t)number);
    if (failed) _Exit(1); // the others wait for it
    return NULL;
}

int main(int count, char **arguments) {
    void *library = count == 2 ? dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (library == NULL) return fprintf(stderr, "%s\n", dlerror()), 1;
#define FIND(place, name) CHECK((*(void **)&place = dlsym(library, #name)) != NULL)
    *(void **)&last_error = dlsym(library, "attn_" "last_error");
    FIND(problem_init, attn_problem_init);
    FIND(plan_create, attn_plan_create);
    FIND(plan_destroy, attn_plan_destroy);
    FIND(launch, attn_dlpack_launch);
    FIND(output, attn_dlpack_output);
    FIND(share, attn_dlpack_share);

    CHECK(cuInit(0) == 0 && cuCtxCreate_v2(&context, 0, 0) == 0);
    CHECK(problem_init(&problem, ATTN_DTYPE_BF16, 1, 1, 1, HEADS, HEADS, DIM, DIM) == ATTN_STATUS_OK);
    CHECK(plan_create(&problem, &plan) == ATTN_STATUS_OK && output(plan, ATTN_OUTPUT_O, &common) == ATTN_STATUS_OK);
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&together, NULL, THREADS) == 0);
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, run, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    plan_destroy(plan);

    // A consumer deletes when it pleases. (This thread has not asked for its last error, which would keep the library by itself.)
    device_address memory = (uintptr_t)common->dl_tensor.data;
    CHECK(dlclose(library) == 0);
    common->deleter(common);
    if (cuMemGetAddressRange_v2(NULL, NULL, memory) == 0) return fprintf(stderr, "the memory was not freed\n"), 1;
    puts("right");
    return 0;
}
