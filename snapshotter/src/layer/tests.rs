//! Layers made by hand, hostile ones among them, and the round trip of random trees.

mod builder;
mod hostile;
mod packing;
mod round_trip;
mod unpacking;
