//! What enters and leaves a store as tar.
