//! `setmaxnreg`: registers move between warpgroups.

use super::Decoded;
use super::form::Form;
use crate::counters::Class;
use crate::machine::decode::Decode;
use crate::machine::execute::{Execute, Step};
use crate::machine::wait::Key;
use crate::machine::{Context, UnitState};
use crate::register_pool::{Change, RegisterPool};
use crate::report::{Kind, Stop};

/// Decodes `setmaxnreg`.
pub fn decode(d: &Decode) -> Decoded {
    let mut words = Form::new(d);
    let change = words.one("`.inc` or `.dec`", |word| match word {
        "inc" => Some(Change::Inc),
        "dec" => Some(Change::Dec),
        _ => None,
    })?;
    words.expect("sync")?;
    words.expect("aligned")?;
    words.expect("u32")?;
    words.end()?;
    Ok(Box::new(SetMaxNReg { change, to: d.int(0)? as u32 }))
}

#[derive(Debug)]
struct SetMaxNReg {
    change: Change,
    to: u32,
}

/// The registers of a block, from the first change on.
#[derive(Default)]
struct Pool(Option<RegisterPool>);

impl UnitState for Pool {}

impl Execute for SetMaxNReg {
    fn execute(&self, cx: &mut Context<'_>) -> Result<Step, Stop> {
        cx.aligned()?;
        let threads = cx.m.shape.block.iter().product();
        let bounds = &cx.m.program.bounds;
        // The compiler ignores the instruction where nothing fixes the count at entry.
        let Some(entry) = RegisterPool::at_entry(bounds.maxnreg, bounds.minnctapersm, threads) else {
            return Ok(Step::Next);
        };
        let warps = cx.m.blocks[cx.block].warps.len();
        let warp = cx.m.warps[cx.warp].index as usize;
        let pool = cx.block_state::<Pool>().0.get_or_insert_with(|| RegisterPool::new(warps, entry));
        let (free, have) = (pool.free(), pool.count(warp));
        match pool.change(warp, self.change, self.to) {
            Ok(true) => {
                if let Some(differs) = pool.disagreement(warp) {
                    cx.report(Kind::RegisterPool, differs.to_string());
                }
                if self.change == Change::Dec {
                    cx.m.wake(Key::Block(cx.block));
                }
                Ok(Step::Next)
            }
            Ok(false) => {
                let detail = format!(": {} a thread more than its {have}, where {free} are free", self.to - have);
                Ok(cx.block_on(Key::Block(cx.block), "registers", detail))
            }
            Err(misuse) => Err(cx.fault(Kind::RegisterPool, misuse.to_string())),
        }
    }

    fn class(&self) -> Class {
        Class::Other
    }
}
