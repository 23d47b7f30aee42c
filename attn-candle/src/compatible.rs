//! The functions of `candle-flash-attn`.

use candle_core::{Result, Tensor, bail};

use crate::{Attention, Lengths};

fn right(causal: bool) -> Option<usize> {
    causal.then_some(0)
}

/// Attention of dense tensors: `q` is `(batch, queries, heads, head_dim)`, `k` and `v` are `(batch, keys, kv_heads, head_dim)`.
///
/// # Errors
/// Those of [`Attention::forward`].
pub fn flash_attn(q: &Tensor, k: &Tensor, v: &Tensor, softmax_scale: f32, causal: bool) -> Result<Tensor> {
    flash_attn_windowed(q, k, v, softmax_scale, None, right(causal))
}

/// The same with a window: so many keys before a query's position and after it, `None` for all.
///
/// # Errors
/// Those of [`Attention::forward`].
pub fn flash_attn_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    Attention::new().scale(softmax_scale).window(window_size_left, window_size_right).forward(q, k, v)
}

/// The same with ALiBi: `alibi_slopes` is f32 `(heads)`.
///
/// # Errors
/// Those of [`Attention::forward`].
pub fn flash_attn_alibi(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    softmax_scale: f32,
    causal: bool,
) -> Result<Tensor> {
    flash_attn_alibi_windowed(q, k, v, alibi_slopes, softmax_scale, None, right(causal))
}

/// The same with ALiBi and a window.
///
/// # Errors
/// Those of [`Attention::forward`].
pub fn flash_attn_alibi_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    let attention = Attention::new().scale(softmax_scale).window(window_size_left, window_size_right);
    attention.alibi(alibi_slopes).forward(q, k, v)
}

/// The same with a softcap, and ALiBi where there are slopes.
///
/// # Errors
/// Those of [`Attention::forward`].
#[expect(clippy::too_many_arguments, reason = "candle-flash-attn's signature")]
pub fn flash_attn_alibi_windowed_softcap(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: Option<&Tensor>,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    softcap: f32,
) -> Result<Tensor> {
    let attention = Attention::new().scale(softmax_scale).window(window_size_left, window_size_right);
    sloped(attention, alibi_slopes).softcap(softcap).forward(q, k, v)
}

/// Attention of packed sequences: `q` is `(total_q, heads, head_dim)`, `k` and `v` are `(total_k, kv_heads, head_dim)`, `seqlens_q` and
/// `seqlens_k` hold the prefix sums of the lengths, u32 or i32 from 0.
///
/// The sums are copied to the host and checked, which waits for the device; [`Lengths`] with [`Attention::packed`] does it once for many
/// calls.
///
/// # Errors
/// Those of [`Lengths::from_cumulative`] and [`Attention::forward`].
#[expect(clippy::too_many_arguments, reason = "candle-flash-attn's signature")]
pub fn flash_attn_varlen(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    causal: bool,
) -> Result<Tensor> {
    let attention = packed(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k)?;
    attention.scale(softmax_scale).window(None, right(causal)).forward(q, k, v)
}

/// The same with a window.
///
/// # Errors
/// As [`flash_attn_varlen`].
#[expect(clippy::too_many_arguments, reason = "candle-flash-attn's signature")]
pub fn flash_attn_varlen_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    let attention = packed(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k)?;
    attention.scale(softmax_scale).window(window_size_left, window_size_right).forward(q, k, v)
}

/// The same with ALiBi: `alibi_slopes` is f32 `(heads)`.
///
/// # Errors
/// As [`flash_attn_varlen`].
#[expect(clippy::too_many_arguments, reason = "candle-flash-attn's signature")]
pub fn flash_attn_varlen_alibi(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    causal: bool,
) -> Result<Tensor> {
    let attention = packed(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k)?.scale(softmax_scale);
    attention.window(None, right(causal)).alibi(alibi_slopes).forward(q, k, v)
}

/// The same with ALiBi and a window.
///
/// # Errors
/// As [`flash_attn_varlen`].
#[expect(clippy::too_many_arguments, reason = "candle-flash-attn's signature")]
pub fn flash_attn_varlen_alibi_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
) -> Result<Tensor> {
    let attention = packed(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k)?.scale(softmax_scale);
    attention.window(window_size_left, window_size_right).alibi(alibi_slopes).forward(q, k, v)
}

/// The same with a softcap, and ALiBi where there are slopes.
///
/// # Errors
/// As [`flash_attn_varlen`].
#[expect(clippy::too_many_arguments, reason = "candle-flash-attn's signature")]
pub fn flash_attn_varlen_alibi_windowed_softcap(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    alibi_slopes: Option<&Tensor>,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    softcap: f32,
) -> Result<Tensor> {
    let attention = packed(seqlens_q, seqlens_k, max_seqlen_q, max_seqlen_k)?.scale(softmax_scale);
    let attention = attention.window(window_size_left, window_size_right).softcap(softcap);
    sloped(attention, alibi_slopes).forward(q, k, v)
}

/// Attention of packed queries with K and V in pages, `(pages, page_block_size, kv_heads, head_dim)`, that `block_table` deals out, u32 or i32
/// `(batch, width)`.
///
/// [`Attention::paged`] with [`Attention::seqused_k`] takes the lengths of keys as they are, without waiting for the device.
///
/// # Errors
/// As [`flash_attn_varlen`]. `mm_prefix_ranges` are not computed.
#[expect(clippy::too_many_arguments, reason = "candle-flash-attn's signature")]
pub fn flash_attn_varlen_paged_windowed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seqlens_q: &Tensor,
    seqlens_k: &Tensor,
    block_table: &Tensor,
    mm_prefix_ranges: Option<&Tensor>,
    max_seqlen_q: usize,
    max_seqlen_k: usize,
    softmax_scale: f32,
    window_size_left: Option<usize>,
    window_size_right: Option<usize>,
    page_block_size: usize,
    softcap: Option<f32>,
) -> Result<Tensor> {
    if mm_prefix_ranges.is_some() {
        bail!("mm_prefix_ranges is given; allowed: None, attn has no such mask");
    }
    if k.dims().get(1) != Some(&page_block_size) {
        bail!(
            "page_block_size is {page_block_size}; allowed: the second dimension of k, whose shape is {:?}",
            k.dims()
        );
    }
    let (queries, keys) = (Lengths::from_cumulative(seqlens_q)?, Lengths::from_cumulative(seqlens_k)?);
    let used: Vec<u32> = keys.each().map(|length| length as u32).collect();
    let used = Tensor::from_vec(used, keys.count(), q.device())?;
    let attention = Attention::new().packed_q(&queries).paged(block_table).seqused_k(&used);
    let attention = attention.longest(max_seqlen_q, max_seqlen_k).scale(softmax_scale);
    let attention = attention.window(window_size_left, window_size_right);
    softcap.map_or(attention.clone(), |softcap| attention.softcap(softcap)).forward(q, k, v)
}

fn packed(seqlens_q: &Tensor, seqlens_k: &Tensor, max_seqlen_q: usize, max_seqlen_k: usize) -> Result<Attention> {
    let (q, k) = (Lengths::from_cumulative(seqlens_q)?, Lengths::from_cumulative(seqlens_k)?);
    Ok(Attention::new().packed(&q, &k).longest(max_seqlen_q, max_seqlen_k))
}

fn sloped(attention: Attention, slopes: Option<&Tensor>) -> Attention {
    match slopes {
        Some(slopes) => attention.alibi(slopes),
        None => attention,
    }
}
