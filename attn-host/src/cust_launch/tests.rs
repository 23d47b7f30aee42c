use cust::memory::DevicePointer;

use super::*;
use crate::{DType, DevicePtr, Problem, Shape, fake, select};

const SHAPE: Shape =
    Shape { batch: 1, seqlen_q: 10, seqlen_k: 20, heads: 2, kv_heads: 1, head_dim: 64, head_dim_v: 64 };

fn plan(problem: &Problem) -> Plan {
    fake::reset();
    Plan::with_loader(&fake::device(), problem, fake::code, select::choose).expect("valid")
}

fn slice<T: Element + DeviceCopy>(address: u64, n: usize) -> DeviceSlice<T> {
    // SAFETY: only the address and the length are ever used.
    unsafe { DeviceSlice::from_raw_parts(DevicePointer::from_raw(address), n) }
}

#[test]
fn slices_give_their_addresses_lengths_and_types() {
    let plan = plan(&Problem::new(DType::Bf16, SHAPE).seqused_k());
    let (q, k, v, mut o) =
        (slice::<Bf16>(0x100, 1280), slice::<u16>(0x200, 1280), slice::<Bf16>(0x300, 1280), slice::<Bf16>(0x400, 1280));
    let used = slice::<i32>(0x500, 1);
    let mut workspace = slice::<u8>(0x600, plan.workspace_bytes() as usize);
    let addresses = |tensors: CustTensors<'_>| plan.addresses(&tensors.map(|slice| slice.extent, |slice| slice.extent));
    let tensors = addresses(Tensors::of(&q, &k, &v, &mut o).seqused_k(&used).workspace(&mut workspace)).expect("valid");
    assert_eq!([tensors.q, tensors.k, tensors.v, tensors.o], [0x100, 0x200, 0x300, 0x400].map(DevicePtr));
    assert_eq!((tensors.seqused_k, tensors.workspace), (Some(DevicePtr(0x500)), Some(DevicePtr(0x600))));
    assert_eq!((tensors.lse, tensors.sinks), (None, None));
    o = slice(0x400, 1279);
    let found = addresses(Tensors::of(&q, &k, &v, &mut o).seqused_k(&used).workspace(&mut workspace));
    assert_eq!(found, Err(Error::BufferTooSmall { argument: "o", elements: 1279, needed: 1280 }));
}

#[test]
fn wrapped_slices_are_the_same_memory() {
    let values = [half::bf16::from_f32(1.5), half::bf16::from_f32(-2.0)];
    let wrapped = Bf16::wrap_slice(&values);
    assert_eq!(wrapped, [Bf16(values[0]), Bf16(values[1])]);
    assert_eq!(wrapped.as_ptr().cast(), values.as_ptr());
}
