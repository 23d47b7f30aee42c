// attn_dlpack.h on whatever libcuda.so.1 there is: tensors as other libraries describe them against the same launches by addresses, what is
// refused, and the lives of tensors that are handed out. Exit status 0 when all is as it should be.

#include "attn_dlpack.h"

#include <pthread.h>

#include "common.h"

enum { BATCH = 2, QUERIES = 5, KEYS = 40, HEADS = 4, KV_HEADS = 2, DIM = 64, ROOM = 3 };
enum { Q = BATCH * QUERIES * HEADS * DIM, K = BATCH * KEYS * KV_HEADS * DIM, LSE = BATCH * HEADS * QUERIES };

static const DLDataType BF16 = {kDLBfloat, 16, 1}, F32 = {kDLFloat, 32, 1}, I32 = {kDLInt, 32, 1};

static DLTensor tensor(device_address data, DLDataType dtype, int ndim, int64_t *shape, int64_t *strides) {
    DLTensor made = {(void *)(uintptr_t)data, {kDLCUDA, 0}, ndim, dtype, shape, strides, 0};
    return made;
}

static device_address at(const DLManagedTensorVersioned *tensor) {
    return (device_address)(uintptr_t)tensor->dl_tensor.data;
}

static int allocated(device_address address) {
    return cuMemGetAddressRange_v2(NULL, NULL, address) == 0;
}

// bfloat16 between -2 and 2, in sixteenths.
static uint16_t value(size_t i, unsigned salt) {
    float x = (float)((int)((i * 37 + salt * 11) % 61) - 30) / 16;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static uint16_t q[Q], k[K], v[K], expected[Q], found[Q];
static float expected_lse[LSE], found_lse[LSE];

// Rows of any tensor, from and to compact ones: the heads outermost, or with room behind each row of heads.
static size_t permuted(size_t i) {
    size_t d = i % DIM, h = i / DIM % HEADS, s = i / (DIM * HEADS) % QUERIES, b = i / (DIM * HEADS * QUERIES);
    return ((b * HEADS + h) * QUERIES + s) * DIM + d;
}

// The sizes and strides of one of the problem's tensors that is permuted.
static int64_t q_shape[] = {BATCH, QUERIES, HEADS, DIM}, q_strides[] = {HEADS * QUERIES * DIM, DIM, QUERIES *DIM, 1};
static int64_t k_shape[] = {BATCH, KEYS, KV_HEADS, DIM};
static int64_t k_strides[] = {KEYS * ROOM * KV_HEADS * DIM, ROOM *KV_HEADS *DIM, DIM, 1};
static int64_t lse_shape[] = {BATCH, HEADS, QUERIES}, lse_strides[] = {HEADS * 8, 8, 1};

// Q with its heads outermost, K inside larger memory, V compact without strides.
static DLTensor dl_q, dl_k, dl_v;

static int inputs(void) {
    static uint16_t q_there[Q], k_there[ROOM * K + 32];
    for (size_t i = 0; i < Q; i++) q_there[permuted(i)] = q[i] = value(i, 1);
    for (size_t i = 0; i < K; i++) {
        k[i] = value(i, 2);
        v[i] = value(i, 3);
        k_there[32 + i / (KV_HEADS * DIM) * (ROOM * KV_HEADS * DIM) + i % (KV_HEADS * DIM)] = k[i];
    }
    dl_q = tensor(upload(q_there, sizeof q_there), BF16, 4, q_shape, q_strides);
    dl_k = tensor(upload(k_there, sizeof k_there), BF16, 4, k_shape, k_strides);
    dl_k.byte_offset = 64;
    dl_v = tensor(upload(v, sizeof v), BF16, 4, k_shape, NULL);
    CHECK(dl_q.data && dl_k.data && dl_v.data);
    return 0;
}

// What compact tensors give by attn_plan_launch.
static int reference(void) {
    attn_problem problem;
    CHECK(attn_problem_init(&problem, ATTN_DTYPE_BF16, BATCH, QUERIES, KEYS, HEADS, KV_HEADS, DIM, DIM) == ATTN_STATUS_OK);
    problem.mask = ATTN_MASK_CAUSAL;
    attn_plan *plan;
    CHECK(attn_plan_create(&problem, &plan) == ATTN_STATUS_OK);
    attn_tensors tensors = {sizeof tensors, upload(q, sizeof q), upload(k, sizeof k), upload(v, sizeof v),
                            upload(found, sizeof found), upload(found_lse, sizeof found_lse), 0};
    CHECK(attn_plan_launch(plan, &tensors, NULL) == ATTN_STATUS_OK && cuCtxSynchronize() == 0);
    CHECK(cuMemcpyDtoH_v2(expected, tensors.o, sizeof expected) == 0);
    CHECK(cuMemcpyDtoH_v2(expected_lse, tensors.lse, sizeof expected_lse) == 0);
    attn_plan_destroy(plan);
    return 0;
}

// Into tensors of the library's own, and into the caller's.
static int dense(attn_plan **plan) {
    attn_dlpack_tensors tensors = {.struct_size = sizeof tensors, .q = &dl_q, .k = &dl_k, .v = &dl_v};
    attn_problem problem;
    CHECK(attn_dlpack_problem(&tensors, &problem, NULL) == ATTN_STATUS_OK);
    CHECK(problem.q.head == QUERIES * DIM && problem.k.seq == ROOM * KV_HEADS * DIM && problem.v.seq == KV_HEADS * DIM);
    problem.mask = ATTN_MASK_CAUSAL;
    CHECK(attn_plan_create(&problem, plan) == ATTN_STATUS_OK);

    DLManagedTensorVersioned *o, *lse, *none = (DLManagedTensorVersioned *)&problem;
    CHECK(attn_dlpack_output(*plan, ATTN_OUTPUT_O, &o) == ATTN_STATUS_OK);
    CHECK(attn_dlpack_output(*plan, ATTN_OUTPUT_LSE, &lse) == ATTN_STATUS_OK);
    CHECK(attn_dlpack_output(*plan, ATTN_OUTPUT_WORKSPACE, &none) == ATTN_STATUS_OK && none == NULL);
    CHECK(o->version.major == DLPACK_MAJOR_VERSION && o->flags == 0 && o->dl_tensor.device.device_type == kDLCUDA);
    CHECK(o->dl_tensor.ndim == 4 && memcmp(o->dl_tensor.shape, q_shape, sizeof q_shape) == 0);
    CHECK(lse->dl_tensor.ndim == 3 && lse->dl_tensor.strides[1] == QUERIES && lse->dl_tensor.dtype.bits == 32);
    tensors.o = &o->dl_tensor;
    tensors.lse = &lse->dl_tensor;
    CHECK(attn_dlpack_launch(*plan, &tensors, NULL) == ATTN_STATUS_OK && cuCtxSynchronize() == 0);
    CHECK(cuMemcpyDtoH_v2(found, at(o), sizeof found) == 0 && memcmp(found, expected, sizeof found) == 0);
    CHECK(cuMemcpyDtoH_v2(found_lse, at(lse), sizeof found_lse) == 0);
    CHECK(memcmp(found_lse, expected_lse, sizeof found_lse) == 0);
    o->deleter(o);
    lse->deleter(lse);

    // With its heads outermost, which is another plan: O's strides are the problem's.
    DLTensor own = tensor(upload(found, sizeof found), BF16, 4, q_shape, q_strides);
    static float wide[BATCH * HEADS * 8];
    DLTensor own_lse = tensor(upload(wide, sizeof wide), F32, 3, lse_shape, lse_strides);
    tensors.o = &own;
    tensors.lse = &own_lse;
    CHECK(attn_dlpack_launch(*plan, &tensors, NULL) == ATTN_STATUS_INVALID_PROBLEM && says("strides of o are (1280, 64, 320, 1)"));
    CHECK(attn_dlpack_problem(&tensors, &problem, NULL) == ATTN_STATUS_OK);
    problem.mask = ATTN_MASK_CAUSAL;
    attn_plan *other;
    CHECK(attn_plan_create(&problem, &other) == ATTN_STATUS_OK);
    CHECK(attn_dlpack_launch(other, &tensors, NULL) == ATTN_STATUS_OK && cuCtxSynchronize() == 0);
    CHECK(cuMemcpyDtoH_v2(found, (device_address)(uintptr_t)own.data, sizeof found) == 0);
    CHECK(cuMemcpyDtoH_v2(wide, (device_address)(uintptr_t)own_lse.data, sizeof wide) == 0);
    for (size_t i = 0; i < Q; i++) CHECK(found[permuted(i)] == expected[i]);
    for (size_t i = 0; i < LSE; i++) CHECK(wide[i / QUERIES * 8 + i % QUERIES] == expected_lse[i]);
    CHECK(attn_dlpack_output(other, ATTN_OUTPUT_O, &o) == ATTN_STATUS_OK);
    CHECK(memcmp(o->dl_tensor.strides, q_strides, sizeof q_strides) == 0);
    o->deleter(o);
    attn_plan_destroy(other);
    return 0;
}

// The same rows as packed sequences with a workspace, by addresses and by tensors.
static int packed(void) {
    int32_t sums_q[] = {0, QUERIES, BATCH * QUERIES}, sums_k[] = {0, KEYS, BATCH * KEYS};
    int64_t q3[] = {BATCH * QUERIES, HEADS, DIM}, k3[] = {BATCH * KEYS, KV_HEADS, DIM}, batch1[] = {BATCH + 1};
    DLTensor rows[] = {tensor(upload(q, sizeof q), BF16, 3, q3, NULL), tensor(upload(k, sizeof k), BF16, 3, k3, NULL),
                       tensor(upload(v, sizeof v), BF16, 3, k3, NULL)};
    DLTensor sums[] = {tensor(upload(sums_q, sizeof sums_q), I32, 1, batch1, NULL),
                       tensor(upload(sums_k, sizeof sums_k), I32, 1, batch1, NULL)};
    attn_dlpack_tensors tensors = {.struct_size = sizeof tensors, .q = &rows[0], .k = &rows[1], .v = &rows[2],
                                   .cu_seqlens_q = &sums[0], .cu_seqlens_k = &sums[1]};
    attn_problem problem;
    attn_serving serving;
    CHECK(attn_dlpack_problem(&tensors, &problem, NULL) == ATTN_STATUS_INVALID_ARGUMENT && says("serving is a null pointer"));
    CHECK(attn_dlpack_problem(&tensors, &problem, &serving) == ATTN_STATUS_OK);
    CHECK(problem.batch == BATCH && problem.seqlen_q == BATCH * QUERIES && serving.total_k == BATCH * KEYS);
    problem.mask = ATTN_MASK_CAUSAL;
    problem.seqlen_q = QUERIES;
    problem.seqlen_k = KEYS;
    attn_plan *plan;
    CHECK(attn_plan_create_serving(&problem, &serving, NULL, &plan) == ATTN_STATUS_OK);

    DLManagedTensorVersioned *o, *workspace;
    CHECK(attn_dlpack_output(plan, ATTN_OUTPUT_O, &o) == ATTN_STATUS_OK && o->dl_tensor.ndim == 3);
    tensors.o = &o->dl_tensor;
    CHECK(attn_dlpack_launch(plan, &tensors, NULL) == ATTN_STATUS_INVALID_ADDRESS && says("workspace is absent"));
    CHECK(attn_dlpack_output(plan, ATTN_OUTPUT_WORKSPACE, &workspace) == ATTN_STATUS_OK && workspace != NULL);
    tensors.workspace = &workspace->dl_tensor;
    CHECK(attn_dlpack_launch(plan, &tensors, NULL) == ATTN_STATUS_OK && cuCtxSynchronize() == 0);
    CHECK(cuMemcpyDtoH_v2(found, at(o), sizeof found) == 0);

    attn_tensors by_address = {sizeof by_address, (uint64_t)(uintptr_t)rows[0].data, (uint64_t)(uintptr_t)rows[1].data,
                               (uint64_t)(uintptr_t)rows[2].data, upload(q, sizeof q), 0, at(workspace)};
    attn_serving_tensors arrays = {.struct_size = sizeof arrays, .cu_seqlens_q = (uint64_t)(uintptr_t)sums[0].data,
                                   .cu_seqlens_k = (uint64_t)(uintptr_t)sums[1].data};
    CHECK(attn_plan_launch_serving(plan, &by_address, &arrays, NULL) == ATTN_STATUS_OK && cuCtxSynchronize() == 0);
    static uint16_t other[Q];
    CHECK(cuMemcpyDtoH_v2(other, by_address.o, sizeof other) == 0 && memcmp(found, other, sizeof other) == 0);
    tensors.sinks = &sums[0];
    CHECK(attn_dlpack_launch(plan, &tensors, NULL) == ATTN_STATUS_INVALID_PROBLEM && says("dtype of sinks"));
    o->deleter(o);
    workspace->deleter(workspace);
    attn_plan_destroy(plan);
    return 0;
}

static int refused(const attn_plan *plan, DLTensor wrong, int32_t status, const char *text) {
    attn_dlpack_tensors tensors = {.struct_size = sizeof tensors, .q = &dl_q, .k = &wrong, .v = &dl_v};
    attn_problem problem = {0};
    CHECK(attn_dlpack_problem(&tensors, &problem, NULL) == status && says(text) && problem.struct_size == 0);
    CHECK(attn_dlpack_launch(plan, &tensors, NULL) == status);
    return 0;
}

static int refusals(const attn_plan *plan) {
    DLTensor wrong = dl_k;
    wrong.device.device_id = 1;
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_ADDRESS, "k lies on device 1 of type 2; allowed: device 0") == 0);
    wrong = dl_k;
    wrong.device.device_type = kDLCPU;
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_ADDRESS, "k lies on device 0 of type 1") == 0);
    wrong = dl_k;
    wrong.data = NULL;
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_ADDRESS, "data of k is a null device pointer") == 0);
    wrong = dl_k;
    wrong.dtype = F32;
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_PROBLEM, "dtype of k is code 2, 32 bits, 1 lanes") == 0);
    wrong = dl_k;
    wrong.dtype.lanes = 2;
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_PROBLEM, "dtype of k is code 4, 16 bits, 2 lanes") == 0);
    wrong = dl_k;
    wrong.ndim = 3;
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_PROBLEM, "") == 0);
    wrong = dl_k;
    wrong.ndim = 5;
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_PROBLEM, "k has 5 dimensions; allowed: 1 to 4") == 0);
    wrong = dl_k;
    wrong.shape = NULL;
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_ARGUMENT, "shape of k is a null pointer") == 0);
    int64_t huge[] = {INT64_MAX, INT64_MAX, KV_HEADS, DIM}, negative[] = {BATCH, -1, KV_HEADS, DIM};
    wrong = tensor(1 << 20, BF16, 4, huge, NULL);
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_PROBLEM, "shape of k is (9223372036854775807") == 0);
    wrong = tensor(1 << 20, BF16, 4, negative, NULL);
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_PROBLEM, "dimension 1 of k is -1") == 0);
    wrong = dl_k;
    wrong.byte_offset = UINT64_MAX;
    CHECK(refused(plan, wrong, ATTN_STATUS_INVALID_ADDRESS, "byte_offset of k") == 0);

    attn_dlpack_tensors tensors = {.struct_size = sizeof tensors, .q = &dl_q, .k = &dl_k, .v = &dl_v};
    attn_problem problem;
    CHECK(attn_dlpack_launch(plan, &tensors, NULL) == ATTN_STATUS_INVALID_ADDRESS && says("o is a null device pointer"));
    CHECK(attn_dlpack_launch(NULL, &tensors, NULL) == ATTN_STATUS_INVALID_ARGUMENT && says("plan is a null pointer"));
    CHECK(attn_dlpack_launch(plan, NULL, NULL) == ATTN_STATUS_INVALID_ARGUMENT && says("tensors is a null pointer"));
    CHECK(attn_dlpack_problem(&tensors, NULL, NULL) == ATTN_STATUS_INVALID_ARGUMENT && says("problem is a null pointer"));
    tensors.q = NULL;
    CHECK(attn_dlpack_problem(&tensors, &problem, NULL) == ATTN_STATUS_INVALID_ARGUMENT && says("q is a null pointer"));
    tensors.struct_size = 8;
    CHECK(attn_dlpack_problem(&tensors, &problem, NULL) == ATTN_STATUS_INVALID_ARGUMENT && says("struct_size of tensors is 8"));
    DLManagedTensorVersioned *o = (DLManagedTensorVersioned *)&problem;
    CHECK(attn_dlpack_output(plan, 3, &o) == ATTN_STATUS_INVALID_ARGUMENT && o == NULL && says("output is 3"));
    CHECK(attn_dlpack_output(plan, ATTN_OUTPUT_O, NULL) == ATTN_STATUS_INVALID_ARGUMENT && says("tensor is a null pointer"));
    DLManagedTensorVersioned foreign = {.version = {1, 1}}, *shared;
    CHECK(attn_dlpack_share(&foreign, &shared) == ATTN_STATUS_INVALID_ARGUMENT && says("another library's") && shared == NULL);
    return 0;
}

static void *delete_elsewhere(void *tensor) {
    DLManagedTensor *managed = tensor;
    managed->deleter(managed);
    void *current = NULL;
    cuCtxGetCurrent(&current);
    return current;
}

static int lives(const attn_plan *plan, void *context) {
    DLManagedTensorVersioned *o, *again, *left;
    DLManagedTensor *old;
    CHECK(attn_dlpack_output(plan, ATTN_OUTPUT_O, &o) == ATTN_STATUS_OK);
    CHECK(attn_dlpack_share(o, &again) == ATTN_STATUS_OK && attn_dlpack_share_unversioned(o, &old) == ATTN_STATUS_OK);
    device_address memory = at(o);
    CHECK(old->dl_tensor.data == o->dl_tensor.data && old->dl_tensor.shape[1] == QUERIES && at(again) == memory);
    o->deleter(o);
    again->deleter(again);
    CHECK(allocated(memory));
    // The last one goes on a thread that has no context, and has none afterwards.
    pthread_t thread;
    void *current = context;
    CHECK(pthread_create(&thread, NULL, delete_elsewhere, old) == 0 && pthread_join(thread, &current) == 0);
    CHECK(current == NULL && !allocated(memory));

    // What outlives its context takes nothing of the next one with it, which may have its addresses.
    CHECK(attn_dlpack_output(plan, ATTN_OUTPUT_O, &left) == ATTN_STATUS_OK);
    memory = at(left);
    void *next = NULL;
    CHECK(cuCtxDestroy_v2(context) == 0 && cuCtxCreate_v2(&next, 0, 0) == 0);
    CHECK(attn_dlpack_output(plan, ATTN_OUTPUT_O, &o) == ATTN_STATUS_CONTEXT && o == NULL);
    device_address of_next = 0;
    for (int i = 0; i < 64 && of_next != memory; i++) CHECK(cuMemAlloc_v2(&of_next, sizeof q) == 0);
    left->deleter(left);
    CHECK(allocated(of_next));
    CHECK(cuCtxGetCurrent(&current) == 0 && current == next && cuCtxDestroy_v2(next) == 0);
    return 0;
}

int main(void) {
    attn_problem problem;
    attn_dlpack_tensors none = {.struct_size = sizeof none};
    CHECK(cuInit(0) == 0);
    CHECK(attn_dlpack_problem(&none, &problem, NULL) == ATTN_STATUS_CONTEXT && says("no CUDA context"));
    void *context = NULL;
    CHECK(cuCtxCreate_v2(&context, 0, 0) == 0);
    attn_plan *plan;
    if (inputs() || reference() || dense(&plan) || packed() || refusals(plan) || lives(plan, context)) return 1;
    attn_plan_destroy(plan);
    puts("right");
    return 0;
}
