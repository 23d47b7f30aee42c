//! A spec's buffers in the simulated memory, and its parameters as bytes.

use std::collections::BTreeMap;
use std::path::Path;

use attn_sim::Gpu;
use attn_sim::tensor_map::{EncodeError, EncodeTiled, Interleave, L2Promotion, OobFill, Swizzle};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::element::Element;
use crate::spec::{Buffer, Fill, Map, Source, Spec, Value};

/// A buffer with what it holds before a launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    /// Type of its elements.
    pub element: Element,
    /// Elements in each dimension, outermost first.
    pub shape: Vec<usize>,
    /// Its bytes; zeros where it was never written.
    pub bytes: Vec<u8>,
    /// Whether it was written.
    pub written: bool,
}

/// Buffers by name, in the order of the spec.
pub type All = Vec<(String, Filled)>;

/// Why buffers or parameters cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// A file.
    #[error("buffer `{name}`: {path}: {why}")]
    File {
        /// The buffer.
        name: String,
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A fill's numbers do not fit the type.
    #[error("buffer `{name}`: {number} is no {element}")]
    Number {
        /// The buffer.
        name: String,
        /// The number.
        number: f64,
        /// The type.
        element: &'static str,
    },
    /// A tensor map.
    #[error("map of `{name}`: {source}")]
    Map {
        /// The buffer.
        name: String,
        /// The rule that its arguments break.
        source: EncodeError,
    },
    /// A parameter of another size than the kernel's.
    #[error("parameter {index} is {got} bytes, kernel {kernel} takes {need}")]
    Size {
        /// The kernel.
        kernel: String,
        /// Which parameter, from 0.
        index: usize,
        /// Its bytes.
        got: usize,
        /// The kernel's.
        need: u64,
    },
}

/// Reads files and makes numbers.
pub fn fill(spec: &Spec) -> Result<All, BufferError> {
    spec.buffers.iter().map(|buffer| Ok((buffer.name.clone(), filled(buffer)?))).collect()
}

fn filled(buffer: &Buffer) -> Result<Filled, BufferError> {
    match &buffer.source {
        Source::File { path, tensor } => from_file(path, tensor).map_err(|why| BufferError::File {
            name: buffer.name.clone(),
            path: path.clone(),
            why,
        }),
        Source::Made { element, shape, fill } => {
            let (element, count) = (*element, shape.iter().product());
            let bytes = made(element, count, fill).map_err(|number| BufferError::Number {
                name: buffer.name.clone(),
                number,
                element: element.name(),
            })?;
            Ok(Filled { element, shape: shape.clone(), bytes, written: *fill != Fill::Unwritten })
        }
    }
}

fn from_file(path: &str, tensor: &str) -> Result<Filled, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?;
    let view = file.tensor(tensor).map_err(|_| {
        let mut have = file.names();
        have.sort_unstable();
        format!("there is no tensor `{tensor}`; the file has {}", have.join(", "))
    })?;
    let element = Element::of_file(view.dtype()).ok_or_else(|| format!("{:?} is no type of buffers", view.dtype()))?;
    Ok(Filled { element, shape: view.shape().to_vec(), bytes: view.data().to_vec(), written: true })
}

/// The numbers' bytes; an `Err` is the first number that the type does not hold.
fn made(element: Element, count: usize, fill: &Fill) -> Result<Vec<u8>, f64> {
    let encode = |value: f64| element.encode(value).ok_or(value);
    let all = |values: &mut dyn FnMut(usize) -> f64| {
        let mut bytes = Vec::with_capacity(count * element.bytes());
        for i in 0..count {
            bytes.extend(encode(values(i))?);
        }
        Ok(bytes)
    };
    match fill {
        Fill::Unwritten => Ok(vec![0; count * element.bytes()]),
        Fill::Value(bytes) => Ok(bytes.repeat(count)),
        Fill::Index => all(&mut |i| i as f64),
        Fill::Normal(seed) => {
            let mut rng = ChaCha8Rng::seed_from_u64(*seed);
            all(&mut |_| rng.sample(StandardNormal))
        }
        Fill::Uniform(seed) => {
            let mut rng = ChaCha8Rng::seed_from_u64(*seed);
            all(&mut |_| rng.random_range(-1.0..1.0))
        }
    }
}

/// Puts buffers into memory; returns their addresses.
pub fn place(gpu: &mut Gpu, all: &All) -> Result<BTreeMap<String, u64>, attn_sim::Error> {
    let mut addresses = BTreeMap::new();
    for (name, buffer) in all {
        let address = gpu.alloc(buffer.bytes.len() as u64);
        if buffer.written {
            gpu.write(address, &buffer.bytes)?;
        }
        addresses.insert(name.clone(), address);
    }
    Ok(addresses)
}

/// The parameters' bytes for a kernel whose parameters have these alignments and sizes. A short struct is padded to its
/// alignment.
pub fn params(
    spec: &Spec,
    all: &All,
    addresses: &BTreeMap<String, u64>,
    kernel: &attn_sim::Kernel,
) -> Result<Vec<Vec<u8>>, BufferError> {
    let mut result = Vec::new();
    for (index, value) in spec.params.iter().enumerate() {
        let (bytes, _) = encoded(value, all, addresses)?;
        if let Some(&(_, need)) = kernel.params().get(index)
            && bytes.len() as u64 != need
        {
            return Err(BufferError::Size { kernel: kernel.name().to_owned(), index, got: bytes.len(), need });
        }
        result.push(bytes);
    }
    Ok(result)
}

/// A value's bytes and alignment.
fn encoded(value: &Value, all: &All, addresses: &BTreeMap<String, u64>) -> Result<(Vec<u8>, usize), BufferError> {
    // The spec's parser has seen to it that every buffer is there.
    let address = |name: &str| addresses.get(name).copied().unwrap_or(0);
    Ok(match value {
        Value::Bytes { bytes, align } => (bytes.clone(), *align),
        Value::Pointer { buffer, offset } => (address(buffer).wrapping_add(*offset).to_le_bytes().to_vec(), 8),
        Value::Map(map) => {
            let buffer = all.iter().find(|(name, _)| *name == map.buffer);
            let (shape, element) = buffer.map_or((&[][..], Element::U8), |(_, b)| (&b.shape[..], b.element));
            let bytes = tensor_map(map, address(&map.buffer), shape, element)
                .map_err(|source| BufferError::Map { name: map.buffer.clone(), source })?;
            (bytes.to_vec(), 64)
        }
        Value::Struct(members) => {
            let (mut bytes, mut most) = (Vec::new(), 1);
            for member in members {
                let (member, align) = encoded(member, all, addresses)?;
                bytes.resize(bytes.len().next_multiple_of(align), 0);
                bytes.extend(member);
                most = most.max(align);
            }
            bytes.resize(bytes.len().next_multiple_of(most), 0);
            (bytes, most)
        }
    })
}

fn tensor_map(map: &Map, address: u64, shape: &[usize], element: Element) -> Result<[u8; 128], EncodeError> {
    let dims = map.dims.clone().unwrap_or_else(|| shape.iter().rev().map(|n| *n as u64).collect());
    let contiguous = || {
        let inner = dims.iter().take(dims.len().saturating_sub(1));
        inner.scan(element.bytes() as u64, |stride, n| {
            *stride = stride.saturating_mul(*n);
            Some(*stride)
        })
    };
    let strides = map.strides.clone().unwrap_or_else(|| contiguous().collect());
    let arguments = EncodeTiled {
        data_type: element.map_type(),
        global_address: address.wrapping_add(map.offset),
        global_dim: &dims,
        global_strides: &strides,
        box_dim: &map.box_dim,
        element_strides: &map.steps.clone().unwrap_or_else(|| vec![1; dims.len()]),
        interleave: Interleave::None,
        swizzle: map.swizzle.unwrap_or(Swizzle::None),
        l2_promotion: L2Promotion::None,
        oob_fill: if map.nan { OobFill::Nan } else { OobFill::Zero },
    };
    Ok(arguments.encode()?.to_bytes())
}

/// Writes buffers to a safetensors file.
pub fn write(path: &Path, buffers: &All) -> Result<(), BufferError> {
    let failed = |why: String| BufferError::File { name: "output".into(), path: path.display().to_string(), why };
    let mut views = Vec::new();
    for (name, buffer) in buffers {
        let view = TensorView::new(buffer.element.dtype(), buffer.shape.clone(), &buffer.bytes);
        views.push((name.clone(), view.map_err(|error| failed(error.to_string()))?));
    }
    let bytes = safetensors::serialize(views, None).map_err(|error| failed(error.to_string()))?;
    std::fs::write(path, bytes).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(text: &str) -> (Spec, All, BTreeMap<String, u64>) {
        let spec = Spec::parse(text).expect("valid");
        let all = fill(&spec).expect("possible");
        let addresses = place(&mut Gpu::new(), &all).expect("fits");
        (spec, all, addresses)
    }

    #[test]
    fn fills_are_what_they_say() {
        let (_, all, _) = all_of("a = u8[4] index; b = s16[2] value -1; c = f32[1000] normal 3; d = f32[2,2]");
        assert_eq!(all[0].1.bytes, [0, 1, 2, 3]);
        assert_eq!(all[1].1.bytes, [0xff; 4]);
        let numbers = all[2].1.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (mean, square) = numbers.fold((0.0, 0.0), |(m, s), x| (m + x / 1000.0, s + x * x / 1000.0));
        assert!(mean.abs() < 0.15 && (square - 1.0).abs() < 0.2, "{mean} {square}");
        assert!(!all[3].1.written && all[3].1.bytes.len() == 16);
        let spec = Spec::parse("a = u8[300] index").expect("valid");
        assert!(fill(&spec).is_err_and(|e| e.to_string().contains("256 is no u8")));
    }

    #[test]
    fn structs_are_laid_out_as_c_does() {
        let (spec, all, addresses) = all_of("o = f32[4]; struct u16 1, ptr o+4, u32 7");
        let (bytes, align) = encoded(&spec.params[0], &all, &addresses).expect("encodes");
        assert_eq!((bytes.len(), align), (24, 8));
        assert_eq!(bytes[..2], [1, 0]);
        assert_eq!(bytes[8..16], (addresses["o"] + 4).to_le_bytes());
        assert_eq!(bytes[16..20], [7, 0, 0, 0]);
    }

    #[test]
    fn maps_take_the_buffers_shape() {
        let (spec, all, addresses) = all_of("k = bf16[2,40,64] zero; map k box=64,8,1 swizzle=128");
        let (bytes, _) = encoded(&spec.params[0], &all, &addresses).expect("encodes");
        let object: [u8; 128] = bytes.try_into().expect("a map's size");
        let map = attn_sim::tensor_map::TensorMap::from_bytes(&object).expect("a map");
        assert_eq!(
            (map.global_dim[..3].to_vec(), map.global_strides[..2].to_vec()),
            (vec![64, 40, 2], vec![128, 5120])
        );
        assert_eq!(map.global_address, addresses["k"]);
        let (spec, all, addresses) = all_of("k = bf16[2,40,64] zero; map k box=128,8,1 swizzle=128");
        assert!(encoded(&spec.params[0], &all, &addresses).is_err_and(|e| e.to_string().contains("map of `k`")));
    }

    #[test]
    fn files_give_and_take_tensors() {
        let path = std::env::temp_dir().join(format!("attn-sim-{}.safetensors", std::process::id()));
        let (_, all, _) = all_of("a = f16[2,3] index");
        write(&path, &all).expect("writable");
        let (_, again, _) = all_of(&format!("b = file {} a", path.display()));
        assert_eq!((again[0].1.shape.clone(), again[0].1.element), (vec![2, 3], Element::F16));
        assert_eq!(again[0].1.bytes, all[0].1.bytes);
        let missing = fill(&Spec::parse(&format!("b = file {} c", path.display())).expect("valid"));
        assert!(missing.is_err_and(|e| e.to_string().contains("no tensor `c`; the file has a")));
        std::fs::remove_file(&path).expect("removable");
    }
}
