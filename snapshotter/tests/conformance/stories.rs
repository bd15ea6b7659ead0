//! What steps do to trees: the same stories for both drivers.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{symlink, FileExt};
use std::path::Path;

use rustix::fs::FileType;

use crate::bench::{age, make, mode, node, write, xattr};

/// A capability as `setcap cap_net_raw+ep` writes it.
pub const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub type Step = fn(&Path);

/// What steps do to trees, each on top of what the step before left.
pub const STORIES: &[(&str, &[Step])] = &[
    ("nothing", &[|_| {}, |_| {}]),
    (
        "files come, change and go",
        &[
            |r| {
                write(r.join("a"), "1");
                make(r.join("d/e"));
                write(r.join("d/e/x"), "x");
                write(r.join("d/y"), "y");
            },
            |r| {
                write(r.join("a"), "22");
                fs::remove_file(r.join("d/y")).unwrap();
                write(r.join("new"), "n");
            },
            |r| fs::remove_dir_all(r.join("d")).unwrap(),
            |r| {
                make(r.join("d"));
                write(r.join("d/y"), "again");
            },
        ],
    ),
    (
        "a directory in the place of a directory",
        &[
            |r| {
                make(r.join("d/same"));
                make(r.join("d/gone/deep"));
                write(r.join("d/same/kept"), "k");
                write(r.join("d/same/gone"), "g");
                write(r.join("d/f"), "f");
                age(r.join("d/same/kept"), 5);
            },
            |r| {
                fs::remove_dir_all(r.join("d")).unwrap();
                make(r.join("d/same"));
                write(r.join("d/same/kept"), "k");
                age(r.join("d/same/kept"), 5);
                write(r.join("d/new"), "n");
            },
            |r| {
                fs::remove_dir_all(r.join("d")).unwrap();
                make(r.join("d"));
            },
            |r| {
                fs::rename(r.join("d"), r.join("moved")).unwrap_or_else(|_| {
                    // An overlay moves no directory of a lower layer; programs copy it then.
                    make(r.join("moved"));
                    fs::remove_dir(r.join("d")).unwrap();
                })
            },
        ],
    ),
    (
        "types change",
        &[
            |r| {
                write(r.join("file"), "f");
                make(r.join("directory/inside"));
                symlink("file", r.join("link")).unwrap();
            },
            |r| {
                for name in ["file", "link"] {
                    fs::remove_file(r.join(name)).unwrap();
                }
                make(r.join("file/in"));
                write(r.join("link"), "no link");
                fs::remove_dir_all(r.join("directory")).unwrap();
                symlink("elsewhere", r.join("directory")).unwrap();
            },
            |r| {
                fs::remove_dir_all(r.join("file")).unwrap();
                write(r.join("file"), "a file again");
                fs::remove_file(r.join("link")).unwrap();
                node(r.join("link"), FileType::Fifo, (0, 0));
            },
        ],
    ),
    (
        "only what files are changes, not what is in them",
        &[
            |r| {
                for name in ["mode", "owner", "xattr", "capability", "time"] {
                    write(r.join(name), "same");
                    make(r.join(format!("d-{name}")));
                }
                symlink("a", r.join("target")).unwrap();
            },
            |r| {
                mode(r.join("mode"), 0o4755);
                mode(r.join("d-mode"), 0o1777);
                for name in ["owner", "d-owner"] {
                    std::os::unix::fs::chown(r.join(name), Some(12), Some(34)).unwrap();
                }
                for name in ["xattr", "d-xattr"] {
                    xattr(r.join(name), "user.key", b"value\0");
                }
                xattr(r.join("capability"), "security.capability", CAPABILITY);
                age(r.join("time"), 77);
                age(r.join("d-time"), 77);
                fs::remove_file(r.join("target")).unwrap();
                symlink("b", r.join("target")).unwrap();
            },
            |r| {
                for name in ["xattr", "d-xattr"] {
                    rustix::fs::removexattr(r.join(name), "user.key").unwrap();
                }
                write(r.join("time"), "SAME");
                age(r.join("time"), 77);
                mode(r.to_owned(), 0o711);
            },
        ],
    ),
    (
        "what was touched and is as before is no change",
        &[
            |r| {
                make(r.join("d"));
                write(r.join("d/f"), "f");
                write(r.join("d/g"), "g");
                fs::hard_link(r.join("d/g"), r.join("d/h")).unwrap();
            },
            |r| {
                mode(r.join("d/f"), 0o600);
                mode(r.join("d/f"), 0o644);
                write(r.join("d/tmp"), "t");
                fs::remove_file(r.join("d/tmp")).unwrap();
                mode(r.join("d"), 0o755);
            },
        ],
    ),
    (
        "hard links",
        &[
            |r| {
                make(r.join("d"));
                write(r.join("a"), "linked");
                fs::hard_link(r.join("a"), r.join("d/b")).unwrap();
                write(r.join("alone"), "alone");
                symlink("a", r.join("s")).unwrap();
                fs::hard_link(r.join("s"), r.join("d/s")).unwrap();
            },
            |r| fs::hard_link(r.join("alone"), r.join("d/with")).unwrap(),
            |r| {
                fs::remove_file(r.join("alone")).unwrap();
                write(r.join("x"), "x");
                fs::hard_link(r.join("x"), r.join("y")).unwrap();
                fs::hard_link(r.join("x"), r.join("z")).unwrap();
            },
        ],
    ),
    (
        "devices, pipes and holes",
        &[
            |r| {
                node(r.join("null"), FileType::CharacterDevice, (1, 3));
                node(r.join("disk"), FileType::BlockDevice, (7, 0));
                node(r.join("pipe"), FileType::Fifo, (0, 0));
                let file = fs::File::create(r.join("holes")).unwrap();
                file.set_len(10 << 20).unwrap();
                file.write_all_at(b"data", 5 << 20).unwrap();
            },
            |r| {
                fs::remove_file(r.join("null")).unwrap();
                node(r.join("null"), FileType::CharacterDevice, (1, 5));
                fs::File::options().write(true).open(r.join("holes")).unwrap().write_all_at(b"DATA", 6 << 20).unwrap();
            },
        ],
    ),
    (
        "names nobody would choose",
        &[
            |r| {
                for name in NAMES {
                    let name = std::ffi::OsString::from_vec(name.to_vec());
                    make(r.join(&name));
                    write(r.join(&name).join(&name), "n");
                }
                // Sorted by bytes these stand on either side of what is in `a`.
                make(r.join("a"));
                write(r.join("a/z"), "");
                write(r.join("a-b"), "");
                write(r.join("a0"), "");
            },
            |r| {
                for name in NAMES {
                    let name = std::ffi::OsString::from_vec(name.to_vec());
                    fs::remove_file(r.join(&name).join(&name)).unwrap();
                }
                fs::remove_file(r.join("a/z")).unwrap();
                fs::remove_file(r.join("a-b")).unwrap();
            },
        ],
    ),
];

pub const NAMES: [&[u8]; 6] = [b"new\nline", b"\xff\xfe", b"-rf", b"a:b,c\\d", b" ", &[b'n'; 255]];
