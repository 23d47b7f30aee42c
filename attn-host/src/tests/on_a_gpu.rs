//! What only a real driver can say: `cargo test -p attn-host -- --ignored` on a machine with a GPU.

use super::*;
use crate::blueprint::Blueprint;
use crate::driver::Driver;
use crate::tensor_map::Maps;

/// One test at a time: the primary context is everyone's.
static PRIMARY: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn maps(problem: &Problem) -> Maps {
    let device = Device::current().expect("a context is current");
    let blueprint = Blueprint::of(problem, device.info(), select::choose).expect("a kernel");
    *blueprint.work.maps()
}

#[test]
#[ignore = "needs a GPU"]
fn the_driver_encodes_every_kind_of_tensor() {
    let _alone = PRIMARY.lock();
    let _context = cust::quick_init().expect("a device");
    let driver = Driver::get().expect("a driver");
    let zero = Strides { batch: 0, seq: 0, head: 0 };
    let heads_first = Strides { batch: 8 * 1000 * 128, seq: 128, head: 1000 * 128 };
    let overlapping = Strides { batch: 8, seq: 8, head: 8 };
    let far = Strides { batch: (1 << 39) - 8, seq: 1 << 30, head: 128 };
    let long = Shape { seqlen_k: (1 << 31) - 1024, batch: 1, heads: 1, kv_heads: 1, ..SHAPE };
    let plain = problem();
    let kinds = [
        ("contiguous", plain),
        ("repeated", plain.strides_k(zero).strides_v(zero).strides_q(zero)),
        ("heads before positions", plain.strides_q(heads_first).strides_o(heads_first)),
        ("overlapping inputs", plain.strides_k(overlapping)),
        ("far apart", plain.strides_k(far)),
        ("a long sequence", Problem::new(DType::F16, long)),
        ("a small head_dim", Problem::new(DType::Bf16, Shape { head_dim: 8, head_dim_v: 8, ..SHAPE })),
        ("one query and key", Problem::new(DType::Bf16, Shape { seqlen_q: 1, seqlen_k: 1, ..SHAPE })),
    ];
    for (kind, problem) in kinds {
        let Maps { q, k, v, o } = maps(&problem);
        for map in [q, k, v, o] {
            let encoded = map.encode(driver, 0x7f00_0000_0000);
            assert!(encoded.is_ok(), "{kind}: {map:?}: {:?}", encoded.err());
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_context_that_replaces_another_has_another_number() {
    let _alone = PRIMARY.lock();
    let id = || {
        let _context = cust::quick_init().expect("a device");
        Device::current().expect("a context is current").context_id
    };
    assert_ne!(id(), id(), "the primary context was released and retained again");
}
