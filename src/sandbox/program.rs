//! Finds the user's program and becomes it.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, OFlags, CWD};

use super::error::Error;
use super::keeper::{forget_all_but, tell_failure, tell_start};
use super::root::Tree;
use super::wire::Order;

/// Enters the directory the program starts in, making it when it is missing.
pub(super) fn enter_directory(tree: &Tree, path: &Path) -> Result<(), Error> {
    let directory = tree.directory(path)?;
    rustix::process::fchdir(&directory).map_err(|e| Error::setup_at("enter", path)(e.into()))?;
    // A directory that cannot be reached from the root would be a way out of it.
    let real = rustix::process::getcwd(Vec::new()).map_err(|e| Error::setup_at("enter", path)(e.into()))?;
    if !real.as_bytes().starts_with(b"/") {
        let reason = "is outside the root file system".to_owned();
        return Err(Error::Refused { path: path.to_owned(), reason });
    }
    Ok(())
}

/// Becomes the program, or tells the keeper why that is not possible. Does not return, since no descriptor is left.
pub(super) fn execute(order: &Order, keeper: BorrowedFd) -> ! {
    close_all_but(keeper);
    default_signals();
    let error = match tell_start(keeper) {
        Ok(()) => become_one_of(order),
        Err(error) => Error::setup("reach the keeper")(error),
    };
    tell_failure(keeper, error);
    // SAFETY: ends this copy without running the keeper's exit handlers.
    unsafe { libc::_exit(125) }
}

/// Becomes the first program that the name may mean; returns why none is possible.
fn become_one_of(order: &Order) -> Error {
    let strings = |list: &[Vec<u8>]| -> Vec<CString> {
        list.iter().map(|bytes| CString::new(bytes.as_slice()).unwrap_or_default()).collect()
    };
    let (args, env) = (strings(&order.args), strings(&order.env));
    let path = order.env.iter().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or_default();
    let candidates = candidates(&order.args[0], path);
    let named_by_path = order.args[0].contains(&b'/');
    let mut refusal = None;
    for candidate in &candidates {
        let error = try_to_become(candidate, &args, &env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) if !is_file(candidate) => {}
            // A directory of that name on the way, as a shell sees it.
            Some(libc::EACCES) if !named_by_path && !is_file(candidate) => {}
            _ => refusal = refusal.or(Some(error)),
        }
    }
    let program = String::from_utf8_lossy(&order.args[0]).into_owned();
    match refusal {
        None if !named_by_path => Error::NotFound { program },
        None => {
            let reason = format!("stat {program}: no such file or directory");
            Error::NotExecutable { program, reason }
        }
        Some(error) => Error::NotExecutable { program, reason: words(&error) },
    }
}

/// The files that `program` may mean, best first.
fn candidates(program: &[u8], path: &[u8]) -> Vec<CString> {
    let join = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        let file = Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(program));
        CString::new(file.as_os_str().as_bytes()).unwrap_or_default()
    };
    match program {
        [] => Vec::new(),
        _ if program.contains(&b'/') => vec![CString::new(program).unwrap_or_default()],
        _ if path.is_empty() => Vec::new(),
        _ => path.split(|byte| *byte == b':').map(join).collect(),
    }
}

/// Leaves the standard descriptors and the keeper's socket, which closes when the program starts. A program that was
/// named `/proc/self/fd/7` must find nothing there.
fn close_all_but(keeper: BorrowedFd) {
    forget_all_but(&[0, 1, 2, keeper.as_raw_fd()]);
}

/// Signals that the builder ignores or blocks are the program's to choose about.
fn default_signals() {
    // SAFETY: this process handles no signals; the set is initialised before it is used.
    unsafe {
        // By system call, since the C library keeps two of them to itself. All zeros is the default action.
        let default = [0_u64; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, 8);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn try_to_become(file: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point to C strings that live until the call returns.
    unsafe { libc::execve(file.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

fn is_file(path: &CStr) -> bool {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .and_then(rustix::fs::fstat)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// The kernel's words as other builders print them: lower case, without the number.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(libc::ENOEXEC) => "exec format error".to_owned(),
        Some(libc::ENOENT) => "no such file or directory (its interpreter is missing)".to_owned(),
        Some(libc::E2BIG) => "argument list too long".to_owned(),
        _ => error.to_string(),
    }
}
