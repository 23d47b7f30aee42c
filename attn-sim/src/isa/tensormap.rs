//! `tensormap`: maps that are changed on the device.

use super::Decoded;
use super::form::Form;
use crate::counters::Class;
use crate::machine::Context;
use crate::machine::clock::Lane;
use crate::machine::decode::{Addr, Decode, Source};
use crate::machine::execute::{Execute, Step};
use crate::machine::memory::Space;
use crate::ptx::ScalarType;
use crate::report::{Kind, Stop};
use crate::tensor_map::{Field, TensorMap};

/// Decodes `tensormap.replace` and `tensormap.cp_fenceproxy`.
pub fn decode(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    words
        .expect("tile")
        .or_else(|_| if d.has("cp_fenceproxy") { Ok(()) } else { Err(d.unsupported("without `.tile`")) })?;
    if words.take("cp_fenceproxy") {
        words.skip(&["global", "shared::cta", "tensormap::generic", "release", "acquire"]);
        words.skip(&["cta", "cluster", "gpu", "sys", "sync", "aligned"]);
        words.end()?;
        if d.int(2)? != 128 {
            return Err(d.unsupported("a size other than 128"));
        }
        return Ok(Box::new(CopyMap { to: d.address(0)?, from: d.address(1)? }));
    }
    words.expect("replace")?;
    words.expect("b1024")?;
    let space = if words.take("global") { Space::Global } else { words.shared_space() };
    words.skip(&["b32", "b64"]);
    let name = words.one("a field", |word| FIELDS.into_iter().find(|field| *field == word))?;
    words.end()?;
    let ordinal = if name.contains("_dim") || name.ends_with("_stride") { Some(d.int(1)? as u32) } else { None };
    let value = d.source(if ordinal.is_some() { 2 } else { 1 }, ScalarType::B64)?;
    Ok(Box::new(Replace { space, addr: d.address(0)?, field: field(name, ordinal.unwrap_or(0)), value }))
}

const FIELDS: [&str; 11] = [
    "global_address",
    "rank",
    "box_dim",
    "global_dim",
    "global_stride",
    "element_stride",
    "elemtype",
    "interleave_layout",
    "swizzle_mode",
    "swizzle_atomicity",
    "fill_mode",
];

fn field(name: &str, ordinal: u32) -> Field {
    match name {
        "global_address" => Field::GlobalAddress,
        "rank" => Field::Rank,
        "box_dim" => Field::BoxDim(ordinal),
        "global_dim" => Field::GlobalDim(ordinal),
        "global_stride" => Field::GlobalStride(ordinal),
        "element_stride" => Field::ElementStride(ordinal),
        "elemtype" => Field::ElemType,
        "interleave_layout" => Field::InterleaveLayout,
        "swizzle_mode" => Field::SwizzleMode,
        "swizzle_atomicity" => Field::SwizzleAtomicity,
        _ => Field::FillMode,
    }
}

/// `tensormap.replace`.
#[derive(Debug)]
struct Replace {
    space: Space,
    addr: Addr,
    field: Field,
    value: Source,
}

impl Execute for Replace {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        let (addrs, values) = (cx.addresses(&self.addr), cx.u64(&self.value));
        for lane in cx.lanes() {
            let mut bytes = [0; 128];
            cx.load(lane, self.space, addrs[lane], 128, &mut bytes)?;
            let replaced = TensorMap::replace(&mut bytes, self.field, values[lane]);
            replaced.map_err(|e| cx.fault(Kind::Operand, e.to_string()))?;
            cx.store(lane, self.space, addrs[lane], 128, &bytes)?;
        }
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}

/// `tensormap.cp_fenceproxy`: a warp copies a map to global memory and releases it.
#[derive(Debug)]
struct CopyMap {
    to: Addr,
    from: Addr,
}

impl Execute for CopyMap {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        cx.aligned()?;
        let (to, from) = (cx.addresses(&self.to), cx.addresses(&self.from));
        let lane = cx.first_lane();
        let mut bytes = [0; 128];
        cx.load_as(Lane::Any, lane, Space::Shared, from[lane], 128, &mut bytes)?;
        cx.store_as(Lane::Any, lane, Space::Global, to[lane], 128, &bytes)?;
        Ok(Step::Next)
    }

    fn class(&self) -> Class {
        Class::Copy
    }
}
