//! The bytes in which the builder and the processes it starts speak to each other.
//!
//! Both ends are always the same program, so there is no version: numbers are little-endian, byte strings carry
//! their length. An [`Order`] travels by memory file, a [`Report`] by pipe.

use std::ffi::OsStr;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::error::Error;
use super::spec::DeviceSpec;

/// Overwrites bytes.
pub(super) fn forget(bytes: &mut [u8]) {
    bytes.fill(0);
    // Nobody reads this again, so without a hint the compiler may leave the overwriting out.
    std::hint::black_box(bytes);
}

/// Collects fields.
#[derive(Default)]
pub(super) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Writer, &T)) {
        self.number(items.len() as u64);
        for item in items {
            each(self, item);
        }
    }
}

/// Takes fields off in the order they were collected.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = tail;
        Ok(head)
    }

    pub fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let count = self.number()?;
        Ok(self.take(usize::try_from(count).map_err(|_| io::ErrorKind::InvalidData)?)?.to_vec())
    }

    pub fn text(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    pub fn path(&mut self) -> io::Result<PathBuf> {
        Ok(PathBuf::from(OsStr::from_bytes(&self.bytes()?)))
    }

    pub fn list<T>(&mut self, mut each: impl FnMut(&mut Reader<'a>) -> io::Result<T>) -> io::Result<Vec<T>> {
        let count = self.number()?;
        (0..count).map(|_| each(self)).collect()
    }
}

/// What the sandbox is to do: [`ProcessSpec`](super::ProcessSpec) with descriptors as the numbers they have in the
/// process that reads it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Order {
    pub root: RawFd,
    pub read_only_root: bool,
    pub mounts: Vec<Mount>,
    pub devices: Vec<DeviceSpec>,
    pub args: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    pub cwd: PathBuf,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub hostname: String,
    /// A network namespace of its own, with only a loopback in it.
    pub own_network: bool,
    pub insecure: bool,
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Directories made above a mount point are not removed.
    pub keep_stub_parents: bool,
    /// Limit by the pid namespace; 0 when the kernel has none and a cgroup does it.
    pub pid_max: u32,
    /// `cgroup.procs` files to join.
    pub cgroups: Vec<RawFd>,
    /// The compiled filter; empty for none.
    pub filter: Vec<u64>,
    /// Where to report.
    pub report: RawFd,
}

#[derive(Debug, PartialEq)]
pub(super) struct Mount {
    pub dest: PathBuf,
    pub kind: Kind,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Bind { source: RawFd, read_only: bool },
    Tmpfs { size: u64, mode: u32, read_only: bool },
    File { content: Vec<u8>, mode: u32, uid: u32, gid: u32 },
}

impl Order {
    /// Overwrites what may be secrets, files and variables, for a process that does not need them any more.
    pub fn forget_secrets(&mut self) {
        for mount in &mut self.mounts {
            if let Kind::File { content, .. } = &mut mount.kind {
                forget(content);
            }
        }
        self.env.iter_mut().for_each(|entry| forget(entry));
    }

    /// Replaces the numbers of descriptors by those that they have in another process.
    pub fn renumber(&mut self, numbers: &[(RawFd, RawFd)]) {
        let own = [&mut self.root, &mut self.report].into_iter().chain(&mut self.cgroups);
        let sources = self.mounts.iter_mut().filter_map(|mount| match &mut mount.kind {
            Kind::Bind { source, .. } => Some(source),
            _ => None,
        });
        for fd in own.chain(sources) {
            if let Some((_, here)) = numbers.iter().find(|(there, _)| there == fd) {
                *fd = *here;
            }
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.number(self.root as u64);
        w.number(self.read_only_root.into());
        w.list(&self.mounts, |w, mount| {
            w.bytes(mount.dest.as_os_str().as_bytes());
            match &mount.kind {
                Kind::Bind { source, read_only } => {
                    w.number(0);
                    w.number(*source as u64);
                    w.number((*read_only).into());
                }
                Kind::Tmpfs { size, mode, read_only } => {
                    w.number(1);
                    w.number(*size);
                    w.number((*mode).into());
                    w.number((*read_only).into());
                }
                Kind::File { content, mode, uid, gid } => {
                    w.number(2);
                    w.bytes(content);
                    w.number((*mode).into());
                    w.number((*uid).into());
                    w.number((*gid).into());
                }
            }
        });
        w.list(&self.devices, |w, device| {
            w.bytes(device.path.as_os_str().as_bytes());
            w.bytes(device.host.as_os_str().as_bytes());
            w.number(device.is_block.into());
            let (numbers, owner) = (device.numbers, device.owner);
            [numbers.0, numbers.1, device.mode, owner.0, owner.1]
                .into_iter()
                .for_each(|number| w.number(number.into()));
        });
        w.list(&self.args, |w, arg| w.bytes(arg));
        w.list(&self.env, |w, entry| w.bytes(entry));
        w.bytes(self.cwd.as_os_str().as_bytes());
        w.number(self.uid.into());
        w.number(self.gid.into());
        w.list(&self.groups, |w, gid| w.number((*gid).into()));
        w.bytes(self.hostname.as_bytes());
        w.number(self.own_network.into());
        w.number(self.insecure.into());
        w.list(&self.rlimits, |w, (resource, soft, hard)| {
            w.number((*resource).into());
            w.number(*soft);
            w.number(*hard);
        });
        w.number(self.keep_stub_parents.into());
        w.number(self.pid_max.into());
        w.list(&self.cgroups, |w, fd| w.number(*fd as u64));
        w.list(&self.filter, |w, instruction| w.number(*instruction));
        w.number(self.report as u64);
        w.0
    }

    pub fn decode(bytes: &[u8]) -> io::Result<Order> {
        let r = &mut Reader(bytes);
        Ok(Order {
            root: r.number()? as RawFd,
            read_only_root: r.number()? != 0,
            mounts: r.list(|r| {
                let dest = r.path()?;
                let kind = match r.number()? {
                    0 => Kind::Bind { source: r.number()? as RawFd, read_only: r.number()? != 0 },
                    1 => Kind::Tmpfs { size: r.number()?, mode: r.number()? as u32, read_only: r.number()? != 0 },
                    2 => Kind::File {
                        content: r.bytes()?,
                        mode: r.number()? as u32,
                        uid: r.number()? as u32,
                        gid: r.number()? as u32,
                    },
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                };
                Ok(Mount { dest, kind })
            })?,
            devices: r.list(|r| {
                Ok(DeviceSpec {
                    path: r.path()?,
                    host: r.path()?,
                    is_block: r.number()? != 0,
                    numbers: (r.number()? as u32, r.number()? as u32),
                    mode: r.number()? as u32,
                    owner: (r.number()? as u32, r.number()? as u32),
                })
            })?,
            args: r.list(Reader::bytes)?,
            env: r.list(Reader::bytes)?,
            cwd: r.path()?,
            uid: r.number()? as u32,
            gid: r.number()? as u32,
            groups: r.list(|r| Ok(r.number()? as u32))?,
            hostname: r.text()?,
            own_network: r.number()? != 0,
            insecure: r.number()? != 0,
            rlimits: r.list(|r| Ok((r.number()? as u32, r.number()?, r.number()?)))?,
            keep_stub_parents: r.number()? != 0,
            pid_max: r.number()? as u32,
            cgroups: r.list(|r| Ok(r.number()? as RawFd))?,
            filter: r.list(Reader::number)?,
            report: r.number()? as RawFd,
        })
    }
}

/// What comes back: first [`Started`](Report::Started) or [`Failed`](Report::Failed), then
/// [`Exited`](Report::Exited).
#[derive(Debug)]
pub(super) enum Report {
    Started,
    Failed(Error),
    /// The status word of `waitpid(2)`.
    Exited(i32),
}

impl Report {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        match self {
            Report::Started => w.number(0),
            Report::Exited(status) => {
                w.number(1);
                w.number(*status as u64);
            }
            Report::Failed(error) => {
                w.number(2);
                encode_error(&mut w, error);
            }
        }
        w.0
    }

    pub fn decode(bytes: &[u8]) -> io::Result<Report> {
        let r = &mut Reader(bytes);
        Ok(match r.number()? {
            0 => Report::Started,
            1 => Report::Exited(r.number()? as i32),
            2 => Report::Failed(decode_error(r)?),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }
}

fn encode_error(w: &mut Writer, error: &Error) {
    match error {
        Error::NotFound { program } => {
            w.number(0);
            w.bytes(program.as_bytes());
        }
        Error::NotExecutable { program, reason } => {
            w.number(1);
            w.bytes(program.as_bytes());
            w.bytes(reason.as_bytes());
        }
        Error::Refused { path, reason } => {
            w.number(2);
            w.bytes(path.as_os_str().as_bytes());
            w.bytes(reason.as_bytes());
        }
        Error::Setup { step, path, source } => {
            w.number(3);
            w.bytes(step.as_bytes());
            w.number(path.is_some().into());
            w.bytes(path.as_deref().map(|path| path.as_os_str().as_bytes()).unwrap_or_default());
            w.number(source.raw_os_error().unwrap_or(libc::EIO) as u64);
        }
        other => {
            w.number(4);
            w.bytes(other.to_string().as_bytes());
        }
    }
}

fn decode_error(r: &mut Reader) -> io::Result<Error> {
    Ok(match r.number()? {
        0 => Error::NotFound { program: r.text()? },
        1 => Error::NotExecutable { program: r.text()?, reason: r.text()? },
        2 => Error::Refused { path: r.path()?, reason: r.text()? },
        3 => {
            let step = r.text()?;
            let named = r.number()? != 0;
            let path = r.path()?;
            let source = io::Error::from_raw_os_error(r.number()? as i32);
            Error::Setup { step, path: named.then_some(path), source }
        }
        _ => Error::Invalid { what: r.text()? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_comes_out_as_it_went_in() {
        let mut order = Order {
            root: 3,
            read_only_root: true,
            mounts: vec![
                Mount { dest: "/a".into(), kind: Kind::Bind { source: 4, read_only: true } },
                Mount { dest: "/b".into(), kind: Kind::Tmpfs { size: 1 << 40, mode: 0o1777, read_only: false } },
                Mount { dest: "/c".into(), kind: Kind::File { content: vec![0, 255], mode: 0o400, uid: 1, gid: 2 } },
            ],
            devices: vec![DeviceSpec {
                path: "/dev/x".into(),
                host: "/dev/null".into(),
                is_block: true,
                numbers: (1, 3),
                mode: 0o640,
                owner: (5, 6),
            }],
            args: vec![b"sh".to_vec(), vec![], vec![0xff]],
            env: vec![b"A=B".to_vec()],
            cwd: "/w".into(),
            uid: u32::MAX - 1,
            gid: 7,
            groups: vec![1, 2],
            hostname: "h".to_owned(),
            own_network: true,
            insecure: true,
            rlimits: vec![(7, u64::MAX, 1)],
            keep_stub_parents: true,
            pid_max: 301,
            cgroups: vec![8, 9],
            filter: vec![u64::MAX],
            report: 10,
        };
        let bytes = order.encode();
        assert_eq!(Order::decode(&bytes).expect("decode"), order);
        for end in 0..bytes.len() {
            assert!(Order::decode(&bytes[..end]).is_err(), "cut off at {end}");
        }
        order.renumber(&[(3, 30), (4, 40), (8, 3), (9, 9), (10, 4)]);
        let Kind::Bind { source, .. } = order.mounts[0].kind else { panic!("a bind mount") };
        assert_eq!((order.root, source, &order.cgroups, order.report), (30, 40, &vec![3, 9], 4));
        order.forget_secrets();
        let Kind::File { content, .. } = &order.mounts[2].kind else { panic!("a file") };
        assert_eq!((content, &order.env), (&vec![0, 0], &vec![vec![0; 3]]));
    }

    #[test]
    fn errors_keep_their_kind_and_words() {
        let table = [
            Error::NotFound { program: "x".to_owned() },
            Error::NotExecutable { program: "x".to_owned(), reason: "permission denied".to_owned() },
            Error::Refused { path: "/dev".into(), reason: "is not a directory".to_owned() },
            Error::setup_at("mount", "/proc")(io::Error::from_raw_os_error(libc::EPERM)),
            Error::setup("clone")(io::Error::from_raw_os_error(libc::ENOMEM)),
        ];
        for error in table {
            let text = format!("{error:?}");
            let Ok(Report::Failed(back)) = Report::decode(&Report::Failed(error).encode()) else { panic!("{text}") };
            assert_eq!(format!("{back:?}"), text);
        }
    }
}
