//! What cards can do at most, by their data sheets.

use attn_host::DeviceInfo;

/// Peaks of a card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// Dense 16-bit matrix products, TFLOP/s; 8-bit ones are twice as many.
    pub tflops: f64,
    /// Memory, GB/s.
    pub gbytes: f64,
}

/// By a part of the driver's name; the first that fits counts.
const CARDS: &[(&str, Card)] = &[
    ("H100 PCIe", Card { tflops: 756.0, gbytes: 2_000.0 }),
    ("H100 NVL", Card { tflops: 835.0, gbytes: 3_900.0 }),
    ("H100", Card { tflops: 989.4, gbytes: 3_350.0 }),
    ("H200", Card { tflops: 989.4, gbytes: 4_800.0 }),
    ("GH200", Card { tflops: 989.4, gbytes: 4_000.0 }),
    ("B200", Card { tflops: 2_250.0, gbytes: 8_000.0 }),
    ("B300", Card { tflops: 2_250.0, gbytes: 8_000.0 }),
];

impl Card {
    /// The card, where it is known.
    pub fn of(device: &DeviceInfo) -> Option<Card> {
        // GH200 has H200 in its name, with other memory.
        let grace = device.name.contains("GH200");
        let fits = |part: &&(&str, Card)| device.name.contains(part.0) && (!grace || part.0 == "GH200");
        CARDS.iter().find(fits).map(|(_, card)| *card)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attn_host::Arch;

    #[test]
    fn names_of_drivers_are_known() {
        let named = |name: &str| {
            Card::of(&{
                let mut device = DeviceInfo::nominal(Arch::Sm90a);
                device.name = name.to_owned();
                device
            })
        };
        assert_eq!(named("NVIDIA H100 80GB HBM3").map(|card| card.tflops), Some(989.4));
        assert_eq!(named("NVIDIA H100 PCIe").map(|card| card.gbytes), Some(2_000.0));
        assert_eq!(named("NVIDIA GH200 480GB").map(|card| card.gbytes), Some(4_000.0));
        assert_eq!(named("attn-sim sm_90a"), None);
        assert!(Arch::ALL.iter().all(|arch| Card::of(&DeviceInfo::nominal(*arch)).is_some()));
    }
}
