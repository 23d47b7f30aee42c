//! Reading an instruction's modifiers: whatever is not understood makes the form unsupported.

use crate::machine::decode::Decode;
use crate::num::format::{Format, Rounding};
use crate::ptx::ScalarType;
use crate::report::Unsupported;

/// The modifiers that have not been understood yet.
pub(super) struct Form<'d, 'a> {
    pub(super) d: &'d Decode<'a>,
    pub(super) left: Vec<&'a str>,
}

impl<'d, 'a> Form<'d, 'a> {
    /// All of them.
    pub(super) fn new(d: &'d Decode<'a>) -> Self {
        Form { d, left: d.modifiers().collect() }
    }

    /// Takes a modifier; whether it was there.
    pub(super) fn take(&mut self, modifier: &str) -> bool {
        let at = self.left.iter().position(|m| *m == modifier);
        at.map(|i| self.left.remove(i)).is_some()
    }

    /// Takes the first modifier that `read` knows.
    pub(super) fn find<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, found) = self.left.iter().enumerate().find_map(|(i, m)| Some((i, read(m)?)))?;
        self.left.remove(at);
        Some(found)
    }

    /// Takes the first modifier of a list.
    pub(super) fn choice<T: Copy>(&mut self, list: &[(&str, T)]) -> Option<T> {
        self.find(|m| list.iter().find(|(name, _)| *name == m).map(|(_, value)| *value))
    }

    /// Takes a modifier of a list that must be there.
    pub(super) fn required<T: Copy>(&mut self, what: &str, list: &[(&str, T)]) -> Result<T, Unsupported> {
        self.choice(list).ok_or_else(|| self.d.unsupported(format!("{what} is missing or unknown")))
    }

    /// Takes the last modifier, a type.
    pub(super) fn ty(&mut self) -> Result<ScalarType, Unsupported> {
        let ty = self.left.last().and_then(|m| ScalarType::parse(m));
        let ty = ty.ok_or_else(|| self.d.unsupported("no type that is known at its end"))?;
        self.left.pop();
        Ok(ty)
    }

    /// Takes the last modifiers, which were read otherwise.
    pub(super) fn take_last(&mut self, count: usize) {
        self.left.truncate(self.left.len().saturating_sub(count));
    }

    /// Takes a rounding, `.rn` and its like.
    pub(super) fn rounding(&mut self) -> Option<Rounding> {
        let list = [
            ("rn", Rounding::Nearest),
            ("rz", Rounding::Zero),
            ("rm", Rounding::Down),
            ("rp", Rounding::Up),
            ("rna", Rounding::NearestAway),
        ];
        self.choice(&list)
    }

    /// All modifiers have been understood, and there are so many operands.
    pub(super) fn done(self, operands: std::ops::RangeInclusive<usize>) -> Result<(), Unsupported> {
        if let Some(modifier) = self.left.first() {
            return Err(self.d.unsupported(format!("the modifier .{modifier} in this place")));
        }
        if !operands.contains(&self.d.operands()) {
            return Err(self.d.unsupported(format!("{} operands", self.d.operands())));
        }
        Ok(())
    }
}

/// The low `bits` of a word.
pub(super) const fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// The low `bits` of a word as a signed number.
pub(super) const fn signed(value: u64, bits: u32) -> i64 {
    ((value << (64 - bits)) as i64) >> (64 - bits)
}

/// The format of a floating-point type, and how many of it lie in a register.
pub(super) fn float(ty: ScalarType) -> Option<(Format, u32)> {
    Some(match ty {
        ScalarType::F16 => (Format::F16, 1),
        ScalarType::F16x2 => (Format::F16, 2),
        ScalarType::Bf16 => (Format::BF16, 1),
        ScalarType::Bf16x2 => (Format::BF16, 2),
        ScalarType::F32 => (Format::F32, 1),
        ScalarType::F32x2 => (Format::F32, 2),
        ScalarType::F64 => (Format::F64, 1),
        _ => return None,
    })
}

/// Bits of an integer type that does arithmetic, and whether it is signed.
pub(super) fn integer(ty: ScalarType) -> Option<(u32, bool)> {
    use ScalarType::*;
    matches!(ty, U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64).then(|| (ty.bits(), ty.is_signed()))
}
