//! A shape class: what one line of the table of plans is for, and the element type to measure it with.

use std::fmt;

use attn_kernel::forward::tune::{Line, TABLE, variant};
use attn_kernel::forward::{DType, Plan};
use serde::{Deserialize, Serialize};

/// Element type of Q, K, V and O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// bfloat16.
    #[default]
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Element {
    /// As in kernels' names.
    pub fn name(self) -> &'static str {
        match self {
            Element::Bf16 => "bf16",
            Element::F16 => "f16",
        }
    }

    /// As kernels have it.
    pub fn dtype(self) -> DType {
        match self {
            Element::Bf16 => DType::Bf16,
            Element::F16 => DType::F16,
        }
    }

    /// The type's name in the kernels' source.
    pub fn type_name(self) -> &'static str {
        match self {
            Element::Bf16 => "Bf16",
            Element::F16 => "F16",
        }
    }
}

/// A shape class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// Element type that it is measured with. Both have the same plans.
    pub element: Element,
    /// Head dimension of Q and K.
    pub d: u32,
    /// Head dimension of V and O.
    pub dv: u32,
    /// With the causal mask.
    pub causal: bool,
}

impl Class {
    /// The class's line of the table.
    pub fn line(&self) -> Option<&'static Line> {
        TABLE.iter().find(|line| (line.d, line.dv, line.causal) == (self.d, self.dv, self.causal))
    }

    /// The present plan.
    pub fn present(&self) -> Option<Plan> {
        self.line().map(|line| variant(line.d, line.dv, line.knobs))
    }

    /// The head dimensions that have lines.
    pub fn head_dims() -> Vec<(u32, u32)> {
        let mut all: Vec<_> = TABLE.iter().map(|line| (line.d, line.dv)).collect();
        all.dedup();
        all
    }

    /// The mask's word in the table.
    pub fn mask(&self) -> &'static str {
        if self.causal { "causal" } else { "full" }
    }
}

impl fmt::Display for Class {
    /// As in kernels' names: `bf16_d64_causal`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Class { element, d, dv, causal } = self;
        write!(f, "{}_d{d}", element.name())?;
        if d != dv {
            write!(f, "_{dv}")?;
        }
        f.write_str(if *causal { "_causal" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_named_like_kernels() {
        let class = Class { element: Element::F16, d: 192, dv: 128, causal: true };
        assert_eq!(class.to_string(), "f16_d192_128_causal");
        let square = Class { element: Element::Bf16, d: 64, dv: 64, causal: false };
        assert_eq!(square.to_string(), "bf16_d64");
        let names: Vec<_> = attn_kernel::forward::sm90::KERNELS.iter().map(|kernel| kernel.name).collect();
        for class in [class, square] {
            assert!(names.contains(&format!("fwd_sm90_{class}").as_str()), "{class}");
        }
    }

    #[test]
    fn every_line_of_the_table_is_a_class() {
        for (d, dv) in Class::head_dims() {
            for causal in [false, true] {
                let class = Class { element: Element::Bf16, d, dv, causal };
                assert_eq!(class.present().map(|plan| (plan.d, plan.dv)), Some((d, dv)));
            }
        }
        assert_eq!(Class { element: Element::Bf16, d: 48, dv: 48, causal: false }.present(), None);
    }
}
