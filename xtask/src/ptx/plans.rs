//! `DIR/ARCH/manifest.json` of a folder with fresh kernels: which plan each was compiled from. `attn-host` refuses a kernel
//! whose plan is not its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::build::Built;

/// The file, as far as it matters here; the prebuilt kernels' has more.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Manifest {
    kernels: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Entry {
    name: String,
    plan: Option<String>,
}

/// A fingerprint as manifests have it.
pub fn text(plan: u64) -> String {
    format!("{plan:016x}")
}

/// Notes the plans of kernels whose files were written to `dir`; what was noted of others stays while their files do.
pub fn note(dir: &Path, built: &[&Built]) -> Result<()> {
    let path = dir.join("manifest.json");
    let old = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("in {}", path.display()))?,
        Err(_) => Manifest::default(),
    };
    let there = |name: &str| ["cubin", "ptx"].iter().any(|e| dir.join(format!("{name}.{e}")).exists());
    let mut plans: BTreeMap<String, Option<String>> =
        old.kernels.into_iter().filter(|entry| there(&entry.name)).map(|entry| (entry.name, entry.plan)).collect();
    plans.extend(built.iter().map(|kernel| (kernel.name.clone(), kernel.plan.map(text))));
    let kernels = plans.into_iter().map(|(name, plan)| Entry { name, plan }).collect();
    let mut json = serde_json::to_string_pretty(&Manifest { kernels })?;
    json.push('\n');
    fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_of_kernels_that_are_still_there_are_kept() {
        let dir = std::env::temp_dir().join(format!("attn-plans-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let kernel = |name: &str, plan| Built {
            name: name.into(),
            plan: Some(plan),
            ..serde_json::from_str(
                r#"{"name":"","arch":"sm_90a","ptx_version":"8.0","smem_dynamic":0,"resources":
                   {"registers":8,"spill":0,"stack":0,"smem_static":0},"sass":{"mma":0,"mufu":0,"ldl":0,"stl":0}}"#,
            )
            .unwrap()
        };
        fs::write(dir.join("a.ptx"), "").unwrap();
        note(&dir, &[&kernel("a", 1), &kernel("b", 2)]).unwrap();
        note(&dir, &[&kernel("c", u64::MAX)]).unwrap();
        let json = fs::read(dir.join("manifest.json")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let found: Manifest = serde_json::from_slice(&json).unwrap();
        let entry = |name: &str, plan: &str| Entry { name: name.into(), plan: Some(plan.into()) };
        assert_eq!(found.kernels, [entry("a", "0000000000000001"), entry("c", "ffffffffffffffff")]);
    }
}
