//! Instructions by what they do.

use super::parse::Instruction;

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Matrix multiplies, and what commits and orders them.
    Tensor,
    /// Special functions, exp2 above all.
    Mufu,
    /// Arithmetic of the FMA pipe.
    Fma,
    /// Maxima, comparisons, logic, integer additions, packing to 16 bits: the ALU pipe.
    Alu,
    /// Conversions that the special-function unit does.
    Convert,
    /// One value per warp.
    Uniform,
    /// Loads and stores of tensor memory.
    TensorMemory,
    /// Loads and stores of shared memory, shuffles.
    Shared,
    /// Loads and stores of global memory.
    Global,
    /// Asynchronous copies between global and shared memory.
    Copy,
    /// Local memory: spilled registers.
    Local,
    /// Barriers, fences, votes.
    Barrier,
    /// Jumps and what prepares them.
    Control,
    /// Registers filled from registers, constants and special registers.
    Move,
    /// Instructions that this program does not know.
    Unknown,
}

impl Class {
    /// Every class, in the order of the table.
    pub const ALL: [Class; 15] = [
        Class::Tensor,
        Class::Mufu,
        Class::Fma,
        Class::Alu,
        Class::Convert,
        Class::Uniform,
        Class::TensorMemory,
        Class::Shared,
        Class::Global,
        Class::Copy,
        Class::Local,
        Class::Barrier,
        Class::Control,
        Class::Move,
        Class::Unknown,
    ];

    /// Its row's title.
    pub const fn title(self) -> &'static str {
        match self {
            Class::Tensor => "tensor",
            Class::Mufu => "MUFU",
            Class::Fma => "FMA pipe",
            Class::Alu => "ALU pipe",
            Class::Convert => "conversions",
            Class::Uniform => "uniform datapath",
            Class::TensorMemory => "TMEM",
            Class::Shared => "shared, shuffles",
            Class::Global => "global",
            Class::Copy => "TMA, cp.async",
            Class::Local => "local (spills)",
            Class::Barrier => "barriers, fences",
            Class::Control => "control",
            Class::Move => "moves",
            Class::Unknown => "unknown",
        }
    }
}

/// The class of `instruction`; none for what is not in the table.
pub fn class(instruction: &Instruction) -> Option<Class> {
    Some(match instruction.base() {
        "HGMMA" | "QGMMA" | "IGMMA" | "BGMMA" | "UTCHMMA" | "UTCQMMA" | "UTCOMMA" | "UTCIMMA" | "HMMA" | "IMMA"
        | "QMMA" | "OMMA" | "DMMA" | "UTCBAR" | "UTCCP" | "UTCSHIFT" | "UTCATOMSWS" | "WARPGROUP" | "UTCSTSWS"
        | "UTCLDSWS" => Class::Tensor,
        "MUFU" => Class::Mufu,
        _ if is_move(instruction) => Class::Move,
        "FFMA" | "FMUL" | "FADD" | "FFMA2" | "FMUL2" | "FADD2" | "FFMA32I" | "FMUL32I" | "FADD32I" | "FHADD"
        | "FHFMA" | "FSWZADD" | "HFMA2" | "HADD2" | "HMUL2" | "IMAD" | "IMUL" | "IDP" | "IDP4A" | "DFMA" | "DADD"
        | "DMUL" => Class::Fma,
        "FMNMX" | "FMNMX3" | "HMNMX2" | "VHMNMX" | "FSEL" | "FSET" | "FSETP" | "FCHK" | "HSET2" | "HSETP2" | "LOP3"
        | "LOP" | "LOP32I" | "ISETP" | "IADD" | "IADD3" | "IADD32I" | "IABS" | "IMNMX" | "VIADD" | "VIADDMNMX"
        | "VIMNMX" | "VIMNMX3" | "VABSDIFF" | "VABSDIFF4" | "LEA" | "SHF" | "SHL" | "SHR" | "SGXT" | "BMSK"
        | "PRMT" | "SEL" | "F2FP" | "I2FP" | "P2R" | "R2P" | "PLOP3" | "PSETP" | "I2IP" | "F2IP" => Class::Alu,
        "F2F" | "F2I" | "I2F" | "I2I" | "FRND" | "POPC" | "FLO" | "BREV" => Class::Convert,
        "LDTM" | "STTM" => Class::TensorMemory,
        "LDS" | "STS" | "LDSM" | "STSM" | "ATOMS" | "SHFL" | "STAS" | "REDAS" | "MOVM" => Class::Shared,
        "LDG" | "STG" | "LD" | "ST" | "ATOM" | "ATOMG" | "RED" | "REDG" | "CCTL" | "CCTLL" | "TLD" => Class::Global,
        "UTMALDG" | "UTMASTG" | "UTMAREDG" | "UBLKCP" | "UBLKRED" | "UBLKPF" | "UTMAPF" | "UTMACCTL"
        | "UTMACMDFLUSH" | "LDGSTS" | "LDGDEPBAR" | "ARRIVES" => Class::Copy,
        "LDL" | "STL" => Class::Local,
        "SYNCS" | "BAR" | "B2R" | "R2B" | "MEMBAR" | "FENCE" | "ERRBAR" | "CGAERRBAR" | "DEPBAR" | "WARPSYNC"
        | "VOTE" | "VOTEU" | "ELECT" | "MATCH" | "REDUX" | "CREDUX" | "NANOSLEEP" | "UCGABAR_ARV" | "UCGABAR_WAIT"
        | "ACQBULK" | "PREEXIT" | "ACQSHMINIT" | "USETMAXREG" | "UVIRTCOUNT" | "ENDCOLLECTIVE" | "UGETNEXTWORKID" => {
            Class::Barrier
        }
        "BRA" | "JMP" | "BRX" | "BRXU" | "JMX" | "JMXU" | "EXIT" | "RET" | "CALL" | "BSSY" | "BSYNC" | "BREAK"
        | "YIELD" | "NOP" | "KILL" | "BPT" | "BMOV" | "RPCMOV" => Class::Control,
        name if name.starts_with('U') && UNIFORM.contains(&&name[1..]) => Class::Uniform,
        "R2UR" | "UR2UP" | "UP2UR" | "UF2F" | "UI2F" => Class::Uniform,
        _ => return None,
    })
}

/// What the uniform datapath does, without the U.
const UNIFORM: &[&str] = &[
    "MOV",
    "IADD3",
    "IMAD",
    "ISETP",
    "LOP3",
    "LOP",
    "SEL",
    "SHF",
    "SGXT",
    "LEA",
    "PRMT",
    "PLOP3",
    "POPC",
    "FLO",
    "BREV",
    "BMSK",
    "IMNMX",
    "VIMNMX",
    "VIADD",
    "IABS",
    "FADD",
    "FMUL",
    "FFMA",
    "FSETP",
    "FSEL",
    "FMNMX",
    "F2FP",
    "I2FP",
    "PSETP",
    "F2I",
    "F2IP",
    "I2IP",
    "FRND",
    "STGR",
    "REDGR",
    "FSET",
    "CLEA",
    "LEPC",
    "VIADDMNMX",
];

/// Whether it only fills a register, whatever its name.
fn is_move(instruction: &Instruction) -> bool {
    match instruction.base() {
        "MOV" | "MOV32I" | "CS2R" | "S2R" | "S2UR" | "CS2UR" | "LDC" | "LDCU" | "ULDC" | "UMOV32I" => true,
        "IMAD" => instruction.has("MOV") || (instruction.has("U32") && zero_product(instruction)),
        // 0 * 0 + constant: a move that ptxas gives to the FMA pipe.
        "HFMA2" => zero_product(instruction),
        _ => false,
    }
}

/// Whether both factors are the zero register.
fn zero_product(instruction: &Instruction) -> bool {
    instruction.operands.iter().skip(1).take(2).all(|operand| operand.trim_start_matches('-') == "RZ")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sass_report::parse::kernels;

    /// The instruction in `code`.
    pub fn parsed(code: &str) -> Instruction {
        let text = format!("\t.target\tsm_100a\n\t.section\t.text.k,\"ax\"\n        /*0000*/ {code} ;\n");
        kernels(&text).unwrap()[0].instructions[0].clone()
    }

    #[test]
    fn instructions_have_classes() {
        for (code, expected) in [
            ("UTCHMMA gdesc[UR4], gdesc[UR12], tmem[UR11], tmem[UR20], idesc[UR21], !UPT", Class::Tensor),
            ("@P0 MUFU.EX2 R1, R2", Class::Mufu),
            ("FFMA2.FTZ R16, R12.F32x2.HI_LO, R17.F32, 0.5", Class::Fma),
            ("IMAD.WIDE.U32 R2, R3, R4, RZ", Class::Fma),
            ("IMAD.MOV.U32 R2, RZ, RZ, R4", Class::Move),
            ("IMAD.U32 R7, RZ, RZ, UR43", Class::Move),
            ("HFMA2 R17, -RZ, RZ, 1.4033203125, -85.1875", Class::Move),
            ("HFMA2 R17, R3, R4, R5", Class::Fma),
            ("F2FP.BF16.F32.PACK_AB R25, R26, R25", Class::Alu),
            ("FMNMX3.FTZ R10, R8, R9, R7, !PT", Class::Alu),
            ("I2F.U32.RP R2, UR46", Class::Convert),
            ("UIADD3 UR12, UP2, UR38, 0x170, URZ", Class::Uniform),
            ("UMOV UR4, 0x1", Class::Uniform),
            ("LDTM.x32 R8, tmem[UR8]", Class::TensorMemory),
            ("SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR33], R2", Class::Barrier),
            ("UTMALDG.4D [UR32], [UR16]", Class::Copy),
            ("STL [R1], R2", Class::Local),
            ("BRA `(.L_x_1)", Class::Control),
        ] {
            assert_eq!(class(&parsed(code)), Some(expected), "{code}");
        }
        assert_eq!(class(&parsed("FROB R1, R2")), None);
        assert_eq!(class(&parsed("UFROB UR1, UR2")), None);
    }
}
