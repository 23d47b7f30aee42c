//! Names inside of a function: registers, variables and labels, in nested `{ }` scopes.

use std::collections::HashMap;

use super::ast::{RegId, Register, ScalarType, Symbol};

/// What a name in a function stands for.
#[derive(Clone, Debug)]
pub(super) enum Name {
    /// A register.
    Reg(RegId),
    /// A vector register (`.reg .v4 .f32 x`), as the registers of its components.
    Vector(Vec<RegId>),
    /// A variable, parameter or return value.
    Symbol(Symbol),
    /// A `.calltargets` list, as indices of functions.
    CallTargets(Vec<usize>),
    /// A `.callprototype`.
    Prototype,
}

/// A `name<N>` declaration, whose registers come to be when they are named.
#[derive(Clone, Copy)]
struct Family {
    count: u64,
    ty: ScalarType,
    /// Components of each; 1 for a scalar register.
    components: usize,
}

#[derive(Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Name>,
    families: HashMap<&'a str, Family>,
    labels: HashMap<&'a str, usize>,
}

/// What a label stands for.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// An instruction.
    Code(usize),
    /// A `.branchtargets` table, as labels.
    Table(Vec<usize>),
}

/// A label: where it is, or the label of an outer scope that it turned out to be.
enum Slot {
    Unknown,
    Known(Target),
    Same(usize),
}

/// All scopes open at one place of a function, the function's own first.
pub(super) struct Scopes<'a> {
    open: Vec<Scope<'a>>,
    labels: Vec<Slot>,
    /// Registers of all scopes so far.
    pub(super) registers: Vec<Register>,
}

impl<'a> Scopes<'a> {
    /// The scope of a function, empty.
    pub(super) fn new() -> Self {
        Scopes { open: vec![Scope::default()], labels: Vec::new(), registers: Vec::new() }
    }

    /// Number of scopes open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Opens a scope.
    pub(super) fn enter(&mut self) {
        self.open.push(Scope::default());
    }

    /// Closes the innermost scope. Labels it named and did not define are those of the scope around it.
    pub(super) fn leave(&mut self) {
        let Some(closed) = self.open.pop() else { return };
        for (name, label) in closed.labels {
            if !matches!(self.labels[label], Slot::Unknown) {
                continue;
            }
            if let Some(outer) = self.open.last_mut() {
                let target = *outer.labels.entry(name).or_insert(label);
                if target != label {
                    self.labels[label] = Slot::Same(target);
                }
            }
        }
    }

    fn innermost(&mut self) -> &mut Scope<'a> {
        if self.open.is_empty() {
            self.open.push(Scope::default());
        }
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    /// Declares a name in the innermost scope; false if it is already there.
    pub(super) fn declare(&mut self, name: &'a str, what: Name) -> bool {
        self.innermost().names.insert(name, what).is_none()
    }

    /// Makes a register and its name.
    pub(super) fn declare_register(&mut self, name: &'a str, ty: ScalarType, components: usize) -> bool {
        let what = self.make(name, ty, components);
        self.declare(name, what)
    }

    /// Declares `name<count>`.
    pub(super) fn declare_family(&mut self, name: &'a str, count: u64, ty: ScalarType, components: usize) -> bool {
        self.innermost().families.insert(name, Family { count, ty, components }).is_none()
    }

    fn make(&mut self, name: &str, ty: ScalarType, components: usize) -> Name {
        let first = self.registers.len() as u32;
        if components == 1 {
            self.registers.push(Register { name: name.into(), ty });
            return Name::Reg(RegId(first));
        }
        let letters = ["x", "y", "z", "w"];
        let parts = letters.iter().take(components).map(|l| Register { name: format!("{name}.{l}"), ty });
        self.registers.extend(parts);
        Name::Vector((first..self.registers.len() as u32).map(RegId).collect())
    }

    /// What a name stands for here, the innermost scope first.
    pub(super) fn find(&mut self, name: &'a str) -> Option<Name> {
        for depth in (0..self.open.len()).rev() {
            if let Some(found) = self.open[depth].names.get(name) {
                return Some(found.clone());
            }
            if let Some(family) = self.open[depth].family(name) {
                let what = self.make(name, family.ty, family.components);
                self.open[depth].names.insert(name, what.clone());
                return Some(what);
            }
        }
        None
    }

    /// The label of this name as seen from here, defined or not.
    pub(super) fn label(&mut self, name: &'a str) -> usize {
        let next = self.labels.len();
        let label = *self.innermost().labels.entry(name).or_insert(next);
        if label == next {
            self.labels.push(Slot::Unknown);
        }
        label
    }

    /// Defines a label in the innermost scope; false if it is defined there already.
    pub(super) fn define_label(&mut self, name: &'a str, target: Target) -> bool {
        let label = self.label(name);
        let fresh = matches!(self.labels[label], Slot::Unknown);
        self.labels[label] = Slot::Known(target);
        fresh
    }

    /// Where a label leads, once all scopes but the function's are closed. `None` if nothing defines it.
    pub(super) fn target(&self, mut label: usize) -> Option<&Target> {
        loop {
            match self.labels.get(label)? {
                Slot::Unknown => return None,
                Slot::Known(target) => return Some(target),
                Slot::Same(outer) => label = *outer,
            }
        }
    }
}

impl Scope<'_> {
    /// The `name<N>` declaration that a register name belongs to.
    fn family(&self, name: &str) -> Option<Family> {
        if self.families.is_empty() {
            return None;
        }
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count().min(18);
        // The stem may itself end in digits: `%r1<4>` has `%r10`.
        (1..=digits).find_map(|n| {
            let (stem, number) = name.split_at(name.len() - n);
            let canonical = n == 1 || !number.starts_with('0');
            let family = self.families.get(stem).filter(|_| canonical)?;
            let index: u64 = number.parse().ok()?;
            (index < family.count).then_some(*family)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_a_family_come_to_be_when_named() {
        let mut s = Scopes::new();
        assert!(s.declare_family("%r", 11, ScalarType::B32, 1));
        assert!(matches!(s.find("%r10"), Some(Name::Reg(RegId(0)))));
        assert!(matches!(s.find("%r3"), Some(Name::Reg(RegId(1)))));
        assert!(matches!(s.find("%r10"), Some(Name::Reg(RegId(0)))));
        assert!(s.find("%r11").is_none());
        assert!(s.find("%r03").is_none());
    }

    #[test]
    fn an_inner_scope_shadows_and_ends() {
        let mut s = Scopes::new();
        assert!(s.declare_register("p", ScalarType::Pred, 1));
        s.enter();
        assert!(s.declare_register("p", ScalarType::B32, 1));
        assert!(matches!(s.find("p"), Some(Name::Reg(RegId(1)))));
        s.leave();
        assert!(matches!(s.find("p"), Some(Name::Reg(RegId(0)))));
        assert!(!s.declare_register("p", ScalarType::Pred, 1));
    }

    #[test]
    fn labels_resolve_outward_and_forward() {
        let mut s = Scopes::new();
        s.enter();
        let (inner, outer) = (s.label("DONE"), s.label("END"));
        assert!(s.define_label("DONE", Target::Code(3)));
        assert!(!s.define_label("DONE", Target::Code(4)));
        s.leave();
        assert!(s.define_label("END", Target::Code(9)));
        s.enter();
        let again = s.label("DONE");
        s.leave();
        assert!(matches!(s.target(inner), Some(Target::Code(4))));
        assert!(matches!(s.target(outer), Some(Target::Code(9))));
        assert!(s.target(again).is_none());
    }
}
