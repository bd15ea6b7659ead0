//! What both drivers must do alike: the same steps give the same trees, the same digests and the same layers.

mod bench;
mod layers;
mod stories;
mod trees;
