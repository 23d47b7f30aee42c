//! A shape class: what one line of the table of plans is for, and the element type to measure it with.

use std::fmt;

use attn_kernel::forward::tune::{BASE, Line, TABLE, variant};
use attn_kernel::forward::{DType, Plan};
use serde::{Deserialize, Serialize};

/// Element type of Q, K, V and O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// bfloat16.
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

/// A shape class, in files by its name: `bf16_d64_causal`, as in kernels' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Class {
    /// Element type that it is measured with. Both have the same plans.
    pub element: Element,
    /// Its line of the table.
    pub line: &'static Line,
}

/// A name that is no class's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no line of the table is for '{0}'")]
pub struct NoClass(String);

impl Class {
    /// Every class with this element type.
    pub fn all(element: Element) -> impl Iterator<Item = Class> {
        TABLE.iter().map(move |line| Class { element, line })
    }

    /// The present plan.
    pub fn present(&self) -> Plan {
        variant(self.line.d, self.line.dv, self.line.knobs)
    }

    /// What knobs are set on that name a whole plan.
    pub fn base(&self) -> Plan {
        Plan { d: self.line.d, dv: self.line.dv, ..BASE }
    }

    /// How the class's line of the table begins.
    pub fn head(&self) -> String {
        let Line { d, dv, causal, class, .. } = self.line;
        let space = if class.is_empty() { "" } else { " " };
        format!("{d} {dv} {}{space}{class}", if *causal { "causal" } else { "full" })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { d, dv, causal, class, .. } = self.line;
        write!(f, "{}_d{d}", self.element.name())?;
        if d != dv {
            write!(f, "_{dv}")?;
        }
        f.write_str(if *causal { "_causal" } else { "" })?;
        if class.is_empty() { Ok(()) } else { write!(f, "_{class}") }
    }
}

impl From<Class> for String {
    fn from(class: Class) -> String {
        class.to_string()
    }
}

impl TryFrom<String> for Class {
    type Error = NoClass;

    fn try_from(name: String) -> Result<Class, NoClass> {
        let mut all = [Element::Bf16, Element::F16].into_iter().flat_map(Class::all);
        all.find(|class| class.to_string() == name).ok_or(NoClass(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_named_like_kernels() {
        let kernels: Vec<_> = attn_kernel::forward::sm90::KERNELS.iter().map(|kernel| kernel.name.to_owned()).collect();
        let classes = [Element::Bf16, Element::F16].into_iter().flat_map(Class::all);
        let names: Vec<_> = classes.map(|class| format!("fwd_sm90_{class}")).collect();
        assert_eq!(names, kernels);
    }

    #[test]
    fn a_class_is_found_by_its_name() {
        for class in Class::all(Element::F16) {
            assert_eq!(Class::try_from(class.to_string()), Ok(class));
            let json = serde_json::to_string(&class).expect("text");
            assert_eq!(serde_json::from_str::<Class>(&json).expect("a class"), class);
            assert_eq!((class.present().d, class.base().d), (class.line.d, class.line.d));
        }
        let error = Class::try_from("bf16_d48".to_owned()).expect_err("no such line").to_string();
        assert_eq!(error, "no line of the table is for 'bf16_d48'");
    }
}
