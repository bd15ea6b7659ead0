//! Results on their way to the user: `FileSend`.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use bytes::Bytes;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::place;
use crate::courier::exporters::{Place, Shipment};
use crate::wire::filesync::Delivery;
use crate::wire::proto::file_send::file_send_server::FileSend;

/// What is sent back while something is received.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The places of a build's outputs, in the order of its exporters.
pub(super) struct Places(Arc<Vec<Slot>>);

/// What is known of what was received.
pub(in crate::courier) struct Arrivals(Arc<Vec<Slot>>);

/// One exporter's.
struct Slot {
    kind: String,
    place: Option<Place>,
    /// Something comes, or came.
    is_taken: AtomicBool,
    /// Something came, and is whole.
    is_filled: Arc<AtomicBool>,
}

impl Places {
    pub(super) fn new(shipments: Vec<Shipment>) -> (Places, Arrivals) {
        let slot = |Shipment { exporter, place }| Slot {
            kind: exporter.r#type,
            place,
            is_taken: AtomicBool::new(false),
            is_filled: Arc::default(),
        };
        let slots = Arc::new(shipments.into_iter().map(slot).collect::<Vec<_>>());
        (Places(Arc::clone(&slots)), Arrivals(slots))
    }

    fn slot(&self, exporter: Option<u32>) -> Result<(&Slot, &Place), Status> {
        let index = match exporter {
            Some(number) => usize::try_from(number).ok(),
            // Old daemons have one, and do not say which.
            None => self.0.iter().position(|slot| slot.place.is_some()),
        };
        let slot = index.and_then(|index| self.0.get(index));
        let found = slot.and_then(|slot| Some((slot, slot.place.as_ref()?)));
        found.ok_or_else(|| match exporter {
            Some(number) => Status::not_found(format!("exporter {number} not found")),
            None => Status::not_found("nothing was asked for"),
        })
    }
}

impl Arrivals {
    /// What was to come and did not.
    pub(in crate::courier) fn missing(&self) -> Option<String> {
        let comes = |slot: &&Slot| matches!(slot.place, Some(Place::File(_) | Place::Directory(_)));
        let missing = self.0.iter().filter(comes).find(|slot| !slot.is_filled.load(Ordering::Acquire))?;
        Some(format!("the output of type {}", missing.kind))
    }
}

#[tonic::async_trait]
impl FileSend for Places {
    type DiffCopyStream = Answers;

    async fn diff_copy(&self, call: Request<Streaming<Bytes>>) -> Result<Response<Answers>, Status> {
        let delivery = Delivery::read(call.metadata()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let (slot, place) = self.slot(delivery.exporter)?;
        let filled = Arc::clone(&slot.is_filled);
        let answers = match place {
            Place::File(dest) => {
                if slot.is_taken.swap(true, Ordering::AcqRel) {
                    return Err(Status::failed_precondition("this output was sent before"));
                }
                place::file(call.into_inner(), dest.clone(), filled)
            }
            Place::Layout(..) => return Err(Status::failed_precondition("this output is blobs")),
            // A call for each platform, each with a directory of its own.
            Place::Directory(path) => place::directory(call.into_inner(), path.clone(), filled),
        };
        Ok(Response::new(answers))
    }
}
