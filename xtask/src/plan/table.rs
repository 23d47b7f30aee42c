//! A description as text: tables with aligned columns, to read and to paste.

use std::fmt::Write;

use super::describe::{Barrier, Crew, Description, Meeting, Place, Unit};

/// All tables.
pub fn render(d: &Description) -> String {
    let mut text = head(d);
    if !d.tensor_memory.is_empty() {
        section(&mut text, "tensor memory, columns of 128 lanes", &places(&d.tensor_memory, 3));
    }
    section(&mut text, &format!("shared memory, {} bytes", d.shared_bytes), &places(&d.shared_memory, 6));
    section(&mut text, "mbarriers", &barriers(&d.mbarriers));
    section(&mut text, "named barriers", &meetings(&d.named_barriers));
    section(&mut text, "warps", &warps(&d.warps));
    section(&mut text, "cycles of one multiprocessor for a block of keys without mask", &units(&d.cycles));
    let most = d.cycles.iter().find(|unit| unit.unit == d.bound).map_or(0.0, |unit| unit.cycles);
    let tensor = d.cycles.first().map_or(0.0, |unit| unit.cycles);
    let _ = writeln!(text, "bound by {}: {most:.0} cycles, tensor cores busy {:.0} %", d.bound, 100.0 * tensor / most);
    text
}

fn head(d: &Description) -> String {
    let mask = if d.causal { "causal" } else { "no mask" };
    let packed = match d.max_packed_heads {
        1 => "one".to_owned(),
        most => format!("up to {most} of a group, a power of two"),
    };
    let mut text = format!("{} for {}\n", d.kernel, d.arch);
    let lines = [
        ("head dimensions", format!("{} (Q, K), {} (V, O)", d.head_dim, d.head_dim_v)),
        ("mask", mask.to_owned()),
        ("tile", format!("{} rows, blocks of {} keys", d.tile_rows, d.block_keys)),
        ("heads in a tile", packed),
        (
            "threads",
            format!("{}, {} registers each at entry, one block a multiprocessor", d.threads, d.entry_registers),
        ),
        ("schedule", d.schedule.to_owned()),
        ("rescale of O", d.rescale.clone()),
        ("exp2", format!("{} of {} columns of a row on the FMA pipe", d.emulated_columns, d.block_keys)),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "  {name:<16} {value}");
    }
    text
}

fn places(places: &[Place], width: usize) -> Vec<Vec<String>> {
    let mut rows = vec![row(["from", "to", "what", "each", ""])];
    for p in places {
        let each = if p.count == 1 { String::new() } else { format!("{} x {}", p.count, p.size) };
        let at = |n: u32| format!("{n:>width$}");
        rows.push(vec![at(p.from), at(p.to), p.name.to_owned(), each, p.note.to_owned()]);
    }
    rows
}

fn barriers(barriers: &[Barrier]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["at", "count", "name", "arrivals", "arrive", "wait", "means"])];
    for b in barriers {
        rows.push(vec![
            b.at.to_string(),
            b.count.to_string(),
            b.name.to_owned(),
            b.arrivals.to_string(),
            b.from.join(", "),
            b.to.join(", "),
            b.means.to_owned(),
        ]);
    }
    rows
}

fn meetings(meetings: &[Meeting]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["id", "name", "threads", "arrive", "wait", "means"])];
    for m in meetings {
        rows.push(vec![
            range(m.first, m.count),
            m.name.to_owned(),
            m.threads.to_string(),
            m.from.join(", "),
            m.to.join(", "),
            m.means.to_owned(),
        ]);
    }
    rows
}

fn warps(warps: &[Crew]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["warps", "role", "registers", "does"])];
    for w in warps {
        let registers = w.registers.to_string();
        rows.push(vec![range(w.first, w.count), w.role.to_owned(), registers, w.work.to_owned()]);
    }
    rows
}

fn units(units: &[Unit]) -> Vec<Vec<String>> {
    let mut rows = vec![row(["unit", "cycles", "if all rows of O are rescaled"])];
    for u in units {
        rows.push(vec![u.unit.to_owned(), format!("{:.0}", u.cycles), format!("{:.0}", u.with_rescale)]);
    }
    rows
}

/// `3` or `4-7`.
fn range(first: u32, count: u32) -> String {
    if count == 1 { first.to_string() } else { format!("{first}-{}", first + count - 1) }
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// A title and rows with columns aligned.
fn section(text: &mut String, title: &str, rows: &[Vec<String>]) {
    let _ = writeln!(text, "\n{title}");
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
    }
}
