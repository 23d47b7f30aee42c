//! libNVVM: NVIDIA's compiler from LLVM IR to PTX, called in this process.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use anyhow::{Context, Result, bail, ensure};
use libloading::Library;

use super::arch::Arch;
use crate::toolchain::Toolchain;

type Program = *mut c_void;

/// The entry points that are used, all with C's calling convention and an int as status.
struct Nvvm {
    library: Library,
}

impl Nvvm {
    fn open(path: &Path) -> Result<Nvvm> {
        // SAFETY: loading libNVVM runs its initialisers, which is what NVIDIA built them for.
        let library = unsafe { Library::new(path) }.with_context(|| format!("cannot load {}", path.display()))?;
        Ok(Nvvm { library })
    }

    /// Looks up `name`.
    ///
    /// # Safety
    /// `F` is the function's type in nvvm.h.
    unsafe fn get<F: Copy>(&self, name: &str) -> Result<F> {
        // SAFETY: the caller vouches for the type; the copy is used only while `self` keeps the library loaded.
        let symbol = unsafe { self.library.get::<F>(name.as_bytes()) };
        Ok(*symbol.with_context(|| format!("libNVVM has no {name}; CUDA 13 or newer is needed"))?)
    }

    /// LLVM's major version of the IR that `arch` takes.
    fn llvm_version(&self, arch: &str) -> Result<c_int> {
        let arch = CString::new(arch)?;
        let mut major = 0;
        // SAFETY: the type is `nvvmResult nvvmLLVMVersion(const char *arch, int *major)`; both pointers are valid.
        let status = unsafe {
            let call: unsafe extern "C" fn(*const c_char, *mut c_int) -> c_int = self.get("nvvmLLVMVersion")?;
            call(arch.as_ptr(), &raw mut major)
        };
        ensure!(status == 0, "libNVVM does not know {arch:?}");
        Ok(major)
    }

    /// The version of the IR's own conventions, for `!nvvmir.version`.
    fn ir_version(&self) -> Result<[c_int; 4]> {
        let mut version = [0; 4];
        let [major, minor, debug_major, debug_minor] = &mut version;
        // SAFETY: the type is `nvvmResult nvvmIRVersion(int *, int *, int *, int *)`; all four pointers are valid.
        let status = unsafe {
            let call: unsafe extern "C" fn(*mut c_int, *mut c_int, *mut c_int, *mut c_int) -> c_int =
                self.get("nvvmIRVersion")?;
            call(major, minor, debug_major, debug_minor)
        };
        ensure!(status == 0, "nvvmIRVersion failed with status {status}");
        Ok(version)
    }

    /// Compiles the module `ir`.
    fn compile(&self, ir: &str, arch: &str) -> Result<String> {
        let options = [CString::new(format!("-arch={arch}"))?, CString::new("-opt=3")?];
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: Program = ptr::null_mut();
        // SAFETY: types as in nvvm.h. `program` is created first and destroyed last; the IR is passed with its length,
        // the options with their number, and all of them outlive the calls.
        unsafe {
            let create: unsafe extern "C" fn(*mut Program) -> c_int = self.get("nvvmCreateProgram")?;
            let destroy: unsafe extern "C" fn(*mut Program) -> c_int = self.get("nvvmDestroyProgram")?;
            let add: unsafe extern "C" fn(Program, *const c_char, usize, *const c_char) -> c_int =
                self.get("nvvmAddModuleToProgram")?;
            let compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int =
                self.get("nvvmCompileProgram")?;
            ensure!(create(&raw mut program) == 0, "nvvmCreateProgram failed");
            let mut status = add(program, ir.as_ptr().cast(), ir.len(), c"kernel".as_ptr());
            if status == 0 {
                status = compile(program, c_int::try_from(options.len())?, options.as_ptr());
            }
            let result = if status == 0 {
                self.text(program, "nvvmGetCompiledResultSize", "nvvmGetCompiledResult")
            } else {
                self.text(program, "nvvmGetProgramLogSize", "nvvmGetProgramLog")
            };
            destroy(&raw mut program);
            if status != 0 {
                bail!("libNVVM refuses the kernel (status {status}): {}", result?.trim());
            }
            result
        }
    }

    /// Reads one of the program's texts through its pair of functions.
    fn text(&self, program: Program, size_of: &str, get: &str) -> Result<String> {
        let mut size = 0usize;
        // SAFETY: types as in nvvm.h; the buffer has the size that the library asks for, its NUL included.
        unsafe {
            let size_of: unsafe extern "C" fn(Program, *mut usize) -> c_int = self.get(size_of)?;
            let get: unsafe extern "C" fn(Program, *mut c_char) -> c_int = self.get(get)?;
            ensure!(size_of(program, &raw mut size) == 0, "libNVVM gives no result");
            let mut buffer = vec![0u8; size.max(1)];
            ensure!(get(program, buffer.as_mut_ptr().cast()) == 0, "libNVVM gives no result");
            Ok(CStr::from_bytes_until_nul(&buffer)?.to_str()?.to_owned())
        }
    }
}

/// Compiles annotated, unoptimised IR to PTX.
pub fn compile(toolchain: &Toolchain, arch: Arch, ir: &str) -> Result<String> {
    let libnvvm = toolchain.cuda.libnvvm.as_ref().context("the CUDA installation has no libnvvm.so.4")?;
    let llvm_major = toolchain.rust.llvm_version.split('.').next().unwrap_or_default();
    let nvvm = Nvvm::open(libnvvm)?;
    let target = arch.name().replace("sm_", "compute_");
    let takes = nvvm.llvm_version(&target)?;
    ensure!(
        takes.to_string() == llvm_major,
        "libNVVM takes the IR of LLVM {takes} for {target}, but rustc writes that of LLVM {llvm_major}. \
         Use `--codegen llvm` for {}",
        arch.name()
    );
    Ok(defined(&nvvm.compile(&adapt(ir, nvvm.ir_version()?), &target)?))
}

/// The target, the two values and the condition of a line `selp.b32 a, b, c, p;`.
fn selection(line: &str) -> Option<[&str; 4]> {
    let operands = line.trim().strip_prefix("selp.b32")?.strip_suffix(';')?;
    let mut operands = operands.split(',').map(str::trim);
    Some([operands.next()?, operands.next()?, operands.next()?, operands.next()?])
}

/// Gives registers without a value one.
///
/// Of a loop whose last round leaves nothing behind libNVVM makes `selp a, b, a, p`, the only line that writes `a`: before the first
/// round `a` was never written. It is used only where `p` was true, but reading it has no defined meaning. It becomes 0 before the loop.
fn defined(ptx: &str) -> String {
    let lines: Vec<&str> = ptx.lines().collect();
    let writes = |line: &str, register: &str| {
        let operands = line.trim().split_once([' ', '\t']).map_or("", |(_, operands)| operands.trim_start());
        operands.strip_prefix(register).is_some_and(|rest| rest.starts_with(','))
    };
    let mut before: Vec<Vec<&str>> = vec![Vec::new(); lines.len()];
    for (index, line) in lines.iter().enumerate() {
        let Some([target, _, kept, _]) = selection(line).filter(|[target, _, kept, _]| target == kept) else {
            continue;
        };
        let start = lines[..index].iter().rposition(|line| line.starts_with("$L"));
        let alone = lines.iter().filter(|line| writes(line, target)).count() == 1;
        if let Some(start) = start.filter(|_| alone) {
            before[start].push(kept);
        }
    }
    let mut text = String::with_capacity(ptx.len() + 256);
    for (line, registers) in lines.iter().zip(before) {
        for register in registers {
            text.push_str(&format!("\tmov.b32 \t{register}, 0;\n"));
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Changes with what [`compile`] makes of the same IR.
pub const REVISION: &str = " 2";

/// The data layout that libNVVM wants to read in a module.
const DATA_LAYOUT: &str = "e-p:64:64:64-i1:8:8-i8:8:8-i16:16:16-i32:32:32-i64:64:64-i128:128:128-f32:32:32-f64:64:64-v16:\
                           16:16-v32:32:32-v64:64:64-v128:128:128-n16:32:64";

/// Gives the module the data layout and version mark that libNVVM asks for.
fn adapt(ir: &str, version: [c_int; 4]) -> String {
    let mut text = String::with_capacity(ir.len() + 256);
    for line in ir.lines() {
        if line.starts_with("target datalayout") {
            text.push_str(&format!("target datalayout = \"{DATA_LAYOUT}\"\n"));
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    let [a, b, c, d] = version;
    // A number beyond all those in use.
    let mark = i32::MAX;
    text.push_str(&format!("!nvvmir.version = !{{!{mark}}}\n!{mark} = !{{i32 {a}, i32 {b}, i32 {c}, i32 {d}}}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_that_only_keeps_itself_starts_at_0() {
        let kept = "$L__BB0_2:\n\tselp.b32 \t%r2, %r1, %r2, %p1;\n\tadd.s32 \t%r20, %r2, 1;\n\t@%p2 bra $L__BB0_2;\n";
        let entry = "\tmov.b32 \t%r1, 7;\n";
        assert_eq!(defined(&format!("{entry}{kept}")), format!("{entry}\tmov.b32 \t%r2, 0;\n{kept}"));
        let written = format!("{entry}\tmov.b32 \t%r2, %r1;\n{kept}");
        assert_eq!(defined(&written), written);
    }

    #[test]
    fn the_module_gets_layout_and_version() {
        let text = adapt("target datalayout = \"e-p6:32:32\"\ndefine void @f() {\n}\n", [2, 0, 3, 2]);
        assert!(text.starts_with(&format!("target datalayout = \"{DATA_LAYOUT}\"\ndefine")), "{text}");
        assert!(text.contains("= !{i32 2, i32 0, i32 3, i32 2}"), "{text}");
    }
}
