//! The small arrays that only some problems have: lengths, pages, slopes, sinks and factors.

use crate::check::{check_cu_seqlens, check_page_table, check_seqused};
use crate::error::Error;
use crate::problem::{Alibi, Descales, Float8, Problem};
use crate::tensors::Need;

/// Arrays that there may be.
pub(crate) const COUNT: usize = 10;

/// What only some problems have beside Q, K and V, as host memory: `Arrays { seqused_k: Some(lengths), ..Arrays::default() }`.
///
/// `I` holds an array of `i32`, `F` one of `f32`; [`map`](Self::map) and [`try_each`](Self::try_each) make them something else, device
/// memory for instance, which [`Tensors::with_arrays`](crate::Tensors::with_arrays) takes. Shapes are those of the fields of [`Tensors`](crate::Tensors).
///
/// ```
/// use attn_host::{Arrays, DType, Error, Problem, Shape};
///
/// let shape = Shape { batch: 2, seqlen_q: 5, seqlen_k: 5, heads: 4, kv_heads: 4, head_dim: 64, head_dim_v: 64 };
/// let problem = Problem::new(DType::Bf16, shape).packed_q(8).packed_k(8);
/// let sums = Some(vec![0, 3, 9]);
/// let arrays = Arrays { cu_seqlens_q: sums.clone(), cu_seqlens_k: sums, ..Arrays::default() };
/// let wrong = arrays.check(&problem).expect_err("there are 8 rows, not 9");
/// assert_eq!(wrong.to_string(), "cu_seqlens_q[2] is 9; allowed: 3 to 8");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrays<I = Vec<i32>, F = Vec<f32>> {
    /// Prefix sums of the lengths of packed queries.
    pub cu_seqlens_q: Option<I>,
    /// Prefix sums of the lengths of packed keys.
    pub cu_seqlens_k: Option<I>,
    /// Queries in use of each sequence.
    pub seqused_q: Option<I>,
    /// Keys in use of each sequence.
    pub seqused_k: Option<I>,
    /// Pages of each sequence, row after row.
    pub page_table: Option<I>,
    /// Sink of each query head.
    pub sinks: Option<F>,
    /// Slopes of ALiBi.
    pub alibi_slopes: Option<F>,
    /// Factors of 8-bit Q.
    pub q_descale: Option<F>,
    /// Factors of 8-bit K.
    pub k_descale: Option<F>,
    /// Factors of 8-bit V.
    pub v_descale: Option<F>,
}

impl<I, F> Default for Arrays<I, F> {
    fn default() -> Self {
        Arrays {
            cu_seqlens_q: None,
            cu_seqlens_k: None,
            seqused_q: None,
            seqused_k: None,
            page_table: None,
            sinks: None,
            alibi_slopes: None,
            q_descale: None,
            k_descale: None,
            v_descale: None,
        }
    }
}

impl<I, F> Arrays<I, F> {
    /// The same with references.
    pub fn as_ref(&self) -> Arrays<&I, &F> {
        Arrays {
            cu_seqlens_q: self.cu_seqlens_q.as_ref(),
            cu_seqlens_k: self.cu_seqlens_k.as_ref(),
            seqused_q: self.seqused_q.as_ref(),
            seqused_k: self.seqused_k.as_ref(),
            page_table: self.page_table.as_ref(),
            sinks: self.sinks.as_ref(),
            alibi_slopes: self.alibi_slopes.as_ref(),
            q_descale: self.q_descale.as_ref(),
            k_descale: self.k_descale.as_ref(),
            v_descale: self.v_descale.as_ref(),
        }
    }

    /// The same arrays as something else.
    pub fn map<J, G>(self, mut integers: impl FnMut(I) -> J, mut floats: impl FnMut(F) -> G) -> Arrays<J, G> {
        Arrays {
            cu_seqlens_q: self.cu_seqlens_q.map(&mut integers),
            cu_seqlens_k: self.cu_seqlens_k.map(&mut integers),
            seqused_q: self.seqused_q.map(&mut integers),
            seqused_k: self.seqused_k.map(&mut integers),
            page_table: self.page_table.map(&mut integers),
            sinks: self.sinks.map(&mut floats),
            alibi_slopes: self.alibi_slopes.map(&mut floats),
            q_descale: self.q_descale.map(&mut floats),
            k_descale: self.k_descale.map(&mut floats),
            v_descale: self.v_descale.map(&mut floats),
        }
    }
}

impl<T> Arrays<T, T> {
    /// Does the same with each that is there, in the order of the fields, an upload for instance; stops at the first error.
    ///
    /// # Errors
    /// That of `each`.
    pub fn try_each<U, E>(self, mut each: impl FnMut(T) -> Result<U, E>) -> Result<Arrays<U, U>, E> {
        let mut each = |array: Option<T>| array.map(&mut each).transpose();
        Ok(Arrays {
            cu_seqlens_q: each(self.cu_seqlens_q)?,
            cu_seqlens_k: each(self.cu_seqlens_k)?,
            seqused_q: each(self.seqused_q)?,
            seqused_k: each(self.seqused_k)?,
            page_table: each(self.page_table)?,
            sinks: each(self.sinks)?,
            alibi_slopes: each(self.alibi_slopes)?,
            q_descale: each(self.q_descale)?,
            k_descale: each(self.k_descale)?,
            v_descale: each(self.v_descale)?,
        })
    }

    /// All of them, in the order of the fields.
    pub(crate) fn each(self) -> [Option<T>; COUNT] {
        [
            self.cu_seqlens_q,
            self.cu_seqlens_k,
            self.seqused_q,
            self.seqused_k,
            self.page_table,
            self.sinks,
            self.alibi_slopes,
            self.q_descale,
            self.k_descale,
            self.v_descale,
        ]
    }
}

/// What a problem asks of each, in the order of the fields.
pub(crate) fn needs(problem: &Problem) -> [Need; COUNT] {
    let (serving, shape) = (&problem.serving, &problem.shape);
    let (batch, packed_q, packed_k) = (shape.batch, serving.packed_q.is_some(), serving.packed_k.is_some());
    let sums = batch.saturating_add(1);
    let table = serving.paged.map_or(0, |paged| paged.table_width.saturating_mul(batch));
    let slopes =
        if serving.alibi == Some(Alibi::PerSequenceAndHead) { shape.heads.saturating_mul(batch) } else { shape.heads };
    let factors = match serving.descales {
        Some(Descales::PerSequenceAndHead) => shape.kv_heads.saturating_mul(batch),
        _ => shape.kv_heads,
    };
    let (scaled, all) = (serving.descales.is_some(), serving.float8 == Float8::All);
    [
        Need::integers("cu_seqlens_q", "packed queries", packed_q, sums),
        Need::integers("cu_seqlens_k", "packed keys", packed_k, sums),
        Need::integers("seqused_q", "queries in use (seqused_q)", serving.seqused_q, batch),
        Need::integers("seqused_k", "keys in use (seqused_k)", serving.seqused_k, batch),
        Need::integers("page_table", "paged K and V", serving.paged.is_some(), table),
        Need::floats("sinks", "sinks", serving.sinks, shape.heads),
        Need::floats("alibi_slopes", "ALiBi", serving.alibi.is_some(), slopes),
        Need::floats("q_descale", "factors (descales) of Q of 8 bits", scaled && all, factors),
        Need::floats("k_descale", "factors (descales)", scaled, factors),
        Need::floats("v_descale", "factors (descales)", scaled, factors),
    ]
}

impl Arrays {
    /// Checks all that a launch trusts its caller with: that the arrays are those that the problem asks for, each as long as it must be, and
    /// that lengths and pages are there.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::NotPlanned`]; [`Error::Entries`] for an array of another length; [`Error::Entry`] for what
    /// [`check_cu_seqlens`], [`check_seqused`] and [`check_page_table`] refuse, and for a packed sequence that uses more rows than it has.
    pub fn check(&self, problem: &Problem) -> Result<(), Error> {
        let lengths = self.as_ref().map(Vec::len, Vec::len).each();
        for (need, entries) in needs(problem).iter().zip(lengths) {
            need.check_presence(entries.is_some())?;
            let wanted = need.bytes / 4;
            if let Some(entries) = entries.filter(|&entries| entries as u64 != wanted) {
                return Err(Error::Entries { argument: need.argument, entries, allowed: wanted.to_string() });
            }
        }
        let (shape, serving) = (&problem.shape, &problem.serving);
        if let (Some(sums), Some(total)) = (&self.cu_seqlens_q, serving.packed_q) {
            check_cu_seqlens("cu_seqlens_q", sums, shape.batch, total, shape.seqlen_q)?;
        }
        if let (Some(sums), Some(total)) = (&self.cu_seqlens_k, serving.packed_k) {
            check_cu_seqlens("cu_seqlens_k", sums, shape.batch, total, shape.seqlen_k)?;
        }
        check_used("seqused_q", &self.seqused_q, &self.cu_seqlens_q, shape.batch, shape.seqlen_q)?;
        check_used("seqused_k", &self.seqused_k, &self.cu_seqlens_k, shape.batch, shape.seqlen_k)?;
        self.check_pages(problem)
    }

    fn check_pages(&self, problem: &Problem) -> Result<(), Error> {
        let (Some(table), Some(paged)) = (&self.page_table, problem.serving.paged) else { return Ok(()) };
        // No rows would say nothing about how many sequences there are.
        if table.is_empty() {
            return Ok(());
        }
        let shape = &problem.shape;
        // Without lengths in use every sequence is as long as it may be.
        let all;
        let used = match &self.seqused_k {
            Some(used) => used,
            None => {
                all = vec![i32::try_from(shape.seqlen_k).unwrap_or(i32::MAX); shape.batch as usize];
                &all
            }
        };
        check_page_table(table, paged.table_width, used, paged.page_size, paged.pages)
    }
}

/// Refuses lengths in use that are more than `longest`, or than a packed sequence has rows.
fn check_used(
    argument: &'static str,
    used: &Option<Vec<i32>>,
    sums: &Option<Vec<i32>>,
    batch: u64,
    longest: u64,
) -> Result<(), Error> {
    let Some(used) = used else { return Ok(()) };
    check_seqused(argument, used, batch, longest)?;
    let rooms = sums.iter().flat_map(|sums| sums.windows(2)).map(|pair| pair[1] - pair[0]);
    match used.iter().zip(rooms).enumerate().find(|(_, (used, room))| *used > room) {
        Some((index, (&value, room))) => {
            let allowed = format!("0 to {room}, the sequence's room");
            Err(Error::Entry { argument, index, value: i64::from(value), allowed })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DType, PagedKv, Shape};

    const SHAPE: Shape =
        Shape { batch: 3, seqlen_q: 4, seqlen_k: 40, heads: 4, kv_heads: 2, head_dim: 64, head_dim_v: 64 };

    fn problem() -> Problem {
        Problem::new(DType::Bf16, SHAPE)
    }

    fn refused(arrays: &Arrays, problem: Problem) -> String {
        arrays.check(&problem).expect_err("must be refused").to_string()
    }

    /// A way to take an array away, and one to make it longer, by name.
    macro_rules! changes {
        ($($field:ident)*) => {
            [$((
                stringify!($field),
                (|arrays| arrays.$field = None) as fn(&mut Arrays),
                (|arrays| arrays.$field.as_mut().expect("there").push(Default::default())) as fn(&mut Arrays),
            )),*]
        };
    }

    #[test]
    fn each_array_goes_with_its_problem_and_has_its_length() {
        let factors = |count| Some(vec![1.0; count]);
        let all = Arrays {
            cu_seqlens_q: Some(vec![0, 1, 1, 5]),
            seqused_q: Some(vec![0, 0, 4]),
            seqused_k: Some(vec![40, 0, 17]),
            page_table: Some(vec![1, 0, 1, -1, -1, -1, 0, 1, -1]),
            sinks: factors(4),
            alibi_slopes: factors(12),
            q_descale: factors(2),
            k_descale: factors(2),
            v_descale: factors(2),
            ..Arrays::default()
        };
        let pages = PagedKv { page_size: 16, pages: 2, table_width: 3 };
        let whole = problem().packed_q(5).seqused_q().seqused_k().paged(pages).sinks().alibi(Alibi::PerSequenceAndHead);
        let whole = whole.float8(Float8::All).descales(Descales::PerHead);
        assert_eq!(all.check(&whole), Ok(()));
        assert_eq!(Arrays::default().check(&problem()), Ok(()));
        let names =
            changes!(cu_seqlens_q seqused_q seqused_k page_table sinks alibi_slopes q_descale k_descale v_descale);
        for (name, remove, grow) in names {
            let changed = |change: fn(&mut Arrays)| {
                let mut arrays = all.clone();
                change(&mut arrays);
                refused(&arrays, whole)
            };
            assert!(changed(remove).starts_with(&format!("{name} is absent")), "{}", changed(remove));
            assert!(changed(grow).starts_with(&format!("{name} has ")), "{}", changed(grow));
        }
        assert!(refused(&all, problem()).starts_with("cu_seqlens_q is given"), "a dense problem has none of them");
    }

    #[test]
    fn no_packed_sequence_uses_more_than_its_room() {
        let arrays =
            Arrays { cu_seqlens_k: Some(vec![0, 30, 70, 71]), seqused_k: Some(vec![9, 40, 2]), ..Arrays::default() };
        let problem = problem().packed_k(71).seqused_k();
        assert_eq!(refused(&arrays, problem), "seqused_k[2] is 2; allowed: 0 to 1, the sequence's room");
        let mut arrays = arrays;
        arrays.seqused_k = Some(vec![9, 40, 1]);
        assert_eq!(arrays.check(&problem), Ok(()));
    }

    #[test]
    fn pages_are_there_for_whole_sequences_where_no_lengths_are_given() {
        let problem = problem().paged(PagedKv { page_size: 16, pages: 2, table_width: 3 });
        let with = |table: Vec<i32>| Arrays { page_table: Some(table), ..Arrays::default() };
        assert_eq!(with(vec![0, 1, 0, 1, 1, 1, 0, 0, 0]).check(&problem), Ok(()));
        let found = refused(&with(vec![0, 1, 0, 1, 1, 1, 0, 0, 2]), problem);
        assert_eq!(found, "page_table[8] is 2; allowed: 0 to 1");
    }

    #[test]
    fn sizes_that_no_problem_may_have_are_no_reason_to_panic() {
        let huge = Problem::new(DType::Bf16, Shape { batch: u64::MAX, heads: u64::MAX, ..SHAPE });
        let none = PagedKv { page_size: 16, pages: 2, table_width: 0 };
        let arrays = Arrays { page_table: Some(Vec::new()), ..Arrays::default() };
        assert_eq!(arrays.check(&huge.paged(none)), Ok(()), "no table has no rows, however many sequences there are");
        let found = refused(&arrays, huge.paged(PagedKv { table_width: 2, ..none }));
        assert!(found.starts_with("page_table has 0 entries"), "{found}");
    }

    #[test]
    fn mapped_arrays_keep_their_places() {
        let arrays = Arrays { seqused_k: Some(vec![7]), sinks: Some(vec![0.5, 1.5]), ..Arrays::default() };
        let lengths = arrays.as_ref().map(Vec::len, Vec::len);
        assert_eq!(lengths, Arrays { seqused_k: Some(1), sinks: Some(2), ..Arrays::default() });
        let odd: Result<Arrays<usize, usize>, usize> = lengths.try_each(Err);
        assert_eq!(odd, Err(1), "the first in the order of the fields");
    }
}
