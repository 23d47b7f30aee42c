//! A PTX machine on the CPU: runs the PTX that a GPU runs, Hopper's and Blackwell's asynchronous instructions included, and
//! makes the checks that hardware does not make.

pub mod barrier_state;
pub mod layout;
pub mod mbarrier_state;
pub mod num;
pub mod ptx;
pub mod reduction;
pub mod register_pool;
pub mod tensor_map;
pub mod tma_copy;
