//! How much memory a process of ours keeps that it does not need any more.

/// Bytes. What is larger is taken from the kernel for itself, and given back when it is freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Has large pieces of memory given back to the kernel as soon as they are freed. To be called before any thread.
///
/// By itself glibc raises the limit to the size of whatever was freed, up to 32 MiB, and keeps twice as much: lists of
/// 100,000 files, freed one after the other, stayed half as much again.
pub fn give_back_large_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers, and refuses what it does not know. No other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
