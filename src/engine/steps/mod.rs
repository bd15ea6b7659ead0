//! What carries out the operations of a graph, one room per operation.

pub mod file;
