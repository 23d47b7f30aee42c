//! The table of kernels and what they cost.

use super::build::Built;

/// One line per kernel, columns aligned, no colour: a table to paste.
pub fn render(kernels: &[Built]) -> String {
    let title = ["kernel", "arch", "PTX", "regs", "spill", "stack", "smem", "dyn smem", "MMA", "MUFU", "LDL/STL"];
    let mut rows = vec![title.map(str::to_owned)];
    rows.extend(kernels.iter().map(row));
    let mut widths = [0; 11];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            line.push_str(&cell);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(kernel: &Built) -> [String; 11] {
    let Built { resources, sass, .. } = kernel;
    [
        kernel.name.clone(),
        kernel.arch.clone(),
        kernel.ptx_version.clone(),
        resources.registers.to_string(),
        resources.spill.to_string(),
        resources.stack.to_string(),
        resources.smem_static.to_string(),
        kernel.smem_dynamic.to_string(),
        sass.mma.to_string(),
        sass.mufu.to_string(),
        format!("{}/{}", sass.ldl, sass.stl),
    ]
}
