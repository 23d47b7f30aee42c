//! What the language cannot say about a kernel, written into its IR.
//!
//! - Every function and every inline-asm call with side effects becomes `convergent`, as clang does for CUDA. Without
//!   it LLVM may copy a barrier into both sides of a branch.
//! - Functions that are not kernels become `internal` and `alwaysinline`: a kernel is one piece of code without calls.
//! - A kernel gets its launch bounds. ptxas ignores `setmaxnreg` unless the register count at entry is known.
//! - Tensor maps, `*const TensorMap` in Rust, become 128 bytes by value in parameter space, where the TMA unit reads
//!   them.

use anyhow::{Context, Result, bail};

use super::declare::Declared;
use super::ir::{Kind, Module};
use super::scan::{Token, closing, literal_end, tokens};

/// Annotates every function of `module`; `declared` are the kernels' own declarations.
pub fn annotate(module: &mut Module, declared: &[Declared]) -> Result<()> {
    let groups: Vec<u32> = module.attribute_groups().collect();
    let refuses: Vec<u32> = groups.into_iter().filter(|&group| refuses_inlining(module.attributes(group))).collect();
    for (name, function) in module.functions_mut() {
        let head_end = function.text.find('\n').unwrap_or(function.text.len());
        let (head, body) = function.text.split_at(head_end);
        let head = match function.kind {
            Kind::Kernel => {
                let kernel = declared.iter().find(|kernel| kernel.name == name).with_context(|| {
                    format!("kernel {name} has no `//@kernel {name} maxntid=...` line in a global_asm!")
                })?;
                let head = tensor_maps(head, kernel).with_context(|| format!("in kernel {name}"))?;
                function_attributes(&head, &format!("convergent {}", kernel.attributes()))?
            }
            _ => {
                let groups = tokens(head).into_iter().map(|(_, token)| token);
                let inline = !groups.into_iter().any(|t| matches!(t, Token::Attributes(n) if refuses.contains(&n)));
                function_attributes(&internal(head), if inline { "convergent alwaysinline" } else { "convergent" })?
            }
        };
        function.text = head + &body.lines().map(convergent_call).collect::<Vec<_>>().join("\n");
    }
    Ok(())
}

fn refuses_inlining(attributes: &str) -> bool {
    attributes.split_whitespace().any(|attribute| matches!(attribute, "noinline" | "optnone" | "cold"))
}

/// Gives a function internal linkage, so that nothing remains of it once it is inlined.
fn internal(head: &str) -> String {
    const LINKAGE: &[&str] = &[
        "private",
        "internal",
        "available_externally",
        "linkonce",
        "linkonce_odr",
        "weak",
        "weak_odr",
        "external",
        "dso_local",
        "dso_preemptable",
        "default",
        "hidden",
        "protected",
    ];
    let mut rest = head.strip_prefix("define ").unwrap_or(head);
    while let Some((_, after)) = rest.split_once(' ').filter(|(word, _)| LINKAGE.contains(word)) {
        rest = after;
    }
    format!("define internal {rest}")
}

/// Adds attributes at the end of a `define` line.
fn function_attributes(head: &str, attributes: &str) -> Result<String> {
    let start = head.strip_suffix(" {").with_context(|| format!("`{head}` does not end in an open brace"))?;
    Ok(format!("{start} {attributes} {{"))
}

/// Adds `convergent` to the inline-asm call on this line, if there is one with side effects.
fn convergent_call(line: &str) -> String {
    let Some(end) = effectful_asm_end(line) else { return line.to_owned() };
    let (call, rest) = line.split_at(end);
    format!("{call} convergent{rest}")
}

/// The place after the arguments of a side-effecting inline-asm call.
fn effectful_asm_end(line: &str) -> Option<usize> {
    const MARK: &str = " asm sideeffect ";
    let at = line.find(MARK)?;
    if line[..at].contains('"') || !line[..at].contains("call ") {
        return None;
    }
    let code = at + line[at..].find('"')?;
    let constraints = literal_end(line.as_bytes(), code);
    let constraints = constraints + line[constraints..].find('"')?;
    let arguments = literal_end(line.as_bytes(), constraints);
    closing(line, arguments)
}

/// Rewrites the parameters that are tensor maps.
fn tensor_maps(head: &str, kernel: &Declared) -> Result<String> {
    let name = head.find(&format!("@{}(", kernel.name)).context("the definition does not name the kernel")?;
    let open = name + kernel.name.len() + 1;
    let end = closing(head, open).context("the parameter list does not end")?;
    let mut parameters = split_parameters(&head[open + 1..end - 1]);
    let count = parameters.len();
    for &position in &kernel.tensormap {
        let parameter = parameters.get_mut(position).with_context(|| {
            format!("tensormap={position}, but the kernel has only the parameters 0 to {}", count.saturating_sub(1))
        })?;
        let name = parameter.rsplit(' ').next().unwrap_or_default();
        if !parameter.starts_with("ptr ") || !name.starts_with('%') {
            bail!("tensormap={position}, but that parameter is `{parameter}` and not a pointer");
        }
        *parameter = format!("ptr noundef byval([128 x i8]) align 64 \"nvvm.grid_constant\" {name}");
    }
    Ok(format!("{}({}){}", &head[..open], parameters.join(", "), &head[end..]))
}

/// Cuts a parameter list at its outermost commas.
fn split_parameters(list: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < list.len() {
        at = match list.as_bytes()[at] {
            b'"' => literal_end(list.as_bytes(), at),
            b'(' | b'[' | b'{' | b'<' => closing(list, at).unwrap_or(list.len()),
            b',' => {
                parts.push(list[start..at].trim().to_owned());
                start = at + 1;
                start
            }
            _ => at + 1,
        };
    }
    if !list[start..].trim().is_empty() {
        parts.push(list[start..].trim().to_owned());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(line: &str) -> Declared {
        Declared::parse(line).unwrap().unwrap()
    }

    #[test]
    fn asm_with_side_effects_becomes_convergent() {
        let line = r#"  call void asm sideeffect alignstack "bar.sync 0;", "~{memory}"(), !srcloc !7"#;
        let want = r#"  call void asm sideeffect alignstack "bar.sync 0;", "~{memory}"() convergent, !srcloc !7"#;
        assert_eq!(convergent_call(line), want);
        let line = r#"  %1 = call { i32, i32 } asm sideeffect "f ($0);", "=r,=r,l,~{memory}"(ptr @"a)(b") #3"#;
        let want =
            r#"  %1 = call { i32, i32 } asm sideeffect "f ($0);", "=r,=r,l,~{memory}"(ptr @"a)(b") convergent #3"#;
        assert_eq!(convergent_call(line), want);
    }

    #[test]
    fn pure_asm_and_ordinary_calls_stay() {
        for line in [
            r#"  %6 = call i32 asm "mov.u32 ${0}, %tid.x;", "=&r"() #8"#,
            r#"  call void @f(ptr %x) #1"#,
            r#"  store [24 x i8] c" call asm sideeffect \22", ptr %x"#,
        ] {
            assert_eq!(convergent_call(line), line);
        }
    }

    #[test]
    fn tensor_maps_are_passed_by_value() {
        let head = "define ptx_kernel void @k([8 x i64] %0, ptr noundef %q, ptr noalias noundef align 64 \
                    dereferenceable(128) %k, ptr %out) unnamed_addr #0 {";
        let want = "define ptx_kernel void @k([8 x i64] %0, ptr noundef byval([128 x i8]) align 64 \
                    \"nvvm.grid_constant\" %q, ptr noundef byval([128 x i8]) align 64 \"nvvm.grid_constant\" %k, ptr \
                    %out) unnamed_addr #0 {";
        assert_eq!(tensor_maps(head, &kernel("//@kernel k maxntid=384 tensormap=1,2")).unwrap(), want);
    }

    #[test]
    fn a_tensor_map_must_be_a_pointer_that_exists() {
        let head = "define ptx_kernel void @k([8 x i64] %0, ptr %q) #0 {";
        let wrong = tensor_maps(head, &kernel("//@kernel k maxntid=1 tensormap=0")).unwrap_err().to_string();
        assert!(wrong.contains("[8 x i64] %0"), "{wrong}");
        let beyond = tensor_maps(head, &kernel("//@kernel k maxntid=1 tensormap=2")).unwrap_err().to_string();
        assert!(beyond.contains("0 to 1"), "{beyond}");
    }

    #[test]
    fn functions_become_convergent_and_inlined_and_kernels_bounded() {
        let mut module = Module::parse(
            "define internal void @f() unnamed_addr #0 {\n  ret void\n}\n\
             define hidden void @slow() unnamed_addr #1 {\n  ret void\n}\n\
             define ptx_kernel void @k() unnamed_addr #0 {\n  call void @f()\n  call void @slow()\n  ret void\n}\n\
             attributes #0 = { nounwind }\nattributes #1 = { cold noreturn }\n",
        )
        .unwrap();
        annotate(&mut module, &[kernel("//@kernel k maxntid=384 minctasm=1 maxnreg=168 cluster=2,1,1")]).unwrap();
        let text = module.extract("k", |_| false).unwrap();
        assert!(text.contains("define internal void @slow()"), "{text}");
        assert!(text.contains("@f() unnamed_addr #0 convergent alwaysinline {"), "{text}");
        assert!(text.contains("@slow() unnamed_addr #2 convergent {") || text.contains("#1 convergent {"), "{text}");
        let bounds = "convergent \"nvvm.maxntid\"=\"384\" \"nvvm.minctasm\"=\"1\" \"nvvm.maxnreg\"=\"168\" \
                      \"nvvm.cluster_dim\"=\"2,1,1\" {";
        assert!(text.contains(bounds), "{text}");
    }

    #[test]
    fn a_kernel_without_a_declaration_is_refused() {
        let mut module = Module::parse("define ptx_kernel void @k() {\n  ret void\n}\n").unwrap();
        assert!(annotate(&mut module, &[]).unwrap_err().to_string().contains("//@kernel k"));
    }
}
