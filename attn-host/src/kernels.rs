//! The compiled kernels: embedded in the crate, or fresh from a folder.

use std::env;
use std::fs;
use std::io;
use std::path::Path;

use attn_kernel::companion::EntryPoint;
use serde_json::Value;

use crate::error::Error;
use crate::packed::Packed;

/// Names a folder with freshly built kernels (`cargo xtask build-ptx --out DIR`), which then replace the embedded ones. Its
/// `manifest.json` says from which plan each was compiled; one of another plan than this program's is refused.
pub const KERNEL_DIR: &str = "ATTN_KERNEL_DIR";

/// What says from which plan the kernels of a folder were compiled.
const MANIFEST: &str = "manifest.json";

/// One kernel that travels inside the crate.
struct Embedded {
    name: &'static str,
    arch: &'static str,
    cubin: Packed,
    ptx: Packed,
    /// Fingerprint of the plan that both were compiled from.
    plan: u64,
}

// `static EMBEDDED: &[Embedded]`, written by the build script from `prebuilt/<arch>/manifest.json`.
include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// A kernel's code in the forms that were found.
#[derive(Debug)]
pub(crate) struct Code {
    cubin: Form,
    ptx: Form,
}

/// One form of a kernel's code.
#[derive(Debug)]
enum Form {
    Absent,
    Plain(Vec<u8>),
    Packed(Packed),
}

impl From<Option<Vec<u8>>> for Form {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        bytes.map_or(Form::Absent, Form::Plain)
    }
}

impl Form {
    fn bytes(&self, kernel: &EntryPoint) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Form::Absent => Ok(None),
            Form::Plain(bytes) => Ok(Some(bytes.clone())),
            Form::Packed(packed) => packed.unpack().map(Some).map_err(|e| Error::NoKernel {
                kernel: kernel.name,
                reason: format!("its embedded code is damaged: {e}"),
            }),
        }
    }
}

impl Code {
    #[cfg(test)]
    pub(crate) fn from_parts(cubin: Option<Vec<u8>>, ptx: Option<Vec<u8>>) -> Self {
        Code { cubin: cubin.into(), ptx: ptx.into() }
    }

    /// The machine code, if there is one.
    pub(crate) fn cubin(&self, kernel: &EntryPoint) -> Result<Option<Vec<u8>>, Error> {
        self.cubin.bytes(kernel)
    }

    /// The PTX text with a terminating zero, if there is one.
    pub(crate) fn ptx(&self, kernel: &EntryPoint) -> Result<Option<Vec<u8>>, Error> {
        let mut text = self.ptx.bytes(kernel)?;
        text.iter_mut().for_each(|text| text.push(0));
        Ok(text)
    }
}

/// A kernel's machine code (a cubin), as a launch would find it: in the folder that [`KERNEL_DIR`] names, else in this crate. For
/// programs that look at it or launch it otherwise.
///
/// # Errors
/// If the kernel is nowhere, or was compiled from another plan than this program's.
pub fn machine_code(kernel: &EntryPoint) -> Result<Option<Vec<u8>>, Error> {
    find(kernel)?.cubin(kernel)
}

/// A kernel's PTX, found like its [`machine_code`]. A launch needs it only where the driver does not take the machine code.
///
/// # Errors
/// If the kernel is nowhere, or was compiled from another plan than this program's.
pub fn ptx(kernel: &EntryPoint) -> Result<Option<String>, Error> {
    let text = find(kernel)?.ptx.bytes(kernel)?;
    let damaged = |e| Error::NoKernel { kernel: kernel.name, reason: format!("its PTX is not a text: {e}") };
    text.map(|text| String::from_utf8(text).map_err(damaged)).transpose()
}

/// The kernels that travel inside the crate: name and architecture.
pub fn prebuilt() -> impl Iterator<Item = (&'static str, &'static str)> {
    EMBEDDED.iter().map(|embedded| (embedded.name, embedded.arch))
}

/// The code of a kernel: from the folder that [`KERNEL_DIR`] names, else the embedded one.
pub(crate) fn find(kernel: &EntryPoint) -> Result<Code, Error> {
    match env::var_os(KERNEL_DIR).filter(|dir| !dir.is_empty()) {
        Some(dir) => from_folder(kernel, Path::new(&dir)),
        None => embedded(kernel, EMBEDDED),
    }
}

fn embedded(kernel: &EntryPoint, table: &[Embedded]) -> Result<Code, Error> {
    let found = table.iter().find(|embedded| (embedded.name, embedded.arch) == (kernel.name, kernel.arch.name())).ok_or_else(|| Error::NoKernel {
        kernel: kernel.name,
        reason: format!(
            "{} kernels are built in, this one is not; cargo xtask build-ptx --out DIR builds it, {KERNEL_DIR}=DIR uses it",
            table.len()
        ),
    })?;
    of_plan(kernel, || "this program".to_owned(), &fingerprint(found.plan))?;
    Ok(Code { cubin: Form::Packed(found.cubin), ptx: Form::Packed(found.ptx) })
}

/// The code of a kernel from a folder of freshly built ones.
pub(crate) fn from_folder(kernel: &EntryPoint, dir: &Path) -> Result<Code, Error> {
    for dir in [&dir.join(kernel.arch.name()), dir] {
        let file = |extension: &str| read(&dir.join(format!("{}.{extension}", kernel.name)));
        let (cubin, ptx) = (file("cubin")?, file("ptx")?);
        if cubin.is_some() || ptx.is_some() {
            of_plan(kernel, || dir.display().to_string(), &noted_plan(kernel, dir)?)?;
            return Ok(Code { cubin: cubin.into(), ptx: ptx.into() });
        }
    }
    let reason = format!("neither its cubin nor its PTX is in {} ({KERNEL_DIR} names such a folder)", dir.display());
    Err(Error::NoKernel { kernel: kernel.name, reason })
}

/// The plan that the folder's manifest notes for a kernel.
fn noted_plan(kernel: &EntryPoint, dir: &Path) -> Result<String, Error> {
    let path = dir.join(MANIFEST);
    let unknown = |what: &str| Error::KernelFile {
        path: path.clone(),
        reason: format!("{what}; cargo xtask build-ptx --out writes it beside the kernels"),
    };
    let bytes =
        read(&path)?.ok_or_else(|| unknown("there is no such file to say what the kernels were compiled from"))?;
    let manifest: Value = serde_json::from_slice(&bytes).map_err(|e| unknown(&e.to_string()))?;
    let entries = manifest["kernels"].as_array().into_iter().flatten();
    let plan = entries.filter(|entry| entry["name"] == kernel.name).find_map(|entry| entry["plan"].as_str());
    Ok(plan.ok_or_else(|| unknown(&format!("it has no plan of kernel {}", kernel.name)))?.to_owned())
}

/// Refuses code that was compiled from another plan than this program's.
fn of_plan(kernel: &EntryPoint, place: impl FnOnce() -> String, found: &str) -> Result<(), Error> {
    let needed = fingerprint(kernel.fingerprint);
    if found != needed {
        return Err(Error::ForeignPlan { kernel: kernel.name, place: place(), found: found.to_owned(), needed });
    }
    Ok(())
}

/// As manifests have it.
fn fingerprint(plan: u64) -> String {
    format!("{plan:016x}")
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::KernelFile { path: path.to_owned(), reason: e.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::tests::frame;
    use attn_kernel::companion::COMPANIONS;
    use attn_kernel::forward::{Arch, KERNELS};
    use std::path::PathBuf;

    /// A folder of its own for a test, removed when it ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = env::temp_dir().join(format!("attn-host-{}-{test}", std::process::id()));
            fs::create_dir_all(path.join("sm_90a")).expect("a writable temporary folder");
            Folder(path)
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            fs::write(self.0.join(name), bytes).expect("a writable temporary folder");
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // A leftover in the temporary folder harms nothing.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn kernel(index: usize) -> EntryPoint {
        KERNELS[index].entry_point()
    }

    /// An entry whose two forms are packed together.
    fn in_table(kernel: &EntryPoint, ptx: &str, plan: u64) -> Embedded {
        let frame = frame(format!("machine code{ptx}").as_bytes());
        let (cubin, ptx) = (Packed { frame, at: 0, bytes: 12 }, Packed { frame, at: 12, bytes: ptx.len() });
        Embedded { name: kernel.name, arch: kernel.arch.name(), cubin, ptx, plan }
    }

    fn manifest(kernel: &EntryPoint, plan: u64) -> Vec<u8> {
        format!(r#"{{"kernels": [{{"name": "other"}}, {{"name": "{}", "plan": "{plan:016x}"}}]}}"#, kernel.name).into()
    }

    #[test]
    fn embedded_code_is_found_by_name_and_unpacked() {
        let kernel = kernel(1);
        let code =
            embedded(&kernel, &[in_table(&kernel, ".version 8.0", kernel.fingerprint)]).expect("is in the table");
        assert_eq!(code.cubin(&kernel), Ok(Some(b"machine code".to_vec())));
        assert_eq!(code.ptx(&kernel), Ok(Some(b".version 8.0\0".to_vec())));
    }

    #[test]
    fn every_embedded_kernel_unpacks_to_its_own_code() {
        for Embedded { name, arch, cubin, ptx, .. } in EMBEDDED {
            let code = cubin.unpack().expect("machine code");
            assert!(
                code.starts_with(b"\x7fELF") && code.windows(name.len()).any(|w| w == name.as_bytes()),
                "{arch} {name}"
            );
            let text = String::from_utf8(ptx.unpack().expect("PTX")).expect("a text");
            assert!(
                text.contains(&format!(".target {arch}")) && text.contains(&format!(".entry {name}(")),
                "{arch} {name}"
            );
        }
    }

    #[test]
    fn a_name_of_several_architectures_is_told_apart() {
        let [hopper, blackwell] = [Arch::Sm90a, Arch::Sm100a].map(|arch| COMPANIONS[0].entry_point(arch));
        let table = [in_table(&hopper, "", hopper.fingerprint)];
        assert!(embedded(&hopper, &table).is_ok());
        assert!(matches!(embedded(&blackwell, &table), Err(Error::NoKernel { .. })));
    }

    #[test]
    fn a_kernel_that_is_not_embedded_is_named() {
        let found = embedded(&kernel(0), &[]).expect_err("an empty table");
        assert!(matches!(found, Error::NoKernel { kernel, .. } if kernel == KERNELS[0].name), "{found}");
    }

    #[test]
    fn damaged_embedded_code_is_an_error() {
        let kernel = kernel(0);
        let damaged = Packed { frame: b"no frame", at: 0, bytes: 4 };
        let table = [Embedded { cubin: damaged, ptx: damaged, ..in_table(&kernel, "", kernel.fingerprint) }];
        let code = embedded(&kernel, &table).expect("found");
        for found in [code.cubin(&kernel), code.ptx(&kernel)] {
            assert!(matches!(found, Err(Error::NoKernel { .. })), "{found:?}");
        }
    }

    #[test]
    fn a_folder_is_searched_by_architecture_first() {
        let folder = Folder::new("order");
        let kernel = &kernel(0);
        folder.write(&format!("{}.cubin", kernel.name), b"flat");
        folder.write(&format!("{}.ptx", kernel.name), b"text");
        folder.write(MANIFEST, &manifest(kernel, kernel.fingerprint));
        let code = from_folder(kernel, &folder.0).expect("both forms are there");
        assert_eq!(code.cubin(kernel), Ok(Some(b"flat".to_vec())));
        assert_eq!(code.ptx(kernel), Ok(Some(b"text\0".to_vec())));
        folder.write(&format!("sm_90a/{}.cubin", kernel.name), b"nested");
        folder.write("sm_90a/manifest.json", &manifest(kernel, kernel.fingerprint));
        let code = from_folder(kernel, &folder.0).expect("both forms are there");
        assert_eq!(code.cubin(kernel), Ok(Some(b"nested".to_vec())));
    }

    #[test]
    fn code_of_another_plan_is_refused() {
        let (folder, kernel, other) = (Folder::new("plan"), &kernel(0), &kernel(1));
        folder.write(&format!("{}.ptx", kernel.name), b"text");
        let refused = || from_folder(kernel, &folder.0).expect_err("not this program's plan");
        let unknown = |part: &str| matches!(refused(), Error::KernelFile { reason, .. } if reason.contains(part));
        assert!(unknown("no such file"), "{}", refused());
        folder.write(MANIFEST, b"kernels");
        assert!(unknown("expected value"), "{}", refused());
        folder.write(MANIFEST, &manifest(other, kernel.fingerprint));
        assert!(unknown("no plan of kernel fwd_sm90_bf16_d32"), "{}", refused());
        folder.write(MANIFEST, &manifest(kernel, 0xabc));
        let needed = format!("{:016x}", kernel.fingerprint);
        assert!(
            matches!(refused(), Error::ForeignPlan { found, needed: own, .. } if found == "0000000000000abc" && own == needed),
            "{}",
            refused()
        );
        let table = [in_table(kernel, "", kernel.fingerprint + 1)];
        let found = embedded(kernel, &table).expect_err("not this program's plan");
        assert!(matches!(&found, Error::ForeignPlan { place, .. } if place == "this program"), "{found}");
    }

    #[test]
    fn an_empty_folder_has_no_kernel_and_an_unreadable_file_is_named() {
        let folder = Folder::new("empty");
        let kernel = &kernel(0);
        let found = from_folder(kernel, &folder.0).expect_err("nothing there");
        assert!(matches!(&found, Error::NoKernel { reason, .. } if reason.contains(KERNEL_DIR)), "{found}");
        let file = folder.0.join(format!("{}.cubin", kernel.name));
        fs::create_dir(&file).expect("a writable temporary folder");
        let found = from_folder(kernel, &folder.0).expect_err("a folder is no file");
        assert!(matches!(&found, Error::KernelFile { path, .. } if *path == file), "{found}");
    }
}
