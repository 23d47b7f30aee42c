//! `cargo xtask package`: the library crates as a registry would get them.

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Packs the library crates for a registry and checks that each stays well below the size that registries take.
///
/// Nothing is uploaded. With --verify, each package is also compiled as it was packed, by itself.
#[derive(clap::Args)]
pub struct Options {
    /// Also compile what was packed.
    #[arg(long)]
    verify: bool,
}

/// Registries take 10 MiB; what is left is for kernels to come.
const MAX_MIB: f64 = 7.0;

/// What cargo says of a package.
#[derive(Debug, PartialEq)]
struct Package {
    name: String,
    /// Compressed.
    mib: f64,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let mut command = process::cargo();
    command.args(["publish", "--workspace", "--dry-run", "--allow-dirty"]);
    if !options.verify {
        command.arg("--no-verify");
    }
    let packages = packages(&process::text(&process::run(&mut command)?))?;
    for Package { name, mib } in &packages {
        println!("{name}: {mib:.2} MiB compressed");
    }
    ensure!(!packages.is_empty(), "cargo packed nothing");
    let large: Vec<&str> = packages.iter().filter(|package| package.mib > MAX_MIB).map(|p| p.name.as_str()).collect();
    if !large.is_empty() {
        bail!("{} above {MAX_MIB} MiB; registries take 10", large.join(", "));
    }
    Ok(())
}

/// The packages of cargo's report: a line `Packaging NAME vVERSION (..)`, and later one `Packaged N files, SIZE (SIZE compressed)`.
fn packages(report: &str) -> Result<Vec<Package>> {
    let (mut found, mut name) = (Vec::new(), None);
    for line in report.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("Packaging ") {
            name = rest.split_whitespace().next().map(str::to_owned);
        } else if line.starts_with("Packaged ") {
            let size = line.rsplit('(').next().and_then(|rest| rest.strip_suffix(" compressed)"));
            let mib = size.and_then(mib).with_context(|| format!("no size in cargo's `{line}`"))?;
            found.push(Package { name: name.take().with_context(|| format!("no package before `{line}`"))?, mib });
        }
    }
    Ok(found)
}

/// A size as cargo writes it, in MiB.
fn mib(size: &str) -> Option<f64> {
    let digits = size.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = size[..digits].parse().ok()?;
    let unit = match &size[digits..] {
        "B" => 1.0 / f64::from(1 << 20),
        "KiB" => 1.0 / 1024.0,
        "MiB" => 1.0,
        _ => return None,
    };
    Some(number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_report_is_read() {
        let report = "   Packaging attn-kernel v0.1.0 (/somewhere)\n    Updating index\n    Packaged 128 files, 1.0MiB \
                      (512.0KiB compressed)\n   Packaging attn-host v0.1.0 (/somewhere)\nwarning: a word\n    Packaged 480 \
                      files, 19.9MiB (9.4MiB compressed)\n   Uploading attn-host v0.1.0\n";
        let package = |name: &str, mib| Package { name: name.to_owned(), mib };
        assert_eq!(packages(report).unwrap(), [package("attn-kernel", 0.5), package("attn-host", 9.4)]);
        assert!(packages("Packaging a v1\nPackaged 3 files, 4 parsecs (much compressed)").is_err());
        assert_eq!(mib("2B"), Some(2.0 / 1_048_576.0));
    }
}
