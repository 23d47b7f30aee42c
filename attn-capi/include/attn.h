// Attention on NVIDIA GPUs: forward attention kernels behind a C ABI.
//
// Made by cbindgen from attn-capi/src; a test compares the two.
//
// A problem is filled by attn_problem_init and changed where it differs. A plan is made from it once, in the CUDA context
// that is current on the calling thread, and launched many times on device addresses and a CUstream of that context. Contexts,
// streams and memory stay the caller's: nothing is retained, created or destroyed, and a launch neither allocates nor waits.
//
// Functions return ATTN_STATUS_OK or say what is wrong; attn_last_error() has the words. Any function may be called from any
// thread, and one plan from several at once.

#ifndef ATTN_H
#define ATTN_H

#include <stddef.h>
#include <stdint.h>

// The ABI that this header declares. It changes when a program built with an older header would no longer work.
#define ATTN_ABI_VERSION 1

// Element i is rotated with element i + rotary_dim / 2.
#define ATTN_PAIRS_HALVES 0

// Element 2 i is rotated with element 2 i + 1.
#define ATTN_PAIRS_INTERLEAVED 1

// The tables of cosines and sines are f32.
#define ATTN_SINES_F32 0

// They are of the element type of K and V.
#define ATTN_SINES_AS_TENSORS 1

// Q, K, V and O are bfloat16.
#define ATTN_DTYPE_BF16 0

// Q, K, V and O are IEEE half precision.
#define ATTN_DTYPE_F16 1

// Every query sees every key.
#define ATTN_MASK_NONE 0

// Bottom-right aligned: query i sees keys j <= i + seqlen_k - seqlen_q. A query without a key gets zeros.
#define ATTN_MASK_CAUSAL 1

// From window_left keys before a query's own position to window_right after it, both of attn_serving.
#define ATTN_MASK_WINDOW 2

// A window without an end on that side.
#define ATTN_UNLIMITED UINT64_MAX

// No ALiBi.
#define ATTN_ALIBI_NONE 0

// A slope for each query head: f32[heads].
#define ATTN_ALIBI_PER_HEAD 1

// A slope for each sequence and query head: f32[batch][heads].
#define ATTN_ALIBI_PER_SEQUENCE_AND_HEAD 2

// Q, K and V are of the problem's element type.
#define ATTN_FLOAT8_NONE 0

// K and V are 8-bit floats (e4m3).
#define ATTN_FLOAT8_KEYS 1

// Q, K and V are 8-bit floats (e4m3); O is of the problem's element type.
#define ATTN_FLOAT8_ALL 2

// 8-bit elements are meant as they are.
#define ATTN_DESCALES_NONE 0

// They are meant times a factor of each key/value head: f32[kv_heads].
#define ATTN_DESCALES_PER_HEAD 1

// They are meant times a factor of each sequence and key/value head: f32[batch][kv_heads].
#define ATTN_DESCALES_PER_SEQUENCE_AND_HEAD 2

// As many splits of the keys as should be fastest.
#define ATTN_SPLITS_AUTO 0

// What became of a call. Later versions may add codes; anything but ATTN_STATUS_OK is a failure.
enum attn_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    // Done.
    ATTN_STATUS_OK = 0,
    // A pointer that must not be null is, a structure's size is not one that this library knows, or a text is not UTF-8.
    ATTN_STATUS_INVALID_ARGUMENT = 1,
    // A size, stride, scale, element type or mask is not allowed.
    ATTN_STATUS_INVALID_PROBLEM = 2,
    // No kernel computes this problem on this device, or no kernel has the name that was asked for.
    ATTN_STATUS_UNSUPPORTED = 3,
    // A device address is null, absent, not aligned, not planned for, or not the plan's device's.
    ATTN_STATUS_INVALID_ADDRESS = 4,
    // There is no CUDA driver, or it is too old.
    ATTN_STATUS_DRIVER = 5,
    // No CUDA context is current, or another one than the plan's.
    ATTN_STATUS_CONTEXT = 6,
    // A kernel's code was not found, not readable, or not of this library's plans.
    ATTN_STATUS_KERNEL = 7,
    // The driver ran out of memory.
    ATTN_STATUS_OUT_OF_MEMORY = 8,
    // A call of the driver failed, perhaps because of earlier work on the device.
    ATTN_STATUS_CUDA = 9,
    // A defect of this library.
    ATTN_STATUS_INTERNAL = 10,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum attn_status attn_status;
#else
typedef int32_t attn_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A checked attn_append with its kernel, in one CUDA context. It never changes and may be used by several threads.
typedef struct attn_append_plan attn_append_plan;

// A checked problem with its kernel, in one CUDA context. It never changes and may be used by several threads.
typedef struct attn_plan attn_plan;

// Elements from one batch entry, sequence position or head to the next; multiples of 8. The last dimension is contiguous.
typedef struct attn_strides {
    // From one batch entry to the next.
    int64_t batch;
    // From one sequence position to the next.
    int64_t seq;
    // From one head to the next.
    int64_t head;
} attn_strides;

// New keys and values of sequences, written into a cache behind those that are there; K, and Q with it, rotated by position where the
// model has rotary embeddings. attn_append_init fills all of it with a dense cache's, attn_append_contiguous the strides.
//
// New K is (batch, new_tokens, kv_heads, head_dim), V likewise with head_dim_v, Q (batch, new_tokens, heads, head_dim).
typedef struct attn_append {
    // sizeof(attn_append).
    size_t struct_size;
    // ATTN_DTYPE_*.
    uint32_t dtype;
    // 1: seqused_new says how many new tokens of each sequence there are.
    uint32_t seqused_new;
    // 1: seqlens_before says how many keys of each sequence the cache has already; 0: none.
    uint32_t seqlens_before;
    // ATTN_PAIRS_*.
    uint32_t pairs;
    // ATTN_SINES_*.
    uint32_t sines;
    // 1: the caches hold 8-bit floats (e4m3), with strides that are multiples of 16 elements.
    uint32_t float8;
    // ATTN_DESCALES_*: what the caches' 8-bit floats are meant times.
    uint32_t descales;
    // Zero; keeps what follows aligned.
    uint32_t reserved;
    // Independent sequences.
    uint64_t batch;
    // New tokens of each, or of the one that has most.
    uint64_t new_tokens;
    // New tokens of all sequences, packed: K is (total, kv_heads, head_dim), with cu_seqlens_new. 0: not packed.
    uint64_t total;
    // Key/value heads.
    uint64_t kv_heads;
    // Query heads, which are rotated. 0: no queries.
    uint64_t heads;
    // Elements of a key and of a query: a multiple of 8 up to 256.
    uint64_t head_dim;
    // Elements of a value: a multiple of 8 up to 256.
    uint64_t head_dim_v;
    // Keys that the cache has room for in each sequence, where it is not paged: (batch, cache_rows, kv_heads, head_dim).
    uint64_t cache_rows;
    // Keys of a page: the cache is (pages, page_size, kv_heads, head_dim), with page_table. 0: not paged.
    uint64_t page_size;
    // Pages that there are.
    uint64_t pages;
    // Entries of the page table for each sequence.
    uint64_t table_width;
    // Elements of a head that are rotated, its first ones: a multiple of 16. 0: none.
    uint64_t rotary_dim;
    // Positions that the tables of cosines and sines have.
    uint64_t positions;
    // Elements from one position's cosines to the next's, and sines likewise.
    int64_t sines_stride;
    // Strides of the new keys.
    struct attn_strides k;
    // Strides of the new values.
    struct attn_strides v;
    // Strides of the queries.
    struct attn_strides q;
    // Strides of the rotated queries.
    struct attn_strides q_out;
    // Strides of the cache of keys; the batch stride is the page's where there are pages.
    struct attn_strides k_cache;
    // Strides of the cache of values.
    struct attn_strides v_cache;
} attn_append;

// Where the tensors of a launch that appends lie in device memory; those that the plan does not need are 0.
typedef struct attn_append_tensors {
    // sizeof(attn_append_tensors).
    size_t struct_size;
    // New keys, read.
    uint64_t k;
    // New values, read.
    uint64_t v;
    // Cache of keys, written where new ones go.
    uint64_t k_cache;
    // Cache of values, likewise.
    uint64_t v_cache;
    // Queries.
    uint64_t q;
    // Rotated queries, written; 0: where the queries are.
    uint64_t q_out;
    // Cosines, (positions, rotary_dim / 2).
    uint64_t cos;
    // Sines, likewise.
    uint64_t sin;
    // int32[batch + 1], sums of the counts of new tokens before each sequence, from 0.
    uint64_t cu_seqlens_new;
    // int32[batch].
    uint64_t seqused_new;
    // int32[batch].
    uint64_t seqlens_before;
    // int32[batch][table_width].
    uint64_t page_table;
    // f32[kv_heads], or f32[batch][kv_heads].
    uint64_t k_descale;
    // f32[kv_heads], or f32[batch][kv_heads].
    uint64_t v_descale;
} attn_append_tensors;

// Where the tensors of a launch lie in device memory: CUdeviceptr, or pointers of the CUDA runtime as numbers.
typedef struct attn_tensors {
    // sizeof(attn_tensors).
    size_t struct_size;
    // Q, read; aligned to 16 bytes like K, V and O.
    uint64_t q;
    // K, read.
    uint64_t k;
    // V, read.
    uint64_t v;
    // O, written.
    uint64_t o;
    // LSE, f32, written; 0 where it is not wanted.
    uint64_t lse;
    // attn_plan_workspace_bytes bytes; may be 0 when none are needed.
    uint64_t workspace;
} attn_tensors;

// Where the arrays of a serving problem lie in device memory; each is there where the problem needs it and 0 where not.
typedef struct attn_serving_tensors {
    // sizeof(attn_serving_tensors).
    size_t struct_size;
    // int32[batch + 1], sums of the lengths before each sequence, from 0.
    uint64_t cu_seqlens_q;
    // int32[batch + 1].
    uint64_t cu_seqlens_k;
    // int32[batch].
    uint64_t seqused_q;
    // int32[batch].
    uint64_t seqused_k;
    // int32[batch][table_width]. A page that does not exist reads as zeros.
    uint64_t page_table;
    // f32[heads].
    uint64_t sinks;
    // f32[heads], or f32[batch][heads].
    uint64_t alibi_slopes;
    // f32[kv_heads], or f32[batch][kv_heads], where Q is of 8 bits.
    uint64_t q_descale;
    // f32[kv_heads], or f32[batch][kv_heads], where K is of 8 bits.
    uint64_t k_descale;
    // f32[kv_heads], or f32[batch][kv_heads], where V is of 8 bits.
    uint64_t v_descale;
} attn_serving_tensors;

// O = softmax(scale * Q K^T + mask) V, and its LSE. attn_problem_init fills all of it.
//
// Q is (batch, seqlen_q, heads, head_dim), K (batch, seqlen_k, kv_heads, head_dim), V (batch, seqlen_k, kv_heads,
// head_dim_v), O (batch, seqlen_q, heads, head_dim_v), LSE (batch, heads, seqlen_q).
typedef struct attn_problem {
    // sizeof(attn_problem).
    size_t struct_size;
    // ATTN_DTYPE_*.
    uint32_t dtype;
    // ATTN_MASK_*.
    uint32_t mask;
    // The factor on Q K^T: finite and above zero.
    float scale;
    // Zero; keeps what follows aligned.
    uint32_t reserved;
    // Independent sequences.
    uint64_t batch;
    // Queries of each.
    uint64_t seqlen_q;
    // Keys and values of each.
    uint64_t seqlen_k;
    // Query heads, a multiple of kv_heads.
    uint64_t heads;
    // Key/value heads; each serves heads / kv_heads neighbouring query heads.
    uint64_t kv_heads;
    // Elements of a query or key: a multiple of 8 up to 256.
    uint64_t head_dim;
    // Elements of a value or output row: a multiple of 8 up to 256.
    uint64_t head_dim_v;
    // Strides of Q; zero repeats the same data.
    struct attn_strides q;
    // Strides of K; zero repeats the same data.
    struct attn_strides k;
    // Strides of V; zero repeats the same data.
    struct attn_strides v;
    // Strides of O.
    struct attn_strides o;
    // f32 elements from one batch entry's LSE to the next.
    int64_t lse_batch_stride;
    // f32 elements from one head's LSE to the next. Queries are contiguous.
    int64_t lse_head_stride;
} attn_problem;

// Packed and paged sequences, windows, changed scores and splits: what a problem for the serving kernels has beside its attn_problem.
// attn_serving_init fills it with none of them.
typedef struct attn_serving {
    // sizeof(attn_serving).
    size_t struct_size;
    // Queries of all sequences, packed: Q is (total_q, heads, head_dim), O and LSE likewise, lengths come from cu_seqlens_q, and seqlen_q is the
    // longest. 0: not packed.
    uint64_t total_q;
    // Keys of all sequences, packed, with cu_seqlens_k. 0: not packed.
    uint64_t total_k;
    // Keys of a page, a power of two from 16: K is (pages, page_size, kv_heads, head_dim), V likewise, and page_table says which page has a
    // sequence's keys. The batch strides of K and V are then the pages'. 0: not paged.
    uint64_t page_size;
    // Pages that there are.
    uint64_t pages;
    // Entries of the page table for each sequence.
    uint64_t table_width;
    // Keys before a query's own position that it sees, with ATTN_MASK_WINDOW.
    uint64_t window_left;
    // Keys after it, with ATTN_MASK_WINDOW.
    uint64_t window_right;
    // Scores become softcap * tanh(score / softcap). 0: they do not.
    float softcap;
    // Parts that keys are split into, 1 to 128, or ATTN_SPLITS_AUTO.
    uint32_t splits;
    // ATTN_ALIBI_*.
    uint32_t alibi;
    // 1: a logit for each query head takes part in the softmax without a value.
    uint32_t sinks;
    // 1: seqused_q says how many queries of each sequence there are.
    uint32_t seqused_q;
    // 1: seqused_k says how many keys of each sequence there are.
    uint32_t seqused_k;
    // ATTN_FLOAT8_*. Strides of 8-bit tensors are multiples of 16 elements.
    uint32_t float8;
    // ATTN_DESCALES_*.
    uint32_t descales;
} attn_serving;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The ABI of the library that was loaded: ATTN_ABI_VERSION of the header that it was built with.
uint32_t attn_abi_version(void);

// The library's release, "0.1.0" say. Never null, never freed.
const char *attn_version(void);

// Fills an attn_append: no queries, no rotation, an empty cache whose cache_rows or pages are still to be set, and no strides.
//
// # Safety
// `append` is null or a place for an `attn_append`.
attn_status attn_append_init(struct attn_append *append,
                             uint32_t dtype,
                             uint64_t batch,
                             uint64_t new_tokens,
                             uint64_t kv_heads,
                             uint64_t head_dim,
                             uint64_t head_dim_v);

// Sets all strides to those of contiguous tensors of the sizes that have been filled in.
//
// # Safety
// `append` is null or an `attn_append`.
attn_status attn_append_contiguous(struct attn_append *append);

// Makes a plan to append in the CUDA context that is current on this thread. On failure *plan is null.
//
// # Safety
// `append` is null or an `attn_append`; `plan` is null or a place for a pointer.
attn_status attn_append_plan_create(const struct attn_append *append, struct attn_append_plan **plan);

// Destroys a plan to append; null is allowed. Launches of it that are still queued go on.
//
// # Safety
// `plan` is null or a plan that has not been destroyed and that no thread uses.
void attn_append_plan_destroy(struct attn_append_plan *plan);

// Queues the kernel that appends on a CUstream (null: the legacy default stream) and returns: no allocation, no wait, no lock. May be captured
// into a graph, which then holds these addresses.
//
// # Safety
// `plan` is null or a plan to append; `tensors` is null or an `attn_append_tensors`. Each address is memory of the plan's device for as many
// elements as sizes and strides reach; until the stream has passed the kernel, nothing writes what it reads, nothing else touches what it
// writes, and none is freed. The caches and q_out overlap none of the others, but q_out may be q. No page belongs to two sequences that
// append to it; sums of counts begin with 0, never fall and end with no more than all new tokens. The stream belongs to the plan's context,
// which has not been destroyed.
attn_status attn_append_plan_launch(const struct attn_append_plan *plan,
                                    const struct attn_append_tensors *tensors,
                                    void *stream);

// Queues the kernel on a CUstream (null: the legacy default stream) and returns: no allocation, no wait, no lock. May be
// captured into a graph, which then holds these addresses.
//
// # Safety
// `plan` is null or a plan; `tensors` is null or an `attn_tensors`. Each address is memory of the plan's device for as many
// elements as shape and strides reach; until the stream has passed the kernel, nothing writes Q, K and V, nothing else touches
// O and LSE, which overlap none of the others, and none is freed. The stream belongs to the plan's context, which has not been
// destroyed.
attn_status attn_plan_launch(const struct attn_plan *plan,
                             const struct attn_tensors *tensors,
                             void *stream);

// Queues the kernels of a plan of attn_plan_create_serving, as attn_plan_launch does.
//
// # Safety
// As for `attn_plan_launch`; `serving` is null or an `attn_serving_tensors`. Sums of lengths begin with 0, never fall and end with no more
// than all queries or keys; no more are in use than a sequence has room for.
attn_status attn_plan_launch_serving(const struct attn_plan *plan,
                                     const struct attn_tensors *tensors,
                                     const struct attn_serving_tensors *serving,
                                     void *stream);

// Makes a plan in the CUDA context that is current on this thread, with the kernel that should be fastest.
//
// The first plan of a kernel in a context loads its code, which takes milliseconds and stays until the context goes;
// later ones take microseconds. On failure *plan is null.
//
// # Safety
// `problem` is null or an `attn_problem`; `plan` is null or a place for a pointer.
attn_status attn_plan_create(const struct attn_problem *problem, struct attn_plan **plan);

// Like attn_plan_create, with the kernel of this name ("fwd_sm90_bf16_d128") where it can compute the problem.
//
// # Safety
// As for `attn_plan_create`; `kernel` is null or a terminated text.
attn_status attn_plan_create_with_kernel(const struct attn_problem *problem,
                                         const char *kernel,
                                         struct attn_plan **plan);

// Makes a plan for the serving kernels: attn_plan_create with packed or paged sequences, windows, changed scores or splits.
//
// `kernel` is the name of a kernel, or null for the one that should be fastest. A plan is launched by attn_plan_launch_serving.
//
// # Safety
// `problem`, `serving` and `kernel` are null or what they are called; `plan` is null or a place for a pointer.
attn_status attn_plan_create_serving(const struct attn_problem *problem,
                                     const struct attn_serving *serving,
                                     const char *kernel,
                                     struct attn_plan **plan);

// Whether a plan for the problem can be made on the device of the current context: ATTN_STATUS_OK, or why not. Nothing is loaded.
//
// # Safety
// `problem` and `serving` are null or what they are called. Without `serving` the problem is a dense one.
attn_status attn_supports(const struct attn_problem *problem,
                          const struct attn_serving *serving);

// Destroys a plan; null is allowed. Launches of it that are still queued go on.
//
// # Safety
// `plan` is null or a plan that has not been destroyed and that no thread uses.
void attn_plan_destroy(struct attn_plan *plan);

// Bytes of device memory that a launch needs beside its tensors, aligned to 256 bytes. Zero: no workspace.
// Launches that may run at the same time, on two streams or in two branches of a graph, need one each.
//
// # Safety
// `plan` is null or a plan; `bytes` is null or a place for a number.
attn_status attn_plan_workspace_bytes(const struct attn_plan *plan, uint64_t *bytes);

// The name of the plan's kernel; null for a null plan. Valid as long as the plan.
//
// # Safety
// `plan` is null or a plan.
const char *attn_plan_kernel(const struct attn_plan *plan);

// The plan in words: kernel, problem, tiles, grid and memory; null for a null plan. Valid as long as the plan.
//
// # Safety
// `plan` is null or a plan.
const char *attn_plan_description(const struct attn_plan *plan);

// Fills a problem: contiguous tensors, no mask, scale 1 / sqrt(head_dim). Nothing is checked before a plan is made.
//
// # Safety
// `problem` is null or a place for an `attn_problem`.
attn_status attn_problem_init(struct attn_problem *problem,
                              uint32_t dtype,
                              uint64_t batch,
                              uint64_t seqlen_q,
                              uint64_t seqlen_k,
                              uint64_t heads,
                              uint64_t kv_heads,
                              uint64_t head_dim,
                              uint64_t head_dim_v);

// Fills an attn_serving with nothing: no packed or paged sequences, window, softcap, sinks or slopes, and splits by themselves.
//
// # Safety
// `serving` is null or a place for an `attn_serving`.
attn_status attn_serving_init(struct attn_serving *serving);

// Sets a problem's strides to those of contiguous tensors that are packed and paged as `serving` says; attn_problem_init sets those of dense
// ones.
//
// # Safety
// `serving` is null or an `attn_serving`, `problem` null or an `attn_problem`.
attn_status attn_serving_contiguous(const struct attn_serving *serving,
                                    struct attn_problem *problem);

// What the last failure on this thread was about, null before the first and while the thread ends. Valid until the next failure on this
// thread.
const char *attn_last_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ATTN_H */
