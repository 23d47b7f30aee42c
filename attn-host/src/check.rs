//! Checks arrays of lengths and pages where the host has them. A launch reads them on the device, where nobody looks.

use crate::error::Error;

/// Checks prefix sums of sequence lengths: `batch + 1` of them, from 0, never falling, to at most `total`, no sequence longer than `longest`.
///
/// ```
/// use attn_host::check_cu_seqlens;
///
/// assert_eq!(check_cu_seqlens("cu_seqlens_q", &[0, 3, 3, 8], 3, 8, 5), Ok(()));
/// let wrong = check_cu_seqlens("cu_seqlens_q", &[0, 3, 2, 8], 3, 8, 5).expect_err("it falls");
/// assert_eq!(wrong.to_string(), "cu_seqlens_q[2] is 2; allowed: 3 to 8");
/// ```
///
/// # Errors
/// [`Error::Entries`] and [`Error::Entry`], which name `argument`.
pub fn check_cu_seqlens(
    argument: &'static str,
    cu_seqlens: &[i32],
    batch: u64,
    total: u64,
    longest: u64,
) -> Result<(), Error> {
    let wrong = |index: usize, allowed: String| {
        Err(Error::Entry { argument, index, value: i64::from(cu_seqlens[index]), allowed })
    };
    if u64::try_from(cu_seqlens.len()).ok() != batch.checked_add(1) {
        return Err(Error::Entries {
            argument,
            entries: cu_seqlens.len(),
            allowed: format!("batch + 1 = {}", batch.saturating_add(1)),
        });
    }
    if cu_seqlens[0] != 0 {
        return wrong(0, "0".to_owned());
    }
    for (i, pair) in cu_seqlens.windows(2).enumerate() {
        // Not below 0, which the first one is.
        let most = u64::from(pair[0].unsigned_abs()).saturating_add(longest).min(total);
        if pair[1] < pair[0] || u64::from(pair[1].unsigned_abs()) > most {
            return wrong(i + 1, format!("{} to {most}", pair[0]));
        }
    }
    Ok(())
}

/// Checks the lengths in use: one of each sequence, none negative or above `room`.
///
/// ```
/// let wrong = attn_host::check_seqused("seqused_k", &[5, 9], 2, 8).expect_err("9 is above 8");
/// assert_eq!(wrong.to_string(), "seqused_k[1] is 9; allowed: 0 to 8");
/// ```
///
/// # Errors
/// [`Error::Entries`] and [`Error::Entry`], which name `argument`.
pub fn check_seqused(argument: &'static str, seqused: &[i32], batch: u64, room: u64) -> Result<(), Error> {
    if u64::try_from(seqused.len()) != Ok(batch) {
        return Err(Error::Entries { argument, entries: seqused.len(), allowed: format!("batch = {batch}") });
    }
    let wrong = seqused.iter().position(|&used| u64::try_from(used).map_or(true, |used| used > room));
    wrong.map_or(Ok(()), |index| {
        let value = i64::from(seqused[index]);
        Err(Error::Entry { argument, index, value, allowed: format!("0 to {room}") })
    })
}

/// Checks the entries of a page table that a launch would read, `table_width` for each sequence of which the first `seqused_k` keys are in use:
/// numbers of pages below `pages`.
///
/// # Errors
/// [`Error::Size`] for a page size that [`PagedKv`](crate::PagedKv) does not allow; [`Error::Entries`] where the table has another length
/// than rows for all sequences; [`Error::Entry`] for a sequence with more keys than its row has pages, and for a page that is not there.
pub fn check_page_table(
    page_table: &[i32],
    table_width: u64,
    seqused_k: &[i32],
    page_size: u64,
    pages: u64,
) -> Result<(), Error> {
    if !page_size.is_power_of_two() {
        return Err(Error::Size { argument: "page_size", value: page_size, allowed: "a power of two" });
    }
    let room = table_width.saturating_mul(page_size);
    check_seqused("seqused_k", seqused_k, seqused_k.len() as u64, room)?;
    let expected = table_width.saturating_mul(seqused_k.len() as u64);
    if u64::try_from(page_table.len()) != Ok(expected) {
        let allowed = format!("table_width for each of {} sequences, {expected}", seqused_k.len());
        return Err(Error::Entries { argument: "page_table", entries: page_table.len(), allowed });
    }
    for (sequence, &used) in seqused_k.iter().enumerate() {
        // Fits: it is below the length of the table.
        let first = sequence * table_width as usize;
        let read = u64::from(used.unsigned_abs()).div_ceil(page_size) as usize;
        for (index, &page) in page_table.iter().enumerate().skip(first).take(read) {
            if u64::try_from(page).map_or(true, |page| page >= pages) {
                let allowed = format!("0 to {}", pages.saturating_sub(1));
                return Err(Error::Entry { argument: "page_table", index, value: i64::from(page), allowed });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(found: Result<(), Error>) -> (&'static str, usize, i64) {
        match found {
            Err(Error::Entry { argument, index, value, .. }) => (argument, index, value),
            other => panic!("not about an entry: {other:?}"),
        }
    }

    #[test]
    fn prefix_sums_begin_with_0_never_fall_and_stay_below_the_total() {
        let check = |sums: &[i32]| check_cu_seqlens("cu_seqlens_q", sums, 3, 10, 6);
        assert_eq!(check(&[0, 0, 6, 10]), Ok(()));
        assert_eq!(check(&[0, 2, 2, 2]), Ok(()));
        assert_eq!(entry(check(&[1, 2, 3, 4])), ("cu_seqlens_q", 0, 1));
        assert_eq!(entry(check(&[0, 5, 4, 10])), ("cu_seqlens_q", 2, 4));
        assert_eq!(entry(check(&[0, 5, 11, 11])), ("cu_seqlens_q", 2, 11));
        assert_eq!(entry(check(&[0, 0, 7, 10])), ("cu_seqlens_q", 2, 7), "longer than the longest");
        assert_eq!(entry(check(&[0, -1, 7, 10])), ("cu_seqlens_q", 1, -1));
        for sums in [&[][..], &[0], &[0, 1, 2], &[0, 1, 2, 3, 4]] {
            let found = check(sums);
            let entries = sums.len();
            assert!(matches!(found, Err(Error::Entries { entries: e, .. }) if e == entries), "{found:?}");
        }
        let text = check(&[0, 5, 4, 10]).map_err(|e| e.to_string());
        assert_eq!(text, Err("cu_seqlens_q[2] is 4; allowed: 5 to 10".to_owned()));
    }

    #[test]
    fn lengths_in_use_fit_their_room() {
        let check = |used: &[i32]| check_seqused("seqused_q", used, 2, 7);
        assert_eq!(check(&[0, 7]), Ok(()));
        assert_eq!(entry(check(&[8, 0])), ("seqused_q", 0, 8));
        assert_eq!(entry(check(&[0, -1])), ("seqused_q", 1, -1));
        assert!(matches!(check(&[1]), Err(Error::Entries { argument: "seqused_q", entries: 1, .. })));
    }

    #[test]
    fn only_pages_that_are_read_must_exist() {
        let check = |table: &[i32], used: &[i32]| check_page_table(table, 3, used, 16, 5);
        // 17 keys take two pages, 48 three, none takes none.
        assert_eq!(check(&[4, 0, -9, 1, 2, 3, 99, 99, 99], &[17, 48, 0]), Ok(()));
        assert_eq!(entry(check(&[4, 5, 0, 1, 2, 3], &[17, 48])), ("page_table", 1, 5));
        assert_eq!(entry(check(&[4, 0, 0, 1, 2, -1], &[17, 48])), ("page_table", 5, -1));
        assert_eq!(entry(check(&[0; 6], &[1, 49])), ("seqused_k", 1, 49));
        assert!(matches!(check(&[0; 5], &[1, 1]), Err(Error::Entries { argument: "page_table", entries: 5, .. })));
        let odd = check_page_table(&[0], 1, &[1], 24, 1);
        assert!(matches!(odd, Err(Error::Size { argument: "page_size", value: 24, .. })), "{odd:?}");
    }
}
