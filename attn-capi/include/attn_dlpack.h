// Tensors in DLPack's form for attn.h: those of other libraries as arguments of a launch, results for other libraries.
//
// Made by cbindgen from attn-capi/src; a test compares the two. dlpack/dlpack.h is the standard's own, 1.0 or later.
//
// attn_dlpack_problem turns tensors into a problem, attn_plan_create makes the plan, attn_dlpack_output the tensor for its result,
// attn_dlpack_launch queues the kernels; attn_dlpack_append and attn_dlpack_append_launch do the same for what is appended to a cache. Tensors
// that are passed are looked at and never kept.

#ifndef ATTN_DLPACK_H
#define ATTN_DLPACK_H

#include "attn.h"
#include "dlpack/dlpack.h"

// The plan's O.
#define ATTN_OUTPUT_O 0

// The plan's LSE.
#define ATTN_OUTPUT_LSE 1

// Room for a launch of the plan: uint8 (attn_plan_workspace_bytes).
#define ATTN_OUTPUT_WORKSPACE 2

// The tensors of a problem or a launch; null where there is none. They stay the caller's and are read before the call returns.
//
// Every one is CUDA memory (kDLCUDA) of the current context's device, with one lane. Strides may be null for compact tensors, and the stride
// of a dimension of size 1 may be anything. Whether a tensor that is written may be written, flags say that are not part of it: that is
// the caller's to look at (DLPACK_FLAG_BITMASK_READ_ONLY).
typedef struct attn_dlpack_tensors {
    // sizeof(attn_dlpack_tensors).
    size_t struct_size;
    // Q: bfloat16, float16 or float8_e4m3fn, (batch, seqlen_q, heads, head_dim); (total_q, heads, head_dim) with cu_seqlens_q.
    const DLTensor *q;
    // K: as Q or float8_e4m3fn, (batch, seqlen_k, kv_heads, head_dim); (total_k, kv_heads, head_dim) with cu_seqlens_k, and
    // (pages, page_size, kv_heads, head_dim) with page_table.
    const DLTensor *k;
    // V: as K, with head_dim_v.
    const DLTensor *v;
    // O, written: as Q with head_dim_v, of 16 bits.
    const DLTensor *o;
    // LSE, written: float32 (batch, heads, seqlen_q), or (heads, total_q).
    const DLTensor *lse;
    // uint8 (n), of attn_plan_workspace_bytes bytes or more. Not looked at without a plan.
    const DLTensor *workspace;
    // int32 (batch + 1), compact like all that follow.
    const DLTensor *cu_seqlens_q;
    // int32 (batch + 1).
    const DLTensor *cu_seqlens_k;
    // int32 (batch).
    const DLTensor *seqused_q;
    // int32 (batch).
    const DLTensor *seqused_k;
    // int32 (batch, table_width).
    const DLTensor *page_table;
    // float32 (heads).
    const DLTensor *sinks;
    // float32 (heads) or (batch, heads).
    const DLTensor *alibi_slopes;
    // float32 (kv_heads) or (batch, kv_heads).
    const DLTensor *q_descale;
    // float32 (kv_heads) or (batch, kv_heads).
    const DLTensor *k_descale;
    // float32 (kv_heads) or (batch, kv_heads).
    const DLTensor *v_descale;
} attn_dlpack_tensors;

// The tensors of what is appended; null where there is none. As attn_dlpack_tensors otherwise.
typedef struct attn_dlpack_append_tensors {
    // sizeof(attn_dlpack_append_tensors).
    size_t struct_size;
    // New keys: bfloat16 or float16, (batch, new_tokens, kv_heads, head_dim); (total, kv_heads, head_dim) with cu_seqlens_new.
    const DLTensor *k;
    // New values: as k, with head_dim_v.
    const DLTensor *v;
    // Cache of keys, written: as k or float8_e4m3fn, (batch, cache_rows, kv_heads, head_dim); (pages, page_size, kv_heads, head_dim) with
    // page_table.
    const DLTensor *k_cache;
    // Cache of values, written: as k_cache, with head_dim_v.
    const DLTensor *v_cache;
    // Queries: as k, with their own heads. Written where there is no q_out.
    const DLTensor *q;
    // Rotated queries, written: as q.
    const DLTensor *q_out;
    // Cosines: float32 or as k, (positions, rotary_dim / 2).
    const DLTensor *cos;
    // Sines: as cos, with its strides.
    const DLTensor *sin;
    // int32 (batch + 1), compact like all that follow.
    const DLTensor *cu_seqlens_new;
    // int32 (batch).
    const DLTensor *seqused_new;
    // int32 (batch).
    const DLTensor *seqlens_before;
    // int32 (batch, table_width).
    const DLTensor *page_table;
    // float32 (kv_heads) or (batch, kv_heads).
    const DLTensor *k_descale;
    // float32 (kv_heads) or (batch, kv_heads).
    const DLTensor *v_descale;
} attn_dlpack_append_tensors;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Fills a problem, and an attn_serving where the tensors need one, with what the tensors say: sizes, element types, strides, and which arrays
// there are. q, k and v are needed; without o or lse, theirs are contiguous.
//
// The mask is none and the scale 1 / sqrt(head_dim) until the caller changes them; window, softcap and splits likewise. What tensors do not
// say is as large as it may be: seqlen_q of packed queries and seqlen_k of packed keys are their totals, seqlen_k of pages what a row of the
// page table has room for. A caller who knows the longest sequence sets it, which makes better plans.
//
// `serving` may be null where the tensors are a dense problem (none behind workspace, no float8_e4m3fn).
//
// # Safety
// `tensors` is null or an `attn_dlpack_tensors` of tensors that are what dlpack.h says; `problem` and `serving` are null or places for what
// they are called.
attn_status attn_dlpack_problem(const struct attn_dlpack_tensors *tensors,
                                attn_problem *problem,
                                attn_serving *serving);

// attn_plan_launch on tensors, or attn_plan_launch_serving, after a look at each whether it is what the plan was made for.
//
// # Safety
// As for these two; the tensors are what dlpack.h says, their memory is there, and o, lse and workspace may be written.
attn_status attn_dlpack_launch(const attn_plan *plan,
                               const struct attn_dlpack_tensors *tensors,
                               void *stream);

// Allocates a tensor for launches of a plan (ATTN_OUTPUT_*), with the strides that the problem says, in the plan's context, which must be
// current. *tensor is null on failure, and where a plan needs no workspace.
//
// The tensor is the caller's to delete, or a consumer's that it is handed to: by its deleter, once, on any thread. What it holds is
// whatever the memory held. Deleting frees the memory in its own context (cuMemFree, which waits for what the device does with it) unless
// others share it, and frees nothing but the structure when that context has been destroyed. libattn.so stays loaded for it when it is closed.
//
// # Safety
// `plan` is null or a plan, `tensor` null or a place for a pointer.
attn_status attn_dlpack_output(const attn_plan *plan,
                               uint32_t output,
                               DLManagedTensorVersioned **tensor);

// Makes another tensor of the same memory, for another consumer. The memory is freed when the last one is deleted.
//
// # Safety
// `tensor` is null or a `DLManagedTensorVersioned` that has not been deleted; `shared` is null or a place for a pointer.
attn_status attn_dlpack_share(const DLManagedTensorVersioned *tensor,
                              DLManagedTensorVersioned **shared);

// The same for a consumer that knows DLPack before 1.0 only (a capsule named "dltensor").
//
// # Safety
// As for `attn_dlpack_share`.
attn_status attn_dlpack_share_unversioned(const DLManagedTensorVersioned *tensor, DLManagedTensor **shared);

// Prepares attn_dlpack_capsule_destroy, which needs CPython's PyCapsule_IsValid and PyCapsule_GetPointer: the library links no Python. Called
// again it changes nothing.
//
// # Safety
// The functions are those, or null.
attn_status attn_dlpack_capsule_init(int (*is_valid)(void *capsule, const char *name),
                                     void *(*get_pointer)(void *capsule, const char *name));

// A PyCapsule_Destructor for capsules named "dltensor_versioned" and "dltensor": deletes the tensor unless a consumer has taken it, which
// renames the capsule. For wrappers that have no code of their own beside Python's: a capsule may go while an exception is on its way, when
// no Python function can be called.
//
// # Safety
// `capsule` is a capsule that is being destroyed.
void attn_dlpack_capsule_destroy(void *capsule);

// Fills an attn_append with what the tensors say. k, v and the caches are needed.
//
// Pairs are halves until the caller changes them. new_tokens of packed tokens is their total; a caller who knows the most that one sequence
// has sets it.
//
// # Safety
// `tensors` is null or an `attn_dlpack_append_tensors` of tensors that are what dlpack.h says; `append` is null or a place for an
// `attn_append`.
attn_status attn_dlpack_append(const struct attn_dlpack_append_tensors *tensors,
                               attn_append *append);

// attn_append_plan_launch on tensors, after a look at each whether it is what the plan was made for.
//
// # Safety
// As for that function; the tensors are what dlpack.h says, their memory is there, and what is written may be.
attn_status attn_dlpack_append_launch(const attn_append_plan *plan,
                                      const struct attn_dlpack_append_tensors *tensors,
                                      void *stream);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ATTN_DLPACK_H */
