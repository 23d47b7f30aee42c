//! What this machine must have before anything can be fetched, each miss said in one line with its remedy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Refuses to go on without `program`.
pub fn need(program: &str, remedy: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return Ok(());
    }
    bail!("`{program}` is not on PATH. {remedy}")
}

/// Refuses to go on when `dir` has less than `bytes` free.
pub fn need_space(dir: &Path, bytes: u64) -> Result<()> {
    let output = process::run(Command::new("df").arg("-Pk").arg(dir))?;
    let text = process::text(&output);
    let Some(free) = free_bytes(&text) else { bail!("cannot read the free space of {} from df", dir.display()) };
    if free < bytes {
        bail!(
            "{} has {} free and the toolchain needs {}. Make room there",
            dir.display(),
            megabytes(free),
            megabytes(bytes)
        );
    }
    Ok(())
}

/// The fourth column of `df -Pk`, in bytes.
fn free_bytes(df: &str) -> Option<u64> {
    Some(df.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()? * 1024)
}

/// `12.3 MB`.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// A folder that gets its final name only when it is complete, so that an interrupted run leaves nothing half done.
pub struct Staging {
    path: PathBuf,
    target: PathBuf,
}

impl Staging {
    /// An empty folder beside `target`. What an earlier, interrupted run left there is removed.
    pub fn new(target: &Path) -> Result<Staging> {
        let path = target.with_extension("incomplete");
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Staging { path, target: target.to_owned() })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the folder its name; an older one of that name goes.
    pub fn finish(self) -> Result<()> {
        if self.target.exists() {
            fs::remove_dir_all(&self.target).with_context(|| format!("cannot replace {}", self.target.display()))?;
        }
        fs::rename(&self.path, &self.target).with_context(|| format!("cannot create {}", self.target.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_read_from_df() {
        let df = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n\
                  /dev/vda         263174212 13631488  82837504      15% /\n";
        assert_eq!(free_bytes(df), Some(82_837_504 * 1024));
        assert_eq!(free_bytes(""), None);
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let error = need("no-such-program-here", "Install it.").unwrap_err().to_string();
        assert!(error.contains("no-such-program-here") && error.contains("Install it."), "{error}");
        let error = need_space(&std::env::temp_dir(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("Make room there"), "{error}");
    }
}
