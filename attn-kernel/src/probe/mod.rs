pub mod overlap;
