//! A session: the connection inside a call, on which the client serves and the daemon asks.
//!
//! *Job*: both ends of the tunnel, what its headers say, whether the other side still lives.
//! *Not its job*: which sessions there are, who waits for one, what their services answer.
//!
//! A client calls `Control.Session`; the bytes in that stream's messages are an HTTP/2 connection whose *client* is the
//! daemon. [`accept`] is the daemon's end, [`open`] the client's; [`connect`] and [`serve`] do the same on any other
//! connection, such as an upgraded `POST /session`.
//!
//! Start reading at [`accept`].

mod ends;
mod headers;
mod pulse;
pub mod services;
mod tunnel;

pub use ends::{accept, connect, open, serve, Ended, Session};
pub use headers::{BadHeader, Headers};
pub use pulse::{Lost, Pulse};
pub use tunnel::Tunnel;

#[cfg(test)]
mod tests;
