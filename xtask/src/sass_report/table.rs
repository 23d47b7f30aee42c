//! The report as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::class::Class;
use super::report::{Counts, LoopReport, Report};
use super::role::Role;
use super::unit::Unit;

/// Which lines the text has.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Also a line for every instruction's name.
    pub names: bool,
}

/// Width of the titles.
const TITLE: usize = 34;
/// Width of a number.
const NUMBER: usize = 10;

/// One or two reports side by side.
pub fn render(reports: &[Report], style: Style) -> String {
    let mut text = String::new();
    for (letter, report) in letters(reports.len()).zip(reports) {
        heading(&mut text, letter, report);
    }
    text.push_str(
        "\nPer loop: instructions of one warp and cycles of one multiprocessor, for one KV block. `every`: what every \
         iteration executes;\n`longest`: the longest way through, with what is sometimes skipped. Of a wait the first try \
         counts, the others do not.\n",
    );
    for (role, masked, outer) in kinds(reports) {
        let loops: Vec<Vec<&LoopReport>> = reports.iter().map(|r| of_kind(r, role, masked, outer)).collect();
        for index in 0..loops.iter().map(Vec::len).max().unwrap_or_default() {
            let row: Vec<_> = loops.iter().map(|loops| loops.get(index).copied()).collect();
            one_loop(&mut text, &title(role, masked, outer), &row, style);
        }
    }
    together(&mut text, reports);
    text
}

/// How the columns of each report are marked: not at all where there is only one.
fn letters(reports: usize) -> impl Iterator<Item = &'static str> {
    let letters = if reports > 1 { ["A", "B"] } else { ["", ""] };
    letters.into_iter().take(reports)
}

fn heading(text: &mut String, letter: &str, report: &Report) {
    let mark = if letter.is_empty() { String::new() } else { format!("{letter}: ") };
    let _ = writeln!(text, "{mark}{} ({}), {}", report.kernel, report.arch, report.file);
    if let Some(r) = report.resources {
        let threads = r.threads.map_or_else(String::new, |threads| format!(", {threads} threads"));
        let _ = writeln!(
            text,
            "   {} registers at entry, stack {}, local {}, static shared {}{threads}",
            r.registers, r.stack, r.local, r.shared
        );
    }
    let _ = writeln!(text, "   {} instructions, spills: {} LDL, {} STL", report.instructions, report.ldl, report.stl);
    if !report.unknown.is_empty() {
        let _ = writeln!(text, "   unknown instructions, in no unit's cycles: {}", report.unknown.join(", "));
    }
    if report.shapeless > 0 {
        let _ = writeln!(
            text,
            "   {} matrix multiplies take their shape from no constant: not in the tensor cores' cycles",
            report.shapeless
        );
    }
    for address in &report.unresolved {
        let _ = writeln!(text, "   the jump at {address:#x} leads nobody knows where: loops through it are not found");
    }
    if report.loops.is_empty() {
        let _ = writeln!(text, "   no loop with a known role");
    }
}

/// The kinds of loops there are, in order.
fn kinds(reports: &[Report]) -> Vec<(Role, bool, bool)> {
    let mut kinds: Vec<_> = reports.iter().flat_map(|r| &r.loops).map(|l| (l.outer, l.role, l.masked)).collect();
    kinds.sort();
    kinds.dedup();
    kinds.into_iter().map(|(outer, role, masked)| (role, masked, outer)).collect()
}

fn of_kind(report: &Report, role: Role, masked: bool, outer: bool) -> Vec<&LoopReport> {
    report.loops.iter().filter(|l| (l.role, l.masked, l.outer) == (role, masked, outer)).collect()
}

fn title(role: Role, masked: bool, outer: bool) -> String {
    let mask = if masked { ", masked" } else { "" };
    let outer = if outer { ", round other loops" } else { "" };
    format!("{}{mask}{outer}", role.title())
}

/// The table of one loop; none stands for a report that has no such loop.
fn one_loop(text: &mut String, title: &str, loops: &[Option<&LoopReport>], style: Style) {
    let _ = writeln!(text, "\n{title}");
    for (letter, found) in letters(loops.len()).zip(loops) {
        if let Some(l) = found {
            let _ = writeln!(text, "  {letter}{}{}", if letter.is_empty() { "" } else { ": " }, describe(l));
        }
    }
    header(text, loops.len());
    let line = |text: &mut String, name: &str, value: &dyn Fn(&Counts) -> f64| {
        row(text, name, loops.iter().map(|l| l.map(|l| [value(&l.every), value(&l.longest)])));
    };
    line(text, "instructions", &|c| c.instructions);
    for class in Class::ALL {
        line(text, &format!("  {}", class.title()), &|c| c.classes.get(&class).copied().unwrap_or_default());
    }
    if style.names {
        let mut names: Vec<_> =
            loops.iter().flatten().flat_map(|l| l.longest.names.keys().chain(l.every.names.keys())).collect();
        names.sort();
        names.dedup();
        for name in names {
            line(text, &format!("    {name}"), &|c| c.names.get(name).copied().unwrap_or_default());
        }
    }
    let cycles = loops.iter().map(|l| l.map(|l| [&l.every.cycles, &l.longest.cycles]));
    units(text, &cycles.collect::<Vec<_>>());
}

fn describe(l: &LoopReport) -> String {
    let mut text = format!("{:#x} to {:#x}", l.from, l.to);
    if l.per != 1.0 {
        let _ = write!(text, ", an iteration is {} KV blocks", l.per);
    }
    let _ = write!(text, ", warps: {}", l.warps);
    let marks = [
        (l.marks.multiplies, "multiplies"),
        (l.marks.scores, "numbers packed to 16 bits"),
        (l.marks.exp2, "MUFU.EX2"),
        (l.marks.tmem_loaded, "TMEM columns loaded"),
        (l.marks.tmem_stored, "stored"),
    ];
    for (count, what) in marks.into_iter().filter(|(count, _)| *count > 0) {
        let _ = write!(text, ", {count} {what}");
    }
    if l.left_out > 0 {
        let _ = write!(text, "; {} instructions of waits and scattered warps left out", l.left_out);
    }
    text
}

/// The lines of cycles; none stands for a report without them.
fn units(text: &mut String, cycles: &[Option<[&BTreeMap<Unit, f64>; 2]>]) {
    for unit in Unit::ALL {
        let value = |c: &BTreeMap<Unit, f64>| c.get(&unit).copied().unwrap_or_default();
        let values = cycles.iter().map(|c| c.map(|c| c.map(value)));
        row(text, &format!("  cycles: {}", unit.title()), values);
    }
}

fn header(text: &mut String, reports: usize) {
    let _ = write!(text, "{:TITLE$}", "");
    for letter in letters(reports) {
        for way in ["every", "longest"] {
            let name = if letter.is_empty() { way.to_owned() } else { format!("{letter} {way}") };
            let _ = write!(text, "{name:>NUMBER$}");
        }
    }
    text.push('\n');
}

/// A line of numbers; a line of nothing but zeros is left out.
fn row(text: &mut String, title: &str, values: impl Iterator<Item = Option<[f64; 2]>>) {
    let values: Vec<_> = values.collect();
    if values.iter().flatten().flatten().all(|&value| value == 0.0) {
        return;
    }
    let _ = write!(text, "{title:TITLE$}");
    for value in values {
        let cells = value.map_or(["-".to_owned(), "-".to_owned()], |pair| pair.map(number));
        for cell in cells {
            let _ = write!(text, "{cell:>NUMBER$}");
        }
    }
    text.push('\n');
}

/// A number, with a decimal only where it has a fraction.
fn number(value: f64) -> String {
    if (value - value.round()).abs() < 0.05 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// The bound of every unit over all roles.
fn together(text: &mut String, reports: &[Report]) {
    let _ = writeln!(text, "\nall roles, loops without mask: cycles of one multiprocessor for one KV block");
    header(text, reports.len());
    let sums: Vec<_> = reports.iter().map(|r| [r.together(|l| &l.every), r.together(|l| &l.longest)]).collect();
    units(text, &sums.iter().map(|pair| Some([&pair[0], &pair[1]])).collect::<Vec<_>>());
    for (letter, [_, longest]) in letters(reports.len()).zip(&sums) {
        if let Some((unit, cycles)) = longest.iter().max_by(|a, b| a.1.total_cmp(b.1)) {
            let mark = if letter.is_empty() { String::new() } else { format!("{letter}: ") };
            let _ = writeln!(text, "{mark}bound by {}: {} cycles", unit.title(), number(*cycles));
        }
    }
}
