//! A kernel made ready to run: decoded instructions, where its symbols lie, where its branches meet again.

use super::decode::{Decode, Layout, Place, Reg};
use super::execute::{Execute, Flow};
use super::inline::inline;
use super::registers::words;
use super::shared::FIRST;
use crate::counters::Class;
use crate::isa;
use crate::ptx::{Bounds, Function, Module, ScalarType, Space, Variable};
use crate::report::Unsupported;

/// No instruction: where paths do not meet before the kernel ends.
pub const NOWHERE: usize = usize::MAX;

/// A decoded instruction.
#[derive(Debug)]
pub struct Op {
    /// Line of the PTX text.
    pub line: u32,
    /// Opcode and modifiers, for reports.
    pub text: String,
    /// Lanes that execute it: those whose predicate is (not, if true) set.
    pub guard: Option<(Reg, bool)>,
    /// What it does.
    pub body: Box<dyn Execute>,
    /// What it is counted as.
    pub class: Class,
    /// Where paths that part here meet again.
    pub join: usize,
}

/// A kernel made ready to run.
#[derive(Debug)]
pub struct Program {
    /// Name of the kernel.
    pub name: String,
    /// Instructions in order.
    pub ops: Vec<Op>,
    /// Registers and symbols.
    pub layout: Layout,
    /// Names of registers in the text, by their ids.
    pub names: Vec<String>,
    /// Offset at which dynamic shared memory begins.
    pub dynamic_shared: u32,
    /// Bytes of `.local` and `.param` variables of a thread.
    pub local_bytes: u32,
    /// Bytes of the parameter buffer.
    pub param_bytes: u64,
    /// Launch bounds.
    pub bounds: Bounds,
    /// Whether blocks of different clusters may look at each other's work while they run.
    pub communicates: bool,
}

impl Program {
    /// Decodes a kernel of a module whose module-scope variables lie at `places`.
    pub fn decode(module: &Module, function: &Function, places: &[Place]) -> Result<Self, Unsupported> {
        let function = &*inline(module, function)?;
        let target = module.target.first().map_or("", String::as_str);
        let (layout, dynamic_shared, local_bytes, param_bytes) = lay_out(module, function, places);
        let mut ops = Vec::with_capacity(function.code.len() + 1);
        let mut flows = Vec::with_capacity(function.code.len() + 1);
        for inst in &function.code {
            let cx = Decode { inst, function, layout: &layout, target };
            let body = isa::decode(&cx)?;
            flows.push((body.flow(), inst.guard.is_some()));
            ops.push(Op {
                line: inst.line,
                text: inst.to_string(),
                guard: inst.guard.map(|g| (layout.registers[g.reg.index()], g.negated)),
                class: body.class(),
                body,
                join: NOWHERE,
            });
        }
        // Running past the last instruction returns.
        let line = function.code.last().map_or(function.line, |i| i.line);
        let end = isa::end_of_kernel();
        flows.push((end.flow(), false));
        ops.push(Op { line, text: "end of kernel".into(), guard: None, class: end.class(), body: end, join: NOWHERE });
        for (op, join) in ops.iter_mut().zip(joins(&flows)) {
            op.join = join;
        }
        Ok(Program {
            name: function.name.clone(),
            communicates: ops.iter().any(|op| op.body.communicates()),
            ops,
            layout,
            names: function.registers.iter().map(|r| r.name.clone()).collect(),
            dynamic_shared,
            local_bytes,
            param_bytes,
            bounds: function.bounds.clone(),
        })
    }
}

/// Places variables of one space behind each other.
#[derive(Default)]
struct Cursor(u64);

impl Cursor {
    fn take(&mut self, align: u64, bytes: u64) -> u64 {
        let at = self.0.next_multiple_of(align.max(1));
        self.0 = at + bytes;
        at
    }
}

/// Registers and symbols of a kernel; offset of dynamic shared memory; bytes of local memory and of parameters.
fn lay_out(module: &Module, function: &Function, places: &[Place]) -> (Layout, u32, u32, u64) {
    let mut shared = Cursor(u64::from(FIRST));
    let mut dynamic = Vec::new();
    let mut place_shared = |v: &Variable| match v.elements {
        Some(_) if !v.is_extern => Place::Shared(shared.take(v.align, v.bytes()) as u32),
        _ => {
            dynamic.push(v.align);
            Place::Shared(u32::MAX)
        }
    };
    let mut modules: Vec<Place> = Vec::new();
    for (v, place) in module.variables.iter().zip(places) {
        modules.push(if v.space == Space::Shared { place_shared(v) } else { *place });
    }
    let mut local = Cursor::default();
    let mut locals: Vec<Place> = Vec::new();
    for v in &function.variables {
        locals.push(match v.space {
            Space::Shared => place_shared(v),
            _ => Place::At(local.take(v.align, v.bytes())),
        });
    }
    let start = shared.take(dynamic.iter().copied().max().unwrap_or(16), 0) as u32;
    for place in modules.iter_mut().chain(&mut locals) {
        if *place == Place::Shared(u32::MAX) {
            *place = Place::Shared(start);
        }
    }
    let mut params = Cursor::default();
    let offsets = function.params.iter().map(|p| params.take(p.align, p.bytes)).collect();
    let (mut words_used, mut preds_used) = (0, 0);
    let registers = function.registers.iter().enumerate().map(|(id, r)| {
        let bits = r.ty.bits() as u8;
        let next = if r.ty == ScalarType::Pred { &mut preds_used } else { &mut words_used };
        let slot = *next;
        *next += words(bits);
        Reg { id: id as u32, slot, bits }
    });
    let registers = registers.collect();
    (Layout { module: modules, local: locals, params: offsets, registers }, start, local.0 as u32, params.0)
}

/// For every instruction, the nearest one that all paths from it pass: its immediate post-dominator.
///
/// Cooper, Harvey and Kennedy's iteration over the reversed control flow, whose root is the end of the kernel.
fn joins(flows: &[(Flow, bool)]) -> Vec<usize> {
    let (n, root) = (flows.len(), flows.len());
    let successors: Vec<Vec<usize>> = flows
        .iter()
        .enumerate()
        .map(|(i, (flow, guarded))| {
            let mut next = match flow {
                Flow::Next => vec![i + 1],
                Flow::Jump(targets) => targets.clone(),
                Flow::End => vec![root],
            };
            if *guarded && *flow != Flow::Next {
                next.push(i + 1);
            }
            next
        })
        .collect();
    let mut predecessors = vec![Vec::new(); n + 1];
    for (i, next) in successors.iter().enumerate() {
        next.iter().for_each(|&s| predecessors[s].push(i));
    }
    let order = postorder(&predecessors, root);
    let mut rank = vec![NOWHERE; n + 1];
    order.iter().enumerate().for_each(|(i, &node)| rank[node] = i);
    let mut idom = vec![NOWHERE; n + 1];
    idom[root] = root;
    let meet = |idom: &[usize], mut a: usize, mut b: usize| {
        while a != b {
            while rank[a] < rank[b] {
                a = idom[a];
            }
            while rank[b] < rank[a] {
                b = idom[b];
            }
        }
        a
    };
    let mut changed = true;
    while changed {
        changed = false;
        for &node in order.iter().rev().filter(|&&node| node != root) {
            let known = successors[node].iter().copied().filter(|&s| idom[s] != NOWHERE);
            let Some(new) = known.reduce(|a, b| meet(&idom, a, b)) else { continue };
            if idom[node] != new {
                idom[node] = new;
                changed = true;
            }
        }
    }
    idom.truncate(n);
    idom.iter_mut().filter(|d| **d == root).for_each(|d| *d = NOWHERE);
    idom
}

/// Nodes that reach `root` over `edges`, children before parents, without recursion.
fn postorder(edges: &[Vec<usize>], root: usize) -> Vec<usize> {
    let (mut seen, mut order, mut stack) = (vec![false; edges.len()], Vec::new(), vec![(root, 0)]);
    seen[root] = true;
    while let Some((node, next)) = stack.last_mut() {
        match edges[*node].get(*next) {
            Some(&child) => {
                *next += 1;
                if !seen[child] {
                    seen[child] = true;
                    stack.push((child, 0));
                }
            }
            None => {
                order.push(*node);
                stack.pop();
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jump(to: usize, guarded: bool) -> (Flow, bool) {
        (Flow::Jump(vec![to]), guarded)
    }

    const NEXT: (Flow, bool) = (Flow::Next, false);
    const END: (Flow, bool) = (Flow::End, false);

    #[test]
    fn the_two_sides_of_a_condition_meet_behind_it() {
        // 0: @p bra 3; 1: ..; 2: bra 4; 3: ..; 4: ..; 5: ret
        let joins = joins(&[jump(3, true), NEXT, jump(4, false), NEXT, NEXT, END]);
        assert_eq!(joins, [4, 2, 4, 4, 5, NOWHERE]);
    }

    #[test]
    fn a_loop_is_left_where_it_ends_and_endless_ones_nowhere() {
        // 0: ..; 1: @p bra 0; 2: ret
        assert_eq!(joins(&[NEXT, jump(0, true), END]), [1, 2, NOWHERE]);
        // 0: @p bra 2; 1: bra 1; 2: ret
        assert_eq!(joins(&[jump(2, true), jump(1, false), END])[1], NOWHERE);
    }

    #[test]
    fn an_early_exit_parts_ways_for_good() {
        // 0: @p ret; 1: ..; 2: ret
        assert_eq!(joins(&[(Flow::End, true), NEXT, END]), [NOWHERE, 2, NOWHERE]);
    }
}
