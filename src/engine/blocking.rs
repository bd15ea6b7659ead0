//! The bridge from async code to blocking work.

/// Runs blocking work on the runtime's blocking threads.
///
/// Dropping the future does not stop work that has begun: such work looks at its own cancel flag, or is short.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A panic in blocking work is a bug; it goes on in the build that asked, as if it had been called directly.
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // Work that had not begun when the runtime ended never will; nobody is left to be told.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::blocking;

    #[test]
    fn work_that_never_began_is_no_panic_when_the_runtime_ends() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(1).build();
        let runtime = runtime.unwrap();
        let (told, hears) = std::sync::mpsc::channel::<()>();
        let (began, begins) = std::sync::mpsc::channel();
        runtime.spawn(blocking(move || {
            let _ = began.send(());
            let _ = hears.recv();
        }));
        begins.recv().unwrap();
        let waiting = runtime.spawn(blocking(|| ()));
        std::thread::sleep(Duration::from_millis(20));
        runtime.shutdown_timeout(Duration::from_millis(20));
        drop(told);
        let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(other.block_on(waiting).unwrap_err().is_cancelled());
    }
}
