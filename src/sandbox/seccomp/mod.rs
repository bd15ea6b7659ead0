//! The filter on system calls of a build step.
//!
//! *Job*: turn [`table`] into a short program for the kernel. *Not its job*: loading it, see
//! [`identity`](super::identity). *Start reading at* [`step_filter`].
//!
//! The kernel checks a filter's every answer once when it is loaded, so its length is paid by each step: calls are
//! grouped into ranges and found by halving, in a dozen comparisons instead of hundreds.

mod bpf;
mod table;

use bpf::{Label, Program};
use table::Column;

/// `SECCOMP_RET_ALLOW`.
const ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_ERRNO` with EPERM: what a step may not do.
const EPERM: u32 = 0x0005_0000 | libc::EPERM as u32;
/// `SECCOMP_RET_ERRNO` with ENOSYS: what a step is to believe that the kernel does not have.
const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
/// `SECCOMP_RET_KILL_PROCESS`.
const KILL: u32 = 0x8000_0000;

/// Where `struct seccomp_data` has the number, the architecture and the lower half of the first argument. The kernel
/// takes only that half of the arguments looked at here.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the table of system calls has no column for this architecture");

/// `AUDIT_ARCH_*` of `linux/audit.h`: what a program on this machine may be made for.
const ARCHITECTURES: &[(u32, Column)] = if cfg!(target_arch = "aarch64") {
    &[(0xc000_00b7, Column::Aarch64)]
} else {
    &[(0xc000_003e, Column::X86_64), (0x4000_0003, Column::I386)]
};

/// The `CLONE_NEW*` flags, all of which make a namespace: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: u32 = 0x7e02_0000;

/// Address families a socket may have, as ranges. Not among them: AF_ALG (38), a large part of the kernel that nobody
/// needs; AF_VSOCK (40), which reaches the host from any namespace; families that kernels no longer have.
const FAMILIES: &[(u32, u32)] = &[(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];

/// Execution domains: Linux, with the name of an old kernel or for 32 bits, or just asking. The flag that switches
/// address randomisation off is not among them.
const PERSONALITIES: &[(u32, u32)] = &[(0, 0), (8, 8), (0x20000, 0x20000), (0x20008, 0x20008), (u32::MAX, u32::MAX)];

/// What is asked of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    /// Nothing.
    Allow,
    /// No new namespaces.
    Clone,
    /// One of [`FAMILIES`].
    Socket,
    /// One of [`PERSONALITIES`].
    Personality,
    /// It does not exist: clone3 hides its flags in memory, and C libraries fall back to clone.
    NoSys,
}

/// The filter of a build step, as `struct sock_filter`s.
///
/// On x86_64 programs for i386 are filtered by their own numbers; those for x32 find no calls at all, as on most
/// kernels.
pub(super) fn step_filter() -> Vec<u64> {
    build().finish()
}

fn build() -> Program {
    let mut program = Program::default();
    let mut other = program.ret(KILL);
    for (architecture, column) in ARCHITECTURES.iter().rev() {
        let rules = Rules::emit(&mut program);
        let calls = ranges(*column).into_iter().map(|(start, rule)| (start, rules.label(rule))).collect::<Vec<_>>();
        let tree = program.tree(&calls);
        let load = program.load(NUMBER, tree);
        other = program.equal(*architecture, load, other);
    }
    program.load(ARCHITECTURE, other);
    program
}

/// Where each answer is.
struct Rules {
    allow: Label,
    denied: Label,
    unknown: Label,
    clone: Label,
    socket: Label,
    personality: Label,
}

impl Rules {
    fn emit(program: &mut Program) -> Rules {
        let (allow, denied, unknown) = (program.ret(ALLOW), program.ret(EPERM), program.ret(ENOSYS));
        let flags = program.any_bit(NAMESPACES, denied, allow);
        let clone = program.load(FIRST_ARGUMENT, flags);
        let mut one_of = |values: &[(u32, u32)]| {
            let tree = program.tree(&membership(values, allow, denied));
            program.load(FIRST_ARGUMENT, tree)
        };
        let (socket, personality) = (one_of(FAMILIES), one_of(PERSONALITIES));
        Rules { allow, denied, unknown, clone, socket, personality }
    }

    fn label(&self, rule: Option<Rule>) -> Label {
        match rule {
            Some(Rule::Allow) => self.allow,
            Some(Rule::Clone) => self.clone,
            Some(Rule::Socket) => self.socket,
            Some(Rule::Personality) => self.personality,
            Some(Rule::NoSys) => self.unknown,
            None => self.denied,
        }
    }
}

/// Ranges of values as a partition of all values.
fn membership(values: &[(u32, u32)], inside: Label, outside: Label) -> Vec<(u32, Label)> {
    let mut parts = Vec::new();
    let mut next = Some(0);
    for (first, last) in values {
        if next.is_some_and(|next| next < *first) {
            parts.extend(next.map(|next| (next, outside)));
        }
        parts.push((*first, inside));
        next = last.checked_add(1);
    }
    parts.extend(next.map(|next| (next, outside)));
    parts
}

/// All numbers of an architecture as ranges with one rule each; `None` is denied.
fn ranges(column: Column) -> Vec<(u32, Option<Rule>)> {
    let mut rules = vec![None; table::NEWEST as usize + 1];
    for (number, rule) in table::calls(column) {
        rules[number as usize] = Some(rule);
    }
    rules.push(Some(Rule::NoSys));
    let mut ranges: Vec<(u32, Option<Rule>)> = Vec::new();
    for (number, rule) in (0_u32..).zip(rules) {
        if ranges.last().is_none_or(|(_, last)| *last != rule) {
            ranges.push((number, rule));
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::bpf::interpret;
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    /// The filter's answer, and how many instructions it took.
    fn answer(architecture: u32, number: u32, argument: u64) -> (u32, usize) {
        let mut data = [0_u8; 64];
        data[0..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&architecture.to_ne_bytes());
        data[16..24].copy_from_slice(&argument.to_ne_bytes());
        interpret(&step_filter(), &data)
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_number_gets_the_answer_of_the_table() {
        let filter = build().finish();
        let mut longest = 0;
        for (architecture, column) in ARCHITECTURES {
            let rules: std::collections::HashMap<u32, Rule> = table::calls(*column).collect();
            for number in (0..1000).chain([0x3fff_ffff, 0x4000_0000, 0x4000_0001, 0x7fff_ffff, u32::MAX]) {
                let mut data = [0_u8; 64];
                data[0..4].copy_from_slice(&number.to_ne_bytes());
                data[4..8].copy_from_slice(&architecture.to_ne_bytes());
                let (got, steps) = interpret(&filter, &data);
                let expected = match rules.get(&number) {
                    Some(Rule::NoSys) => ENOSYS,
                    Some(_) => ALLOW, // with a first argument of 0
                    None if number > table::NEWEST => ENOSYS,
                    None => EPERM,
                };
                assert_eq!(got, expected, "call {number} of {column:?}");
                longest = longest.max(steps);
            }
        }
        eprintln!("{} instructions, at most {longest} a call", filter.len());
        assert!(filter.len() < 400, "{} instructions: loading costs by length", filter.len());
        assert!(longest < 24, "{longest} instructions for one call");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn arguments_decide_where_they_must() {
        const CLONE: u32 = 56;
        const SOCKET: u32 = 41;
        const PERSONALITY: u32 = 135;
        let table = [
            (CLONE, 0x0000_0011, ALLOW),
            (CLONE, 0x0100_3d0f, ALLOW), // a thread, as pthread_create makes it
            (CLONE, 0x1000_0011, EPERM), // NEWUSER
            (CLONE, 0x0002_0011, EPERM), // NEWNS
            (CLONE, 0x4000_0000, EPERM), // NEWNET
            (SOCKET, 1, ALLOW),
            (SOCKET, 2, ALLOW),
            (SOCKET, 10, ALLOW),
            (SOCKET, 16, ALLOW),
            (SOCKET, 17, ALLOW),
            (SOCKET, 38, EPERM),
            (SOCKET, 0xdead_beef_0000_0026, EPERM), // the kernel looks at the lower half
            (SOCKET, 39, ALLOW),
            (SOCKET, 40, EPERM),
            (SOCKET, 41, ALLOW),
            (SOCKET, 46, EPERM),
            (SOCKET, 0xffff_ffff, EPERM),
            (PERSONALITY, 0, ALLOW),
            (PERSONALITY, 8, ALLOW),
            (PERSONALITY, 0x20008, ALLOW),
            (PERSONALITY, 0xffff_ffff, ALLOW),
            (PERSONALITY, 0x0004_0000, EPERM), // ADDR_NO_RANDOMIZE
        ];
        for (number, argument, expected) in table {
            assert_eq!(answer(X86_64, number, argument).0, expected, "call {number} with {argument:#x}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn named_calls_are_what_they_are_known_to_be() {
        let table = [
            (X86_64, libc::SYS_ptrace, ALLOW),
            (X86_64, libc::SYS_chroot, ALLOW),
            (X86_64, libc::SYS_clone3, ENOSYS),
            (X86_64, libc::SYS_mount, EPERM),
            (X86_64, libc::SYS_unshare, EPERM),
            (X86_64, libc::SYS_setns, EPERM),
            (X86_64, libc::SYS_bpf, EPERM),
            (X86_64, libc::SYS_keyctl, EPERM),
            (X86_64, libc::SYS_io_uring_setup, EPERM),
            (X86_64, libc::SYS_userfaultfd, EPERM),
            (X86_64, libc::SYS_open_by_handle_at, EPERM),
            (X86_64, libc::SYS_kexec_load, EPERM),
            (X86_64, libc::SYS_mount_setattr, EPERM),
            (I386, 21, EPERM),      // mount
            (I386, 11, ALLOW),      // execve
            (I386, 102, ALLOW),     // socketcall
            (I386, 435, ENOSYS),    // clone3
            (0x4000_0028, 1, KILL), // arm
        ];
        for (architecture, number, expected) in table {
            assert_eq!(answer(architecture, number as u32, 0).0, expected, "call {number} of {architecture:#x}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_are_those_of_the_c_library() {
        let table = [
            ("accept4", libc::SYS_accept4),
            ("close_range", libc::SYS_close_range),
            ("execveat", libc::SYS_execveat),
            ("newfstatat", libc::SYS_newfstatat),
            ("openat2", libc::SYS_openat2),
            ("prlimit64", libc::SYS_prlimit64),
            ("rseq", libc::SYS_rseq),
            ("seccomp", libc::SYS_seccomp),
            ("statx", libc::SYS_statx),
            ("wait4", libc::SYS_wait4),
        ];
        for (name, number) in table {
            let row = table::CALLS.iter().find(|row| row.0 == name).expect(name);
            assert_eq!(i64::from(row.1[0]), number, "{name}");
        }
    }

    #[test]
    fn no_call_is_listed_twice() {
        for column in [Column::X86_64, Column::I386, Column::Aarch64] {
            let mut numbers: Vec<u32> = table::calls(column).map(|(number, _)| number).collect();
            numbers.sort_unstable();
            let count = numbers.len();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{column:?}");
            assert!(numbers.iter().all(|number| *number <= table::NEWEST));
        }
    }
}
