//! The sending side of the conversation, without files or network.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Entry, Kind, Violation};
use crate::wire::proto::fsutil::{packet::PacketType, Packet};

/// The most bytes of a file in one packet, as the reference has it.
pub const LARGEST_DATA: usize = 32 << 10;

/// What a receiver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked<T> {
    /// The bytes of a file, please.
    File {
        /// Its number, for [`data`].
        id: u32,
        /// What [`Sender::tell`] was given with it.
        source: T,
    },
    /// It has all it wants. Answer with [`finish`].
    Finish,
    /// It gave up, and why.
    Failed(String),
}

/// Numbers the entries it tells of and reads what a receiver asks.
#[derive(Debug)]
pub struct Sender<T> {
    told: u32,
    /// Files that may be asked for, by number. A file can be asked for once.
    files: HashMap<u32, T>,
    done: bool,
}

impl<T> Default for Sender<T> {
    fn default() -> Sender<T> {
        Sender { told: 0, files: HashMap::new(), done: false }
    }
}

impl<T> Sender<T> {
    /// The packet that tells of the next entry. If it is a file, `source` is given back when its bytes are asked for.
    ///
    /// # Errors
    /// There are more entries than can be numbered.
    pub fn tell(&mut self, entry: Entry, source: T) -> Result<Packet, Violation> {
        let id = self.told;
        self.told = id.checked_add(1).ok_or(Violation::TooMuch { limit: u32::MAX.into(), of: "entries" })?;
        if matches!(entry.kind, Kind::File { .. } | Kind::HardLink { .. }) {
            self.files.insert(id, source);
        }
        Ok(Packet { stat: Some(entry.into()), ..Packet::default() })
    }

    /// Reads the next packet.
    ///
    /// # Errors
    /// It breaks the rules; the conversation is over.
    pub fn take(&mut self, packet: Packet) -> Result<Asked<T>, Violation> {
        let unexpected = Violation::Unexpected(packet.r#type);
        match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketErr) => Ok(Asked::Failed(String::from_utf8_lossy(&packet.data).into_owned())),
            _ if self.done => Err(unexpected),
            Ok(PacketType::PacketReq) => {
                let source = self.files.remove(&packet.id).ok_or(Violation::UnknownFile(packet.id))?;
                Ok(Asked::File { id: packet.id, source })
            }
            Ok(PacketType::PacketFin) => {
                self.done = true;
                Ok(Asked::Finish)
            }
            _ => Err(unexpected),
        }
    }
}

/// There are no more entries.
pub fn listed() -> Packet {
    Packet::default()
}

/// The next bytes of a file; none say that it ends. At most [`LARGEST_DATA`].
pub fn data(id: u32, data: Bytes) -> Packet {
    Packet { r#type: PacketType::PacketData as i32, id, data, stat: None }
}

/// Nothing more will be said.
pub fn finish() -> Packet {
    Packet { r#type: PacketType::PacketFin as i32, ..Packet::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::fsutil::Stat;

    fn entry(path: &str, mode: u32, linkname: &str) -> Entry {
        Stat { path: path.into(), mode, linkname: linkname.into(), ..Stat::default() }.try_into().unwrap()
    }

    fn ask(kind: PacketType, id: u32) -> Packet {
        Packet { r#type: kind as i32, id, ..Packet::default() }
    }

    #[test]
    fn files_can_be_asked_for_once_and_nothing_else_at_all() {
        let mut sender = Sender::default();
        for (entry, source) in [
            (entry("d", 1 << 31, ""), "0"),
            (entry("d/f", 0, ""), "1"),
            (entry("d/l", 1 << 27, "f"), "2"),
            (entry("e", 0, "d/f"), "3"),
        ] {
            sender.tell(entry, source).unwrap();
        }
        assert_eq!(sender.take(ask(PacketType::PacketReq, 1)), Ok(Asked::File { id: 1, source: "1" }));
        assert_eq!(sender.take(ask(PacketType::PacketReq, 3)), Ok(Asked::File { id: 3, source: "3" }));
        for id in [0, 1, 2, 4, u32::MAX] {
            assert_eq!(sender.take(ask(PacketType::PacketReq, id)), Err(Violation::UnknownFile(id)));
        }
        assert_eq!(sender.take(ask(PacketType::PacketData, 1)), Err(Violation::Unexpected(2)));
        assert_eq!(sender.take(Packet::default()), Err(Violation::Unexpected(0)));
        assert_eq!(sender.take(ask(PacketType::PacketFin, 0)), Ok(Asked::Finish));
        assert_eq!(sender.take(ask(PacketType::PacketReq, 1)), Err(Violation::Unexpected(1)));
    }
}
