//! Whole modules through the parser: compilers' output, and forms that parsers trip over.

use attn_sim::ptx::{
    AddressBase, CallTarget, Function, Instruction, Module, Operand, ParseErrorKind, ScalarType, Space, Symbol,
};

const ODDITIES: &str = include_str!("ptx/oddities.ptx");
const TRITON_SM90: &str = include_str!("ptx/triton_matmul_small_sm90.ptx");
const TRITON_SM100: &str = include_str!("ptx/triton_matmul_tma_sm100.ptx");

fn oddities() -> Module {
    Module::parse(ODDITIES).unwrap()
}

fn kernel(module: &Module) -> &Function {
    module.kernel("main_kernel").unwrap()
}

fn nth<'m>(function: &'m Function, form: &str, n: usize) -> &'m Instruction {
    function.code.iter().filter(|i| i.to_string() == form).nth(n).unwrap_or_else(|| panic!("no {form}"))
}

fn register_name(function: &Function, operand: &Operand) -> String {
    match operand {
        Operand::Reg(r) | Operand::NotReg(r) => function.registers[r.index()].name.clone(),
        other => panic!("{other:?} is not a register"),
    }
}

#[test]
fn compilers_modules_parse() {
    for (text, target, form) in [
        (TRITON_SM90, "sm_90a", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"),
        (TRITON_SM100, "sm_100a", "tcgen05.mma.cta_group::1.kind::f16"),
    ] {
        let module = Module::parse(text).unwrap();
        assert_eq!(module.target, [target]);
        assert!(module.version >= (8, 0));
        let kernel = module.functions.iter().find(|f| f.entry).unwrap();
        assert!(kernel.bounds.reqntid.is_some());
        assert!(nth(kernel, form, 0).line > 0);
        assert_eq!(kernel.params[0].ty, ScalarType::U64);
    }
}

#[test]
fn module_variables_have_their_shape_and_initial_bytes() {
    let module = oddities();
    assert_eq!((module.version, module.target[0].as_str()), ((9, 4), "sm_100a"));
    let find = |name: &str| module.variables.iter().find(|v| v.name == name).unwrap();
    let bytes = |name: &str| find(name).init.clone().unwrap().bytes;
    let dynamic = find("dynamic");
    assert_eq!((dynamic.space, dynamic.align, dynamic.elements, dynamic.is_extern), (Space::Shared, 1024, None, true));
    assert_eq!(find("static_b").bytes(), 32);
    let floats: Vec<u8> = [1.0f32, -2.5, 1.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    assert_eq!(bytes("table"), floats);
    assert_eq!(bytes("bytes"), [1, 2, 3, 4]);
    let rows: Vec<u8> = [-1i32, 0, 0, 0, 1, 1].iter().flat_map(|f| f.to_le_bytes()).collect();
    assert_eq!((find("grid").elements, bytes("grid")), (Some(6), rows));
    assert_eq!((find("quad").align, find("quad").elements), (16, Some(4)));
    let fixups = find("pointers").init.clone().unwrap().fixups;
    let seen: Vec<_> = fixups.iter().map(|f| (f.at, f.width, f.offset, f.generic)).collect();
    assert_eq!(seen, [(0, 8, 0, false), (8, 8, 4, true), (16, 8, 8, false)]);
    let shifts: Vec<_> = find("split").init.clone().unwrap().fixups.iter().map(|f| (f.at, f.width, f.shift)).collect();
    assert_eq!(shifts, [(0, 1, 0), (1, 1, 8)]);
}

#[test]
fn heads_carry_parameters_and_bounds() {
    let module = oddities();
    let k = kernel(&module);
    let sizes: Vec<_> = k.params.iter().map(|p| (p.ty, p.align, p.bytes)).collect();
    assert_eq!(sizes, [(ScalarType::B8, 64, 128), (ScalarType::U64, 8, 8), (ScalarType::F32, 4, 4)]);
    assert_eq!((k.bounds.reqntid, k.bounds.reqnctapercluster), (Some([512, 1, 1]), Some([2, 1, 1])));
    assert!(k.bounds.explicit_cluster);
    let names: Vec<_> = module.functions.iter().map(|f| (f.name.as_str(), f.declared_only, f.entry)).collect();
    let expected = [
        ("vprintf", true, false),
        ("twice", false, false),
        ("noop", false, false),
        ("old_style", false, false),
        ("main_kernel", false, true),
    ];
    assert_eq!(names, expected);
    assert_eq!(module.functions[3].params.iter().map(|p| p.register.is_some()).collect::<Vec<_>>(), [true, true]);
}

#[test]
fn scopes_keep_registers_and_labels_apart() {
    let module = oddities();
    let k = kernel(&module);
    let form = "mbarrier.try_wait.parity.shared::cta.b64";
    let (first, second) = (nth(k, form, 0), nth(k, form, 1));
    assert_ne!(first.operands[0], second.operands[0]);
    // The block's `%r1` is another register than the function's.
    assert_ne!(nth(k, "mov.u32", 0).operands[0], nth(k, "mov.b32", 0).operands[0]);
    assert_eq!(second.operands[2], nth(k, "mov.u32", 0).operands[0]);
    let at = |i: &Instruction| k.code.iter().position(|x| std::ptr::eq(x, i)).unwrap();
    assert_eq!(nth(k, "bra", 0).operands[0], Operand::Label(at(nth(k, "mov.b32", 0))));
    assert_eq!(nth(k, "bra.uni", 0).operands[0], Operand::Label(at(first)));
    assert_eq!(nth(k, "bra", 1).operands[0], Operand::Label(at(second)));
    assert_eq!(nth(k, "bra", 2).operands[0], Operand::Label(k.code.len()));
    let targets = vec![0, k.code.len(), k.code.len() - 1];
    assert_eq!(nth(k, "brx.idx", 0).operands[1], Operand::Targets(targets));
    assert!(nth(k, "bra", 1).guard.unwrap().negated);
}

#[test]
fn operands_of_every_kind() {
    let module = oddities();
    let k = kernel(&module);
    let pack = nth(k, "mov.b64", 0);
    assert_eq!(register_name(k, &pack.operands[0]), "fa_fwd_q_smem_desc_7");
    assert!(matches!(&pack.operands[1], Operand::Vector(v) if v[1] == Operand::Int(0x4000_4040)));
    assert!(matches!(&nth(k, "mov.b64", 1).operands[0], Operand::Vector(v) if v[1] == Operand::Sink));
    let mma = nth(k, "tcgen05.mma.cta_group::1.kind::f16", 0);
    assert!(matches!(mma.operands[0], Operand::Address(a) if a.offset == 8 && matches!(a.base, AddressBase::Reg(_))));
    assert!(mma.guard.is_some() && mma.operands[4] == Operand::Int(1));
    assert!(matches!(&nth(k, "elect.sync", 1).operands[0], Operand::Pair(a, _) if **a == Operand::Sink));
    let select = nth(k, "selp.f32", 0);
    assert_eq!(select.operands[1], Operand::Float32(0xFF80_0000));
    assert!(matches!(select.operands[3], Operand::NotReg(_)));
    assert!(matches!(&nth(k, "ld.global.nc.v4.f32", 0).operands[0], Operand::Vector(v) if v.len() == 4));
    assert_eq!(register_name(k, &nth(k, "mul.f32", 0).operands[1]), "acc.y");
    assert_eq!(nth(k, "mul.f32", 0).operands[2], Operand::Float64(0.5f64.to_bits()));
    let copy = k.code.iter().find(|i| i.opcode == "cp").unwrap();
    assert!(matches!(&copy.operands[1], Operand::Tensor { coords, .. } if coords[3] == Operand::Int(-1)));
    let element = nth(k, "ld.shared.u32", 0);
    assert!(matches!(element.operands[1], Operand::Address(a) if a.offset == 24));
    let special = nth(k, "mov.u32", 0);
    assert_eq!(special.operands[1], Operand::Special("%tid.x".into()));
    assert_eq!(nth(k, "mov.u32", 2).operands[1], Operand::Int(31));
    assert!(matches!(nth(k, "mov.u32", 1).operands[1], Operand::Symbol { offset: 8, symbol: Symbol::Variable(_) }));
}

#[test]
fn calls_in_all_their_forms() {
    let module = oddities();
    let k = kernel(&module);
    let calls: Vec<_> = k
        .code
        .iter()
        .filter(|i| i.opcode == "call")
        .map(|i| match &i.operands[0] {
            Operand::Call(call) => call,
            other => panic!("{other:?}"),
        })
        .collect();
    let shape: Vec<_> = calls.iter().map(|c| (c.returns.len(), c.args.len(), c.candidates.clone())).collect();
    assert_eq!(shape, [(1, 1, None), (1, 2, None), (0, 0, None), (1, 1, None), (1, 1, Some(vec![1]))]);
    assert_eq!(calls[0].target, CallTarget::Function(1));
    assert!(matches!(calls[0].returns[0], Operand::Symbol { symbol: Symbol::Local(_), .. }));
    assert!(matches!(calls[3].target, CallTarget::Reg(_)));
}

#[test]
fn errors_say_where_and_what() {
    let body = |code: &str| format!(".version 8.0\n.target sm_90\n.entry k() {{\n.reg .b32 %r<4>;\n{code}\n}}");
    let error = |text: &str| Module::parse(text).map(drop).unwrap_err();
    let cases: &[(&str, u32, &str)] = &[
        ("add.s32 %r1, %r2, %r9;", 5, "`%r9` is not declared"),
        ("bra NOWHERE;", 5, "`NOWHERE` is not declared"),
        ("L: ret; L: ret;", 5, "`L` is declared twice"),
        ("{ L: ret; }\nbra L;", 6, "`L` is not declared"),
        (".reg .b32 %r<2>;", 5, "`%r` is declared twice"),
        ("add.s32 %r1 %r2;", 5, "expected ;, found `%r2`"),
        ("mov.b32 %r1, 0f12;", 5, "`0f12` is not a number"),
        ("@%r9 ret;", 5, "`%r9` is not declared"),
        (".shared .align 3 .b8 x[4];", 5, ".align is 3, allowed is a power of two up to 65536"),
        ("call f;", 5, "`f` is not declared"),
    ];
    for (code, line, message) in cases {
        let e = error(&body(code));
        assert_eq!((e.at.line, e.kind.to_string().as_str()), (*line, *message), "{code}");
    }
    assert!(matches!(error(".global .texref t;").kind, ParseErrorKind::Unsupported(_)));
    assert!(matches!(error(".entry k() { ret;").kind, ParseErrorKind::Expected { .. }));
    assert!(matches!(error(".global .u8 x[2] = {1, 2, 3};").kind, ParseErrorKind::Range { .. }));
    assert!(matches!(error(&format!(".entry k() {{ mov.b32 {}", "{".repeat(500))).kind, ParseErrorKind::TooDeep(_)));
    assert_eq!(
        error(".version 8.0\n.entry k() {}\n  .entry k() {}").to_string(),
        "line 3, column 10: `k` is declared twice"
    );
}
