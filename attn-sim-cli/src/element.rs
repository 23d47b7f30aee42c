//! Element types of buffers and scalars, by the names that specs use.

use attn_sim::tensor_map::DataType;
use half::{bf16, f16};
use safetensors::Dtype;

/// A type of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the type of its name
pub enum Element {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    Bf16,
    F32,
    F64,
    E4m3,
    E5m2,
}

/// Name, bytes, safetensors type, tensor map type.
const ELEMENTS: [(Element, &str, usize, Dtype, DataType); 14] = [
    (Element::U8, "u8", 1, Dtype::U8, DataType::Uint8),
    (Element::U16, "u16", 2, Dtype::U16, DataType::Uint16),
    (Element::U32, "u32", 4, Dtype::U32, DataType::Uint32),
    (Element::U64, "u64", 8, Dtype::U64, DataType::Uint64),
    (Element::S8, "s8", 1, Dtype::I8, DataType::Uint8),
    (Element::S16, "s16", 2, Dtype::I16, DataType::Uint16),
    (Element::S32, "s32", 4, Dtype::I32, DataType::Int32),
    (Element::S64, "s64", 8, Dtype::I64, DataType::Int64),
    (Element::F16, "f16", 2, Dtype::F16, DataType::Float16),
    (Element::Bf16, "bf16", 2, Dtype::BF16, DataType::Bfloat16),
    (Element::F32, "f32", 4, Dtype::F32, DataType::Float32),
    (Element::F64, "f64", 8, Dtype::F64, DataType::Float64),
    (Element::E4m3, "e4m3", 1, Dtype::F8_E4M3, DataType::Uint8),
    (Element::E5m2, "e5m2", 1, Dtype::F8_E5M2, DataType::Uint8),
];

impl Element {
    /// The names of all types.
    pub fn names() -> String {
        ELEMENTS.map(|(_, name, ..)| name).join(", ")
    }

    /// The type of a name.
    pub fn parse(name: &str) -> Option<Self> {
        ELEMENTS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The type of a tensor in a file.
    pub fn of_file(dtype: Dtype) -> Option<Self> {
        ELEMENTS.iter().find(|row| row.3 == dtype).map(|row| row.0)
    }

    fn row(self) -> &'static (Element, &'static str, usize, Dtype, DataType) {
        ELEMENTS.iter().find(|row| row.0 == self).unwrap_or(&ELEMENTS[0])
    }

    /// The name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        self.row().2
    }

    /// The type in a file.
    pub fn dtype(self) -> Dtype {
        self.row().3
    }

    /// The type in a tensor map; 8-bit floats travel as bytes.
    pub fn map_type(self) -> DataType {
        self.row().4
    }

    /// Whether values are integers.
    fn is_integer(self) -> bool {
        use Element::*;
        matches!(self, U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64)
    }

    /// A number, rounded to nearest; `None` where an integer type does not hold it, or for 8-bit floats other than zero.
    pub fn encode(self, value: f64) -> Option<Vec<u8>> {
        if self.is_integer() {
            let whole = value as i128;
            return (whole as f64 == value).then(|| self.encode_integer(whole)).flatten();
        }
        Some(match self {
            Element::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Element::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Element::F32 => (value as f32).to_le_bytes().to_vec(),
            Element::F64 => value.to_le_bytes().to_vec(),
            _ => return (value == 0.0).then(|| vec![0]),
        })
    }

    /// A number from its text: `7`, `-1`, `0xff`, `0.125`, `inf`, `nan`. Hexadecimal is the bits of any type.
    pub fn read(self, text: &str) -> Option<Vec<u8>> {
        if let Some(digits) = text.strip_prefix("0x") {
            let bits = u64::from_str_radix(digits, 16).ok()?;
            let bytes = bits.to_le_bytes();
            return bytes[self.bytes()..].iter().all(|byte| *byte == 0).then(|| bytes[..self.bytes()].to_vec());
        }
        if self.is_integer() {
            return text.parse().ok().and_then(|value| self.encode_integer(value));
        }
        text.parse().ok().and_then(|value| self.encode(value))
    }

    fn encode_integer(self, value: i128) -> Option<Vec<u8>> {
        let bits = 8 * self.bytes() as u32;
        let signed = matches!(self, Element::S8 | Element::S16 | Element::S32 | Element::S64);
        let (low, high) =
            if signed { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
        (low..=high).contains(&value).then(|| value.to_le_bytes()[..self.bytes()].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_or_refused() {
        assert_eq!(Element::U8.read("255"), Some(vec![255]));
        assert_eq!(Element::U8.read("256"), None);
        assert_eq!(Element::S8.read("-128"), Some(vec![0x80]));
        assert_eq!(Element::U32.read("1.5"), None);
        assert_eq!(Element::F32.read("0x3f800000"), Element::F32.read("1"));
        assert_eq!(Element::Bf16.read("0x10000"), None);
        assert_eq!(Element::Bf16.read("1.5"), Some(vec![0xc0, 0x3f]));
        assert_eq!(Element::U64.read("0xffffffffffffffff"), Some(vec![0xff; 8]));
        assert_eq!(Element::S32.encode(-2.0), Some(vec![0xfe, 0xff, 0xff, 0xff]));
        assert_eq!(Element::E4m3.encode(1.0), None);
    }

    #[test]
    fn names_round_trip() {
        for (element, name, bytes, ..) in ELEMENTS {
            assert_eq!((Element::parse(name), element.name(), element.bytes()), (Some(element), name, bytes));
        }
    }
}
