//! The compiled kernels: embedded in the crate, or fresh from a folder.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use attn_kernel::forward::Kernel;
use flate2::read::GzDecoder;

use crate::error::Error;

/// Names a folder with freshly built kernels (`cargo xtask build-ptx --out DIR`), which then replace the embedded ones.
pub const KERNEL_DIR: &str = "ATTN_KERNEL_DIR";

/// One kernel that travels inside the crate.
struct Embedded {
    name: &'static str,
    cubin: &'static [u8],
    /// PTX, gzip.
    ptx: &'static [u8],
}

// `static EMBEDDED: &[Embedded]`, written by the build script from `prebuilt/<arch>/manifest.json`.
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// A kernel's code in the forms that were found.
#[derive(Debug)]
pub(crate) struct Code {
    /// Machine code.
    pub(crate) cubin: Option<Vec<u8>>,
    ptx: Ptx,
}

#[derive(Debug)]
enum Ptx {
    Absent,
    Text(Vec<u8>),
    Gzip(&'static [u8]),
}

impl Code {
    #[cfg(test)]
    pub(crate) fn from_parts(cubin: Option<Vec<u8>>, ptx: Option<Vec<u8>>) -> Self {
        Code { cubin, ptx: ptx.map_or(Ptx::Absent, Ptx::Text) }
    }

    /// The PTX text with a terminating zero, if there is one.
    pub(crate) fn ptx(&self, kernel: &Kernel) -> Result<Option<Vec<u8>>, Error> {
        let mut text = match &self.ptx {
            Ptx::Absent => return Ok(None),
            Ptx::Text(text) => text.clone(),
            Ptx::Gzip(packed) => unpack(packed).map_err(|e| Error::NoKernel {
                kernel: kernel.name,
                reason: format!("its embedded PTX is damaged: {e}"),
            })?,
        };
        text.push(0);
        Ok(Some(text))
    }
}

fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut text)?;
    Ok(text)
}

/// The code of a kernel: from the folder that [`KERNEL_DIR`] names, else the embedded one.
pub(crate) fn find(kernel: &Kernel) -> Result<Code, Error> {
    match env::var_os(KERNEL_DIR).filter(|dir| !dir.is_empty()) {
        Some(dir) => from_folder(kernel, Path::new(&dir)),
        None => embedded(kernel, EMBEDDED),
    }
}

fn embedded(kernel: &Kernel, table: &[Embedded]) -> Result<Code, Error> {
    let found = table.iter().find(|embedded| embedded.name == kernel.name).ok_or_else(|| Error::NoKernel {
        kernel: kernel.name,
        reason: format!(
            "{} kernels are built in, this one is not; cargo xtask build-ptx --out DIR builds it, {KERNEL_DIR}=DIR uses it",
            table.len()
        ),
    })?;
    Ok(Code { cubin: Some(found.cubin.to_vec()), ptx: Ptx::Gzip(found.ptx) })
}

fn from_folder(kernel: &Kernel, dir: &Path) -> Result<Code, Error> {
    let file = |extension: &str| {
        let name = format!("{}.{extension}", kernel.name);
        let nested = read(&dir.join(kernel.arch.name()).join(&name))?;
        if nested.is_some() { Ok(nested) } else { read(&dir.join(&name)) }
    };
    let (cubin, ptx) = (file("cubin")?, file("ptx")?);
    if cubin.is_none() && ptx.is_none() {
        let reason = format!("neither its cubin nor its PTX is in {} (named by {KERNEL_DIR})", dir.display());
        return Err(Error::NoKernel { kernel: kernel.name, reason });
    }
    Ok(Code { cubin, ptx: ptx.map_or(Ptx::Absent, Ptx::Text) })
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::KernelFile { path: path.to_owned(), reason: e.to_string() }),
    }
}
