// The C interface on whatever libcuda.so.1 there is: one query and one key per row of a small problem, whose output is V itself,
// and the failures that C programs come upon. Exit status 0 when all is as it should be.

#include "attn.h"

#include "common.h"

enum { BATCH = 3, HEADS = 2, DIM = 64, ELEMENTS = BATCH * HEADS * DIM };

int main(void) {
    CHECK(attn_abi_version() == ATTN_ABI_VERSION && strlen(attn_version()) > 0);
    CHECK(attn_last_error() == NULL);

    attn_problem problem;
    CHECK(attn_problem_init(&problem, ATTN_DTYPE_BF16, BATCH, 1, 1, HEADS, HEADS, DIM, DIM) == ATTN_STATUS_OK);
    CHECK(problem.struct_size == sizeof problem && problem.scale == 0.125f && problem.mask == ATTN_MASK_NONE);
    problem.mask = ATTN_MASK_CAUSAL;

    attn_plan *plan = (attn_plan *)&problem;
    CHECK(cuInit(0) == 0);
    CHECK(attn_plan_create(&problem, &plan) == ATTN_STATUS_CONTEXT && plan == NULL && says("no CUDA context"));
    int device = -1;
    void *context = NULL, *current = NULL;
    CHECK(cuDeviceGet(&device, 0) == 0 && cuCtxCreate_v2(&context, 0, device) == 0);

    CHECK(attn_plan_create(NULL, &plan) == ATTN_STATUS_INVALID_ARGUMENT && says("problem is a null pointer"));
    CHECK(attn_plan_create(&problem, NULL) == ATTN_STATUS_INVALID_ARGUMENT && says("plan is a null pointer"));
    CHECK(attn_plan_create_with_kernel(&problem, NULL, &plan) == ATTN_STATUS_INVALID_ARGUMENT);
    attn_problem wrong = problem;
    wrong.struct_size = 8;
    CHECK(attn_plan_create(&wrong, &plan) == ATTN_STATUS_INVALID_ARGUMENT && says("struct_size of problem is 8"));
    wrong = problem;
    wrong.q.seq = 4;
    wrong.seqlen_q = 2;
    CHECK(attn_plan_create(&wrong, &plan) == ATTN_STATUS_INVALID_PROBLEM && says("seq stride of q is 4"));
    wrong = problem;
    wrong.dtype = 9;
    CHECK(attn_plan_create(&wrong, &plan) == ATTN_STATUS_INVALID_PROBLEM && says("dtype is 9"));

    wrong = problem;
    wrong.mask = ATTN_MASK_WINDOW;
    CHECK(attn_plan_create(&wrong, &plan) == ATTN_STATUS_INVALID_PROBLEM && says("ATTN_MASK_WINDOW"));
    attn_serving serving;
    CHECK(attn_serving_init(NULL) == ATTN_STATUS_INVALID_ARGUMENT && attn_serving_init(&serving) == ATTN_STATUS_OK);
    CHECK(serving.struct_size == sizeof serving && serving.window_left == ATTN_UNLIMITED);
    CHECK(attn_supports(&problem, NULL) == ATTN_STATUS_OK && attn_supports(&wrong, &serving) == ATTN_STATUS_OK);
    CHECK(attn_plan_create_serving(&problem, NULL, NULL, &plan) == ATTN_STATUS_INVALID_ARGUMENT);
    serving.page_size = 24;
    CHECK(attn_plan_create_serving(&problem, &serving, NULL, &plan) == ATTN_STATUS_INVALID_PROBLEM);
    CHECK(says("page_size is 24"));

    CHECK(attn_plan_create(&problem, &plan) == ATTN_STATUS_OK && plan != NULL);
    uint64_t workspace = 1;
    CHECK(attn_plan_workspace_bytes(plan, &workspace) == ATTN_STATUS_OK && workspace == 0);
    CHECK(strstr(attn_plan_description(plan), attn_plan_kernel(plan)) != NULL);

    // With one key for each query the softmax is 1, and the output is V, bit by bit.
    uint16_t q[ELEMENTS], v[ELEMENTS], o[ELEMENTS];
    for (int i = 0; i < ELEMENTS; i++) {
        q[i] = 0x3f80;                       // 1.0
        v[i] = (uint16_t)(0x3f80 + i % 128); // 1.0 to 1.99
        o[i] = 0x7ffb;                       // NaN
    }
    attn_tensors tensors = {sizeof tensors, upload(q, sizeof q), upload(q, sizeof q), upload(v, sizeof v), upload(o, sizeof o), 0, 0};
    CHECK(tensors.q && tensors.k && tensors.v && tensors.o);
    CHECK(attn_plan_launch(plan, &tensors, NULL) == ATTN_STATUS_OK);
    CHECK(cuCtxSynchronize() == 0 && cuMemcpyDtoH_v2(o, tensors.o, sizeof o) == 0);
    CHECK(memcmp(o, v, sizeof o) == 0);
    CHECK(cuCtxGetCurrent(&current) == 0 && current == context);

    CHECK(attn_plan_launch(NULL, &tensors, NULL) == ATTN_STATUS_INVALID_ARGUMENT);
    CHECK(attn_plan_launch(plan, NULL, NULL) == ATTN_STATUS_INVALID_ARGUMENT && says("tensors is a null pointer"));
    tensors.k += 2;
    CHECK(attn_plan_launch(plan, &tensors, NULL) == ATTN_STATUS_INVALID_ADDRESS && says("k is at"));
    tensors.k = 0;
    CHECK(attn_plan_launch(plan, &tensors, NULL) == ATTN_STATUS_INVALID_ADDRESS && says("k is a null device pointer"));

    attn_plan_destroy(plan);
    attn_plan_destroy(NULL);
    CHECK(attn_plan_kernel(NULL) == NULL && attn_plan_description(NULL) == NULL);
    CHECK(cuCtxDestroy_v2(context) == 0);
    puts("right");
    return 0;
}
