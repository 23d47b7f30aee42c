//! Plans, launches and cust's buffers on the simulated GPU, which the whole process then uses.

use attn_host::cust::context::Context;
use attn_host::cust::memory::{CopyDestination, DeviceBuffer};
use attn_host::cust::stream::{Stream, StreamFlags};
use attn_host::cust::{self};
use attn_host::simulator::{self, Arch, ConfigureError, Options};
use attn_host::{DType, Device, Mask, Plan, Problem, Shape, Tensors};
use half::bf16;

fn install() -> Context {
    simulator::install(Options::default()).expect("every test asks for the same device");
    cust::quick_init().expect("the simulator has a device")
}

/// Deterministic values between -1 and 1, as bf16.
fn values(count: usize, salt: usize) -> Vec<u16> {
    (0..count).map(|i| bf16::from_f32(((i * 37 + salt * 11) % 101) as f32 / 50.0 - 1.0).to_bits()).collect()
}

#[test]
fn a_plan_launches_on_the_simulated_device() {
    const SEQ: usize = 70;
    const D: usize = 32;
    let _context = install();
    let device = Device::current().expect("there is one");
    assert_eq!((device.info().name.as_str(), device.info().sm_count), ("attn-sim sm_90a", 4));
    let size = SEQ as u64;
    let shape = Shape { batch: 1, seqlen_q: size, seqlen_k: size, heads: 1, kv_heads: 1, head_dim: 32, head_dim_v: 32 };
    let plan = Plan::new(&device, &Problem::new(DType::Bf16, shape).mask(Mask::Causal)).expect("a kernel fits");
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None).expect("a stream");
    let bits = [0, 1, 2].map(|salt| values(SEQ * D, salt));
    let [q, k, v] = bits.each_ref().map(|bits| DeviceBuffer::from_slice(bits).expect("memory"));
    let mut o = DeviceBuffer::from_slice(&vec![0x7FFBu16; SEQ * D]).expect("memory");
    plan.run(Tensors::of(&q, &k, &v, &mut o), &stream)
        .unwrap_or_else(|e| panic!("{e}\n{:?}", simulator::last_report()));
    stream.synchronize().expect("done");
    let mut output = vec![0u16; SEQ * D];
    o.copy_to(&mut output).expect("readable");
    let [q, k, v] = bits.map(|bits| bits.iter().map(|b| bf16::from_bits(*b).to_f64()).collect::<Vec<_>>());
    for row in 0..SEQ {
        let score = |key: usize| (0..D).map(|c| q[row * D + c] * k[key * D + c]).sum::<f64>() / (D as f64).sqrt();
        let weights: Vec<f64> = (0..=row).map(|key| score(key).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for c in 0..D {
            let want = weights.iter().enumerate().map(|(key, w)| w * v[key * D + c]).sum::<f64>() / sum;
            let got = bf16::from_bits(output[row * D + c]).to_f64();
            assert!((got - want).abs() < 0.02, "o({row}, {c}) is {got}, expected {want}");
        }
    }
    let launch = simulator::last_launch().expect("there was one");
    assert_eq!(launch.report, None);
    assert!(launch.counters.is_some_and(|c| c.of(simulator::Class::Matrix) > 0), "wgmma was counted");
}

#[test]
fn a_second_device_is_refused() {
    let _context = install();
    let other = Options { arch: Arch::Sm100a, ..Options::default() };
    assert!(matches!(simulator::install(other), Err(ConfigureError::Made { .. })));
    let none = Options { multiprocessors: 0, ..Options::default() };
    assert!(matches!(simulator::install(none), Err(ConfigureError::Option(_))));
    assert_eq!(simulator::install(Options { seed: 3, ..Options::default() }), Ok(()));
}
