//! The filters that clients send, refused as they expect it.

use tonic::Status;

use crate::filter::Bad;
pub use crate::filter::Filter;

impl From<Bad> for Status {
    fn from(bad: Bad) -> Status {
        Status::invalid_argument(bad.0)
    }
}
