//! The whole pipeline on small kernels. Needs the kernel toolchain, which is fetched when it is nowhere.

use std::fs;
use std::path::PathBuf;

use super::annotate::annotate;
use super::arch::Arch;
use super::build::{self, Built, Job};
use super::declare::Declared;
use super::frontend::{self, Source};
use super::{Codegen, ir, lower, split};
use crate::toolchain::{self, Toolchain};
use crate::workspace;

/// Unoptimised IR of `fixtures/NAME`.
fn emit(toolchain: &Toolchain, name: &str, arch: Arch) -> String {
    let core = frontend::core(&toolchain.rust).unwrap();
    let root = workspace::root().join("xtask/fixtures").join(name).join("lib.rs");
    frontend::emit(&toolchain.rust, &core, Source { root: &root, name, variants: None }, arch).unwrap()
}

fn compile(toolchain: &Toolchain, name: &str, arch: Arch, codegen: Codegen) -> Built {
    let jobs = split(&emit(toolchain, name, arch), arch, "", codegen).unwrap();
    build::build(toolchain, &jobs[0]).unwrap()
}

fn ptx(built: &Built) -> String {
    fs::read_to_string(built.file("ptx")).unwrap()
}

/// A folder of its own for a test.
fn scratch(test: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("attn-xtask-{}-{test}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn a_barrier_between_divergent_branches_stays_one() {
    let toolchain = toolchain::ready().unwrap();
    let built = compile(&toolchain, "barrier", Arch::Sm90a, Codegen::Llvm);
    assert_eq!(ptx(&built).matches("bar.sync").count(), 1, "{}", ptx(&built));
    // The hazard is real: without the annotation there are two.
    let dir = scratch("barrier");
    let plain = ir::Module::parse(&emit(&toolchain, "barrier", Arch::Sm90a)).unwrap().extract("barrier", |_| false);
    fs::write(dir.join("kernel.ll"), plain.unwrap()).unwrap();
    lower::optimise(&toolchain.rust, Arch::Sm90a, "barrier", &dir.join("kernel")).unwrap();
    lower::generate(&toolchain.rust, Arch::Sm90a, &dir.join("kernel")).unwrap();
    let text = fs::read_to_string(dir.join("kernel.ptx")).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(text.matches("bar.sync").count(), 2, "{text}");
}

/// Launch bounds and tensor maps arrive in the PTX of both lanes, and ptxas takes `setmaxnreg`.
#[test]
fn what_a_kernel_declares_arrives_in_its_ptx() {
    let toolchain = toolchain::ready().unwrap();
    let mut lanes = vec![(Arch::Sm90a, Codegen::Llvm), (Arch::Sm100a, Codegen::Llvm), (Arch::Sm103a, Codegen::Llvm)];
    if toolchain.cuda.libnvvm.is_some() {
        lanes.extend([(Arch::Sm100a, Codegen::Nvvm), (Arch::Sm103a, Codegen::Nvvm)]);
    }
    for (arch, codegen) in lanes {
        let built = compile(&toolchain, "bounds", arch, codegen);
        let text = ptx(&built);
        for part in [".maxntid 384", ".minnctapersm 1", ".maxnreg 168", ".reqnctapercluster 2", "bounds_param_1[128]"] {
            assert!(text.contains(part), "{arch:?} {codegen:?}: no {part} in\n{text}");
        }
        assert_eq!(built.ptx_version, arch.oldest_ptx().to_string(), "{codegen:?}");
        assert_eq!(built.resources.defects(), Vec::<String>::new(), "{arch:?} {codegen:?}");
        assert_eq!((built.resources.registers, built.smem_dynamic), (168, 1024), "{arch:?} {codegen:?}");
    }
}

#[test]
fn hopper_has_no_nvvm_lane_and_the_error_says_what_to_do() {
    let toolchain = toolchain::ready().unwrap();
    let jobs = split(&emit(&toolchain, "bounds", Arch::Sm90a), Arch::Sm90a, "", Codegen::Nvvm).unwrap();
    let error = format!("{:#}", build::build(&toolchain, &jobs[0]).unwrap_err());
    assert!(error.contains("LLVM 7") && error.contains("--codegen llvm"), "{error}");
}

#[test]
fn building_twice_gives_the_same_bytes() {
    let toolchain = toolchain::ready().unwrap();
    let text = emit(&toolchain, "bounds", Arch::Sm90a);
    let files: Vec<_> = ["first", "second"]
        .map(|run| {
            let dir = scratch(run);
            let job = split(&text, Arch::Sm90a, "", Codegen::Llvm).unwrap().remove(0);
            build::compile(&toolchain, &job, &dir).unwrap();
            let read = |extension| fs::read(dir.join("kernel").with_extension(extension)).unwrap();
            let files = (read("ptx"), read("cubin"));
            fs::remove_dir_all(&dir).unwrap();
            files
        })
        .into();
    assert!(files[0] == files[1]);
}

/// A kernel's own module is the same whatever else the crate holds, so that only what was edited is compiled again.
#[test]
fn a_kernel_does_not_change_with_its_neighbours() {
    let one = "module asm \"//@kernel a maxntid=32\"\ndefine ptx_kernel void @a() #0 {\n  ret void, !srcloc !7\n}\n\
               attributes #0 = { nounwind }\n!7 = !{i64 1}\n";
    let two = "module asm \"//@kernel b maxntid=64\"\nmodule asm \"//@kernel a maxntid=32\"\n@x = constant i8 1\n\
               define ptx_kernel void @b() #0 {\n  store i8 1, ptr @x\n  ret void\n}\n\
               define ptx_kernel void @a() #1 {\n  ret void, !srcloc !9\n}\n\
               attributes #0 = { cold }\nattributes #1 = { nounwind }\n!9 = !{i64 2}\n";
    let of = |text: &str| -> Job {
        let jobs = split(text, Arch::Sm90a, "", Codegen::Llvm).unwrap();
        jobs.into_iter().find(|job| job.declared.name == "a").unwrap()
    };
    assert_eq!(of(one).ir, of(two).ir);
    assert!(!of(two).ir.contains("@x"));
}

/// rustc numbers constants without a name over the whole crate: their content is what counts.
#[test]
fn constants_are_named_by_their_content() {
    let of = |text: &str| split(text, Arch::Sm90a, "", Codegen::Llvm).unwrap().remove(0).ir;
    let kernel = |module: &str, first: usize, other: &str| {
        let (a, b) = (format!("@anon.{module}.{first}"), format!("@anon.{module}.{}", first + 1));
        format!(
            "module asm \"//@kernel a maxntid=32\"\n{a} = private unnamed_addr constant i8 {other}\n\
             {b} = private unnamed_addr constant ptr {a}\ndefine ptx_kernel void @a() {{\n  store ptr {b}, ptr {a}\n  ret void\n}}\n"
        )
    };
    assert_eq!(of(&kernel("0f", 3, "7")), of(&kernel("a1", 40, "7")));
    assert_ne!(of(&kernel("0f", 3, "7")), of(&kernel("0f", 3, "8")));
}

#[test]
fn calls_that_remain_are_refused() {
    let declared = Declared::parse("//@kernel k maxntid=32").unwrap().unwrap();
    let text = "target triple = \"nvptx64-nvidia-cuda\"\ndeclare void @elsewhere()\n\
                define ptx_kernel void @k() {\n  call void @elsewhere()\n  ret void\n}\n";
    let mut module = ir::Module::parse(text).unwrap();
    annotate(&mut module, std::slice::from_ref(&declared)).unwrap();
    let ir = module.extract("k", |_| false).unwrap();
    let job = Job { arch: Arch::Sm90a, codegen: Codegen::Llvm, declared, ir };
    let toolchain = toolchain::ready().unwrap();
    let dir = scratch("calls");
    let error = format!("{:#}", build::compile(&toolchain, &job, &dir).unwrap_err());
    fs::remove_dir_all(&dir).unwrap();
    assert!(error.contains("was not inlined"), "{error}");
}
