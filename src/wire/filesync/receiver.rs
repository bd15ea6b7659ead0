//! The receiving side of the conversation, without files or network.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use super::{Entry, Listing, Violation};
use crate::wire::proto::fsutil::{packet::PacketType, Packet};

/// How much a receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of any kind.
    pub entries: u32,
    /// Bytes of all files that are asked for.
    pub bytes: u64,
    /// Bytes of what is told of all entries: some of it is kept while a file is awaited.
    pub told: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 4_000_000, bytes: 64 << 30, told: 1 << 30 }
    }
}

/// What a packet says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The next entry, by whose number its bytes can be asked for.
    Entry(u32, Entry),
    /// There are no more entries.
    Listed,
    /// The next bytes of a file.
    Data(u32, Bytes),
    /// There is no more of a file.
    End {
        /// Its number.
        id: u32,
        /// Whether it had as many bytes as it was said to have. If not it changed, or could not be read.
        as_told: bool,
    },
    /// The sender has nothing more to say.
    Finished,
    /// The sender gave up, and why.
    Failed(String),
}

/// Reads a sender's packets and makes those that answer it.
///
/// Feed it with [`take`](Receiver::take), [`ask`](Receiver::ask) for files as they are told of, and send what
/// [`finish`](Receiver::finish) gives once there is nothing to wait for.
#[derive(Debug)]
pub struct Receiver {
    limits: Limits,
    listing: Listing,
    entries: u32,
    told: u64,
    /// By number of the file.
    asked: HashMap<u32, Awaited>,
    /// Of all files asked for, with what they had too much.
    bytes: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
struct Awaited {
    /// Bytes still to come.
    left: u64,
    /// More came than it was said to have.
    grew: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Listing,
    Listed,
    Finishing,
    Finished,
}

impl Receiver {
    /// A conversation at its beginning.
    pub fn new(limits: Limits) -> Receiver {
        Receiver {
            limits,
            listing: Listing::default(),
            entries: 0,
            told: 0,
            asked: HashMap::new(),
            bytes: 0,
            state: State::Listing,
        }
    }

    /// Reads the next packet.
    ///
    /// # Errors
    /// It breaks the rules; the conversation is over.
    pub fn take(&mut self, packet: Packet) -> Result<Event, Violation> {
        let unexpected = Violation::Unexpected(packet.r#type);
        let kind = PacketType::try_from(packet.r#type).map_err(|_| unexpected.clone())?;
        match (kind, self.state) {
            (PacketType::PacketErr, _) => Ok(Event::Failed(String::from_utf8_lossy(&packet.data).into_owned())),
            (PacketType::PacketStat, State::Listing) => match packet.stat {
                Some(stat) => {
                    self.told = self.told.saturating_add(stat.encoded_len() as u64);
                    if self.told > self.limits.told {
                        return Err(Violation::TooMuch { limit: self.limits.told, of: "bytes of names" });
                    }
                    let entry = Entry::try_from(stat)?;
                    self.listing.take(&entry)?;
                    let id = self.entries;
                    if id >= self.limits.entries {
                        return Err(Violation::TooMuch { limit: self.limits.entries.into(), of: "entries" });
                    }
                    self.entries += 1;
                    Ok(Event::Entry(id, entry))
                }
                None => {
                    self.state = State::Listed;
                    Ok(Event::Listed)
                }
            },
            (PacketType::PacketData, State::Listing | State::Listed) => self.data(packet.id, packet.data),
            (PacketType::PacketFin, State::Finishing) => {
                self.state = State::Finished;
                Ok(Event::Finished)
            }
            _ => Err(unexpected),
        }
    }

    /// A file is cut where it was said to end: what grows while it is sent, as a log of the build itself may, is no reason
    /// to fail.
    fn data(&mut self, id: u32, mut data: Bytes) -> Result<Event, Violation> {
        let awaited = self.asked.get_mut(&id).ok_or(Violation::Unrequested(id))?;
        if data.is_empty() {
            let as_told = awaited.left == 0 && !awaited.grew;
            self.asked.remove(&id);
            return Ok(Event::End { id, as_told });
        }
        let wanted = usize::try_from(awaited.left).map_or(data.len(), |left| left.min(data.len()));
        let surplus = data.split_off(wanted).len() as u64;
        awaited.left -= wanted as u64;
        awaited.grew |= surplus > 0;
        self.count(surplus)?;
        Ok(Event::Data(id, data))
    }

    fn count(&mut self, bytes: u64) -> Result<(), Violation> {
        let too_much = Violation::TooMuch { limit: self.limits.bytes, of: "bytes" };
        self.bytes = self.bytes.checked_add(bytes).filter(|bytes| *bytes <= self.limits.bytes).ok_or(too_much)?;
        Ok(())
    }

    /// Asks for the bytes of file `id`, which was said to have `size`.
    ///
    /// # Errors
    /// The files asked for are more than is taken.
    pub fn ask(&mut self, id: u32, size: u64) -> Result<Packet, Violation> {
        self.count(size)?;
        self.asked.insert(id, Awaited { left: size, grew: false });
        Ok(Packet { r#type: PacketType::PacketReq as i32, id, ..Packet::default() })
    }

    /// What to say when nothing is to come any more; once.
    pub fn finish(&mut self) -> Option<Packet> {
        if self.state != State::Listed || !self.asked.is_empty() {
            return None;
        }
        self.state = State::Finishing;
        Some(Packet { r#type: PacketType::PacketFin as i32, ..Packet::default() })
    }
}

/// What either side says before it gives up.
pub(super) fn failed(text: &str) -> Packet {
    Packet { r#type: PacketType::PacketErr as i32, data: text.to_owned().into(), ..Packet::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proto::fsutil::Stat;

    fn told(path: &str, size: i64) -> Packet {
        Packet { stat: Some(Stat { path: path.into(), size, ..Stat::default() }), ..Packet::default() }
    }

    fn packet(kind: PacketType, id: u32, data: &'static str) -> Packet {
        Packet { r#type: kind as i32, id, data: data.into(), stat: None }
    }

    use PacketType::*;

    #[test]
    fn a_transfer_from_beginning_to_end() {
        let mut receiver = Receiver::new(Limits::default());
        assert!(matches!(receiver.take(told("a", 0)).unwrap(), Event::Entry(0, _)));
        let Event::Entry(1, entry) = receiver.take(told("b", 5)).unwrap() else { panic!("b is an entry") };
        assert_eq!(entry.kind, super::super::Kind::File { size: 5 });
        assert_eq!(receiver.ask(1, 5).unwrap(), packet(PacketReq, 1, ""));
        assert_eq!(receiver.take(packet(PacketData, 1, "hel")).unwrap(), Event::Data(1, "hel".into()));
        assert_eq!(receiver.finish(), None, "the list is open");
        assert_eq!(receiver.take(packet(PacketStat, 0, "")).unwrap(), Event::Listed);
        assert_eq!(receiver.finish(), None, "a file is open");
        assert_eq!(receiver.take(packet(PacketData, 1, "lo")).unwrap(), Event::Data(1, "lo".into()));
        assert_eq!(receiver.take(packet(PacketData, 1, "")).unwrap(), Event::End { id: 1, as_told: true });
        assert_eq!(receiver.finish(), Some(packet(PacketFin, 0, "")));
        assert_eq!(receiver.finish(), None, "once");
        assert_eq!(receiver.take(packet(PacketFin, 0, "")).unwrap(), Event::Finished);
    }

    #[test]
    fn hostile_packets_are_refused() {
        let list = || [told("a", 3), told("b", 3)];
        // after two entries, of which the second, three bytes long, was asked for
        for (hostile, refused) in [
            (vec![packet(PacketData, 0, "x")], Violation::Unrequested(0)),
            (vec![packet(PacketData, 2, "x")], Violation::Unrequested(2)),
            (vec![packet(PacketData, u32::MAX, "")], Violation::Unrequested(u32::MAX)),
            (vec![packet(PacketData, 1, "xxxxxx")], Violation::TooMuch { limit: 5, of: "bytes" }),
            (
                vec![packet(PacketData, 1, "xxxx"), packet(PacketData, 1, "x"), packet(PacketData, 1, "x")],
                Violation::TooMuch { limit: 5, of: "bytes" },
            ),
            (vec![packet(PacketData, 1, ""), packet(PacketData, 1, "")], Violation::Unrequested(1)),
            (vec![packet(PacketReq, 0, "")], Violation::Unexpected(1)),
            (vec![packet(PacketFin, 0, "")], Violation::Unexpected(3)),
            (vec![packet(PacketStat, 0, ""), packet(PacketStat, 0, "")], Violation::Unexpected(0)),
            (vec![packet(PacketStat, 0, ""), told("c", 0)], Violation::Unexpected(0)),
            (vec![Packet { r#type: 9, ..Packet::default() }], Violation::Unexpected(9)),
            (vec![Packet { r#type: -1, ..Packet::default() }], Violation::Unexpected(-1)),
            (vec![told("b", 0)], Violation::OutOfOrder { path: "b".into(), after: "b".into() }),
            (vec![told("c", 0), told("d", 0)], Violation::TooMuch { limit: 3, of: "entries" }),
            (vec![told(&"c/".repeat(600), 0)], Violation::TooMuch { limit: 1000, of: "bytes of names" }),
        ] {
            let mut receiver = Receiver::new(Limits { entries: 3, bytes: 5, told: 1000 });
            for packet in list() {
                receiver.take(packet).unwrap();
            }
            receiver.ask(1, 3).unwrap();
            let last = hostile.len() - 1;
            for (at, packet) in hostile.into_iter().enumerate() {
                let answer = receiver.take(packet.clone());
                assert_eq!(answer.is_err(), at == last, "{packet:?}");
                if at == last {
                    assert_eq!(answer.unwrap_err(), refused);
                }
            }
            assert_eq!(receiver.ask(0, u64::MAX), Err(Violation::TooMuch { limit: 5, of: "bytes" }));
        }
    }

    #[test]
    fn nothing_follows_the_end() {
        let mut receiver = Receiver::new(Limits::default());
        receiver.take(packet(PacketStat, 0, "")).unwrap();
        receiver.finish().unwrap();
        assert_eq!(receiver.take(packet(PacketStat, 0, "")), Err(Violation::Unexpected(0)));
        assert_eq!(receiver.take(packet(PacketErr, 0, "why")), Ok(Event::Failed("why".into())));
        receiver.take(packet(PacketFin, 0, "")).unwrap();
        assert_eq!(receiver.take(packet(PacketFin, 0, "")), Err(Violation::Unexpected(3)));
    }

    #[test]
    fn a_file_that_grew_is_cut_where_it_was_said_to_end() {
        let mut receiver = Receiver::new(Limits::default());
        receiver.take(told("a", 3)).unwrap();
        receiver.ask(0, 3).unwrap();
        assert_eq!(receiver.take(packet(PacketData, 0, "hello")), Ok(Event::Data(0, "hel".into())));
        assert_eq!(receiver.take(packet(PacketData, 0, "more")), Ok(Event::Data(0, "".into())));
        assert_eq!(receiver.take(packet(PacketData, 0, "")), Ok(Event::End { id: 0, as_told: false }));
    }

    #[test]
    fn a_file_that_shrank_ends_early() {
        let mut receiver = Receiver::new(Limits::default());
        receiver.take(told("a", 5)).unwrap();
        receiver.ask(0, 5).unwrap();
        receiver.take(packet(PacketData, 0, "he")).unwrap();
        assert_eq!(receiver.take(packet(PacketData, 0, "")), Ok(Event::End { id: 0, as_told: false }));
    }
}
