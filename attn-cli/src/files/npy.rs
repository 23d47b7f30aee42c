//! NumPy's .npy files.

use attn_tests::precision::Precision;
use npyz::{NpyHeader, Order};

use super::{Array, FileError, Values};

/// Types of elements, in NumPy's words.
const ALLOWED: &str =
    "f2, f4, f8, i4, i8, u4 or u8, little-endian, or V2 and V1, as ml_dtypes writes bfloat16 and float8_e4m3fn";

fn incomplete(reason: impl ToString) -> FileError {
    FileError::Format { format: "npy", reason: reason.to_string() }
}

/// Reads a file's bytes; `name` is the tensor's in errors.
pub fn read(name: &str, bytes: &[u8]) -> Result<Array, FileError> {
    let mut rest = bytes;
    let header = NpyHeader::from_reader(&mut rest).map_err(incomplete)?;
    let shape: Vec<usize> =
        header.shape().iter().map(|n| usize::try_from(*n)).collect::<Result<_, _>>().map_err(incomplete)?;
    let descr = header.dtype().descr();
    let kind = descr.trim_matches('\'').trim_start_matches(['<', '|']);
    let width = match kind {
        "V1" => 1,
        "f2" | "V2" => 2,
        "f4" | "i4" | "u4" => 4,
        "f8" | "i8" | "u8" => 8,
        _ => {
            return Err(FileError::Type { name: name.to_owned(), found: descr, allowed: ALLOWED.to_owned() });
        }
    };
    let count = shape.iter().try_fold(1usize, |count, n| count.checked_mul(*n));
    let needed = count.and_then(|count| count.checked_mul(width));
    if needed != Some(rest.len()) {
        let needed = needed.map_or("more than there can be".to_owned(), |needed| needed.to_string());
        return Err(incomplete(format!("shape {shape:?} of {kind} needs {needed} bytes, {} follow", rest.len())));
    }
    let order = places(&shape, header.order());
    let at = |place: &usize| &rest[place * width..(place + 1) * width];
    let values = match kind {
        "V1" => Values::Float8(order.iter().map(|p| at(p)[0]).collect()),
        "f2" => Values::Half(Precision::F16, order.iter().map(|p| u16::from_le_bytes(fixed(at(p)))).collect()),
        "V2" => Values::Half(Precision::Bf16, order.iter().map(|p| u16::from_le_bytes(fixed(at(p)))).collect()),
        "f4" => Values::Float(order.iter().map(|p| f32::from_le_bytes(fixed(at(p)))).collect()),
        "f8" => Values::Float(order.iter().map(|p| f64::from_le_bytes(fixed(at(p))) as f32).collect()),
        "i4" => Values::Integer(order.iter().map(|p| i32::from_le_bytes(fixed(at(p))).into()).collect()),
        "u4" => Values::Integer(order.iter().map(|p| u32::from_le_bytes(fixed(at(p))).into()).collect()),
        // What is above i64 stays too large for what it is used for.
        _ => Values::Integer(order.iter().map(|p| i64::from_le_bytes(fixed(at(p)))).collect()),
    };
    Ok(Array { shape, values })
}

/// As many bytes as a number has.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

/// Where the elements lie in the file, in the order of the shape with the last dimension fastest.
fn places(shape: &[usize], order: Order) -> Vec<usize> {
    let count: usize = shape.iter().product();
    if order == Order::C || count == 0 {
        return (0..count).collect();
    }
    let mut index = vec![0; shape.len()];
    let strides: Vec<usize> = shape
        .iter()
        .scan(1, |stride, n| {
            let own = *stride;
            *stride *= n;
            Some(own)
        })
        .collect();
    let mut places = Vec::with_capacity(count);
    for _ in 0..count {
        places.push(index.iter().zip(&strides).map(|(i, stride)| i * stride).sum());
        for (i, n) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of version 1.
    fn file(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let fortran = if fortran { "True" } else { "False" };
        let mut header = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}");
        header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
        header.push('\n');
        let length = u16::try_from(header.len()).expect("short").to_le_bytes();
        [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes(), data].concat()
    }

    #[test]
    fn every_type_is_read() {
        let of = |descr: &str, data: &[u8]| read("q", &file(descr, false, "(1,)", data)).expect(descr).values;
        assert_eq!(of("'<f4'", &1.5f32.to_le_bytes()), Values::Float(vec![1.5]));
        assert_eq!(of("'<f8'", &1.5f64.to_le_bytes()), Values::Float(vec![1.5]));
        assert_eq!(of("'<f2'", &[0, 0x3c]), Values::Half(Precision::F16, vec![0x3c00]));
        assert_eq!(of("'<V2'", &[0x80, 0x3f]), Values::Half(Precision::Bf16, vec![0x3f80]));
        assert_eq!(of("'|V1'", &[0x38]), Values::Float8(vec![0x38]));
        assert_eq!(of("'<i8'", &(-3i64).to_le_bytes()), Values::Integer(vec![-3]));
        assert_eq!(of("'<u4'", &[7, 0, 0, 0]), Values::Integer(vec![7]));
    }

    #[test]
    fn columns_first_becomes_rows_first() {
        let data: Vec<u8> = [1, 2, 3, 4, 5, 6].iter().flat_map(|x: &i32| x.to_le_bytes()).collect();
        let array = read("q", &file("'<i4'", true, "(2, 3)", &data)).expect("valid");
        assert_eq!(array, Array { shape: vec![2, 3], values: Values::Integer(vec![1, 3, 5, 2, 4, 6]) });
    }

    #[test]
    fn damage_is_named() {
        let whole = file("'<f4'", false, "(2,)", &[0; 8]);
        for cut in 0..whole.len() {
            let found = read("q", &whole[..cut]).expect_err("cut short");
            assert!(matches!(found, FileError::Format { .. }), "{cut}: {found}");
        }
        let refused = |bytes: &[u8]| read("q", bytes).expect_err("not what it says").to_string();
        assert!(refused(&file("'<f4'", false, "(3,)", &[0; 8])).contains("needs 12 bytes, 8 follow"));
        assert!(refused(&file("'>f4'", false, "(2,)", &[0; 8])).contains("holds '>f4'; allowed: f2"));
        assert!(refused(&file("'|O'", false, "(2,)", &[0; 8])).contains("'|O'"));
        assert!(refused(&file("[('a', '<f4')]", false, "(2,)", &[0; 8])).contains("holds"));
        let huge = file("'<f4'", false, "(4294967296, 4294967296, 4294967296)", &[0; 8]);
        assert!(refused(&huge).contains("more than there can be"), "{}", refused(&huge));
        assert!(refused(&file("'<f4'", false, "(-1,)", &[0; 8])).contains("npy"));
    }
}
