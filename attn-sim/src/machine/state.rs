//! What units keep between instructions: a value of the module's own type for each warp, block or cluster.

use crate::report::Kind;
use std::any::{Any, TypeId};
use std::collections::HashMap;

/// What a unit keeps for a warp, a block or a cluster. It exists from its first use.
pub trait UnitState: Any {
    /// What is wrong when the warp, block or cluster ends in this state.
    fn at_exit(&self) -> Option<(Kind, String)> {
        None
    }

    /// What a warp that waits on this unit would like to read in the report of a deadlock.
    fn describe(&self) -> Option<String> {
        None
    }
}

/// The states of all units of one owner.
#[derive(Default)]
pub struct States(HashMap<TypeId, Box<dyn UnitState>>);

impl States {
    /// The state of type `T`.
    pub fn get<T: UnitState + Default>(&mut self) -> &mut T {
        let state = self.0.entry(TypeId::of::<T>()).or_insert_with(|| Box::new(T::default()));
        let state: &mut dyn Any = &mut **state;
        state.downcast_mut().expect("states are kept by their type")
    }

    /// What they have to say to the report of a deadlock.
    pub fn describe(&self) -> String {
        let mut all: Vec<String> = self.0.values().filter_map(|state| state.describe()).collect();
        all.sort();
        all.join("; ")
    }

    /// Ends all of them and returns what is wrong.
    pub fn end(&mut self) -> Vec<(Kind, String)> {
        let mut wrong: Vec<_> = self.0.drain().filter_map(|(_, state)| state.at_exit()).collect();
        wrong.sort();
        wrong
    }
}
