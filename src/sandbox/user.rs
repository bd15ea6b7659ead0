//! Who a name means in an image: reads its passwd and group files, and nothing of the host's.
//!
//! See `passwd(5)`, `group(5)`. Numbers are numbers: a user called `0` is never looked up by that name.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::Error;
use super::inside;
use super::spec::User;

/// More than this no passwd file has; a larger one is an attack on our memory.
const LARGEST: u64 = 10 << 20;

/// A user of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Numbers.
    pub user: User,
    /// Home directory; `/` when the image does not say.
    pub home: String,
}

/// Finds out who `user` is in the image whose root directory is given: `name`, `uid`, `name:group`, `uid:gid`, or
/// nothing for root.
///
/// A number need not be in the files; then its group is 0. Supplementary groups are those that list the user, and none
/// when a group is given.
///
/// # Errors
/// [`Error::UnknownUser`], [`Error::UnknownGroup`], [`Error::BadId`]; [`Error::Refused`] when a file is not a
/// regular one of at most 10 MiB.
pub fn resolve_user(root: BorrowedFd, user: &str) -> Result<Account, Error> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let id = number(name)?;
    let gid = group.map(number).transpose()?.flatten();
    let passwd = match read(root, "etc/passwd") {
        // Two numbers and no user asked for by name: the files decide nothing but the home directory.
        Err(_) if id.is_some() && gid.is_some() => String::new(),
        other => other?,
    };
    let line = passwd.lines().filter_map(Passwd::parse).find(|line| match id {
        Some(id) => line.uid == id,
        None => line.name == name,
    });
    let mut account = match (&line, id) {
        (Some(line), _) => Account {
            user: User { uid: line.uid, gid: line.gid, groups: Vec::new() },
            home: if line.home.is_empty() { "/" } else { line.home }.to_owned(),
        },
        (None, Some(uid)) => Account { user: User { uid, gid: 0, groups: Vec::new() }, home: "/".to_owned() },
        (None, None) => return Err(Error::UnknownUser { name: name.to_owned() }),
    };
    match (group, gid) {
        (_, Some(gid)) => account.user.gid = gid,
        (Some(group), None) => {
            let groups = read(root, "etc/group")?;
            let found = groups.lines().filter_map(Group::parse).find(|line| line.name == group);
            account.user.gid = found.ok_or_else(|| Error::UnknownGroup { name: group.to_owned() })?.gid;
        }
        (None, None) => {
            if let Some(passwd) = &line {
                let groups = read(root, "etc/group")?;
                let listed = groups.lines().filter_map(Group::parse).filter(|line| line.has(passwd.name));
                account.user.groups = listed.map(|line| line.gid).collect();
            }
        }
    }
    Ok(account)
}

/// The number that a text of digits is; `None` for a name.
fn number(text: &str) -> Result<Option<u32>, Error> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    id(text).map(Some).ok_or_else(|| Error::BadId { id: text.to_owned() })
}

/// A user or group id. The last number means "leave as it is" to the kernel and is nobody's.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX && !text.starts_with('+'))
}

/// One line of a passwd file; a malformed one is no line.
struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    fn parse(line: &'a str) -> Option<Passwd<'a>> {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
        let home = fields.nth(1).unwrap_or_default();
        (!name.is_empty()).then_some(Passwd { name, uid, gid, home })
    }
}

/// One line of a group file.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Group<'a>> {
        let mut fields = line.trim().split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, id(fields.next()?)?);
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    }

    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

/// Reads a file of the image; one that is missing is empty. Links are followed inside the image.
fn read(root: BorrowedFd, path: &'static str) -> Result<String, Error> {
    let refused = |reason: &str| Error::Refused { path: Path::new("/").join(path), reason: reason.to_owned() };
    let failed = |step: &'static str| Error::setup_at(step, Path::new("/").join(path));
    // Without O_NONBLOCK opening a named pipe would wait for a writer that never comes.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match inside::open(root, Path::new(path), flags, ResolveFlags::NO_MAGICLINKS) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(Errno::LOOP) => return Err(refused("is a loop of links")),
        Err(Errno::NXIO) => return Err(refused("is not a regular file")),
        Err(errno) => return Err(failed("open")(errno.into())),
    };
    let stat = rustix::fs::fstat(&file).map_err(|errno| failed("look at")(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refused("is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed("read"))?;
    if bytes.len() as u64 > LARGEST {
        return Err(refused("is larger than 10 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const PASSWD: &str =
        "# comment\nroot:x:0:0:root:/root:/bin/sh\n0:x:77:77::/zero:/bin/sh\nann:x:1000:100::/home/ann:\n\
        bad:x:one:1::/:\nbig:x:4294967296:1::/:\nlast:x:4294967295:1::/:\nnohome:x:5:5\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:root, ann\naudio:x:29:ann\nhuge:x:4294967295:ann\n";

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("etc")).expect("etc");
        std::fs::write(dir.path().join("etc/passwd"), PASSWD).expect("passwd");
        std::fs::write(dir.path().join("etc/group"), GROUP).expect("group");
        dir
    }

    fn resolve(dir: &Path, user: &str) -> Result<Account, String> {
        let root = File::open(dir).expect("open");
        resolve_user(root.as_fd(), user).map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_numbers_mean_what_the_files_say() {
        let dir = image();
        let account = |uid, gid, groups: &[u32], home: &str| {
            Ok(Account { user: User { uid, gid, groups: groups.to_vec() }, home: home.to_owned() })
        };
        let unknown = |name: &str| Err(format!("unable to find user {name}: no matching entries in passwd file"));
        let bad = |id: &str| Err(format!("{id}: user and group ids are 0 to 4294967294"));
        let table = [
            ("", account(0, 0, &[10], "/root")),
            ("root", account(0, 0, &[10], "/root")),
            ("0", account(0, 0, &[10], "/root")),
            ("ann", account(1000, 100, &[10, 29], "/home/ann")),
            ("1000", account(1000, 100, &[10, 29], "/home/ann")),
            ("ann:wheel", account(1000, 10, &[], "/home/ann")),
            ("ann:7", account(1000, 7, &[], "/home/ann")),
            ("1000:7", account(1000, 7, &[], "/home/ann")),
            ("ann:", account(1000, 100, &[10, 29], "/home/ann")),
            ("nohome", account(5, 5, &[], "/")),
            ("4000", account(4000, 0, &[], "/")),
            ("2147483648", account(2_147_483_648, 0, &[], "/")),
            ("4000:4001", account(4000, 4001, &[], "/")),
            ("bob", unknown("bob")),
            ("bad", unknown("bad")),
            ("big", unknown("big")),
            ("last", unknown("last")),
            ("ann:nogroup", Err("unable to find group nogroup: no matching entries in group file".to_owned())),
            ("4294967295", bad("4294967295")),
            ("4294967296", bad("4294967296")),
            ("-1", bad("-1")),
            ("1:4294967295", bad("4294967295")),
        ];
        for (user, expected) in table {
            assert_eq!(resolve(dir.path(), user), expected, "{user:?}");
        }
    }

    #[test]
    fn image_without_files_has_numbers_only() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(resolve(dir.path(), "").expect("root").user, User::default());
        assert_eq!(resolve(dir.path(), "7").expect("a number").user, User { uid: 7, gid: 0, groups: vec![] });
        assert!(resolve(dir.path(), "root").is_err());
    }

    #[test]
    fn files_that_are_traps_are_refused() {
        let dir = image();
        let passwd = dir.path().join("etc/passwd");
        let path = std::ffi::CString::new(passwd.to_str().expect("text")).expect("no NUL");
        let trap = |make: &dyn Fn(), expected: &str| {
            std::fs::remove_file(&passwd).expect("remove");
            make();
            assert_eq!(resolve(dir.path(), "ann").expect_err(expected), expected);
        };
        // SAFETY: a C string.
        trap(
            &|| assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o644) }, 0),
            r#""/etc/passwd" in the image is not a regular file"#,
        );
        let link = |to: &str| std::os::unix::fs::symlink(to, &passwd).expect("symlink");
        trap(&|| link("passwd"), r#""/etc/passwd" in the image is a loop of links"#);
        trap(
            &|| File::create(&passwd).and_then(|file| file.set_len(LARGEST + 1)).expect("a large file"),
            r#""/etc/passwd" in the image is larger than 10 MiB"#,
        );
        // Followed inside the image, where the host's file is not.
        trap(
            &|| link("/../../../../../../etc/hostname"),
            "unable to find user ann: no matching entries in passwd file",
        );
    }
}
