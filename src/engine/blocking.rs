//! The bridge from async code to blocking work.

/// Runs blocking work on the runtime's blocking threads.
///
/// Dropping the future does not stop work that has begun: such work looks at its own cancel flag, or is short.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A panic in blocking work is a bug; it goes on in the build that asked, as if it had been called directly.
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
