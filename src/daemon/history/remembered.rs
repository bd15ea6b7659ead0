//! One build while it is recorded: from a client's order to its record, also if the client gives it up.

use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use solver::event::{EventKind, EventSink};
use tonic::Code;

use super::History;
use crate::daemon::order::{Order, Work};
use crate::daemon::solve::Solved;
use crate::daemon::status::Log;
use crate::engine::provenance::without_credentials;
use crate::export::Kind;
use crate::history::Recorder;
use crate::history::{is_id, new_id, About, Asked, Document, Ending, Exporter, Finished, Held, Subject};
use crate::image::Digest;
use crate::wire::failure::Failure;
use crate::wire::proto::rpc;

/// The whole error of a build, in the spelling that clients know.
const ERROR: &str = "application/vnd.googeapis.google.rpc.status+proto";
const STATEMENT: &str = "application/vnd.in-toto+json";
const PREDICATE: &str = "in-toto.io/predicate-type";

/// A build under way that will be remembered, also if it is given up before its end.
pub struct Remembered {
    history: Arc<History>,
    /// None where nothing can be recorded: it is built all the same.
    recorder: Option<Recorder>,
    reference: String,
}

impl Remembered {
    /// A build begins; `asker` is what is known of its client.
    pub fn begin(history: &Arc<History>, order: &Order, asker: Option<String>) -> Remembered {
        let about = about(order, asker);
        history.make_room_for(&about.id);
        let record = about.clone().begun();
        let recorder = Recorder::begin(&history.kept, history.limits, about).ok();
        history.begins(&record);
        Remembered { history: Arc::clone(history), recorder, reference: order.id.clone() }
    }

    /// Where the build's events go: to its clients, and into the history.
    pub fn sink(&self, log: &Arc<Log>) -> EventSink {
        let (log, backlog) = (Arc::clone(log), Arc::clone(&self.history.backlog));
        let Some(record) = self.recorder.as_ref().map(Recorder::sink) else {
            return EventSink::new(move |event| log.event(&event));
        };
        // Clients and the history hear of events in one order.
        let order = Mutex::new(());
        EventSink::new(move |event| {
            let held: Held = match &event.kind {
                EventKind::Log { data, .. } => Some(Box::new(backlog.hold(data.len()))),
                _ => None,
            };
            let _one_at_a_time = order.lock().unwrap_or_else(PoisonError::into_inner);
            log.event(&event);
            record(event, held);
        })
    }

    /// The build has ended. Once this has, the record can be asked for.
    pub async fn end(mut self, solved: &Solved) {
        let work = self.settling(finished(solved));
        let _ = tokio::task::spawn_blocking(work).await;
    }

    fn settling(&mut self, finished: Finished) -> impl FnOnce() + Send + 'static {
        let (history, recorder) = (Arc::clone(&self.history), self.recorder.take());
        let reference = std::mem::take(&mut self.reference);
        move || {
            // What cannot be written is not remembered.
            let forgotten = recorder.and_then(|recorder| recorder.finish(finished).ok()).unwrap_or_default();
            history.ends(&reference, &forgotten);
        }
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        if self.reference.is_empty() {
            return;
        }
        // The client has given it up.
        let work = self.settling(Ending::Canceled.into());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }
}

fn about(order: &Order, asker: Option<String>) -> About {
    let frontend = match &order.work {
        Work::Frontend(name) => name.clone(),
        _ => String::new(),
    };
    let exporter =
        |one: &crate::wire::proto::control::Exporter| Exporter { kind: one.r#type.clone(), attrs: one.attrs.clone() };
    let asked =
        Asked { reference: order.id.clone(), frontend, exporters: order.exporters.iter().map(exporter).collect() };
    let request = order.attrs.iter().map(|(key, value)| (key.clone(), without_credentials(value))).collect();
    let id = if is_id(&order.id) { order.id.clone() } else { new_id() };
    About { id, name: name(order, asker), request, asked: Some(asked) }
}

/// What a person knows a build by.
fn name(order: &Order, asker: Option<String>) -> String {
    let named = |output: &crate::export::Output| {
        let is_image = matches!(output.kind, Kind::Image { .. } | Kind::Oci { .. } | Kind::Docker { .. });
        output.options.names.first().filter(|_| is_image).map(ToString::to_string)
    };
    let image = order.exports.outputs.iter().find_map(named);
    let context = order.attrs.get("context").map(|context| without_credentials(context));
    image.or(context).or(asker).unwrap_or_default()
}

fn document(bytes: Vec<u8>, media_type: &str, about: Subject) -> (Document, Vec<u8>) {
    let document = Document {
        hex: Digest::of(&bytes).hex().to_string(),
        size: bytes.len() as u64,
        media_type: media_type.to_owned(),
        annotations: std::collections::BTreeMap::new(),
        about,
    };
    (document, bytes)
}

fn finished(solved: &Solved) -> Finished {
    match solved {
        Ok(done) => {
            let several = done.accounts.len() > 1;
            let account = |(platform, said): &(solver::graph::Platform, crate::image::Attestation)| {
                let about = Subject::Result(if several { platform.to_string() } else { String::new() });
                // Plain JSON always serializes.
                let bytes = serde_json::to_vec_pretty(&said.predicate).unwrap_or_default();
                let (mut document, bytes) = document(bytes, STATEMENT, about);
                document.annotations.insert(PREDICATE.to_owned(), said.predicate_type.clone());
                (document, bytes)
            };
            let documents = done.accounts.iter().map(account).collect();
            Finished { result: done.response.clone(), documents, ..Ending::Completed.into() }
        }
        Err(failure) if is_cancelled(failure) => Ending::Canceled.into(),
        Err(failure) => {
            let whole = rpc::Status::from(failure.clone());
            let about = (!whole.details.is_empty()).then(|| document(whole.encode_to_vec(), ERROR, Subject::Error));
            Finished {
                code: failure.code as i32,
                documents: about.into_iter().collect(),
                ..Ending::Failed(failure.message.clone()).into()
            }
        }
    }
}

/// A client that gives up may say so itself, as the error that its build ends with.
fn is_cancelled(failure: &Failure) -> bool {
    failure.code == Code::Cancelled || failure.message.ends_with("context canceled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_up_has_not_failed() {
        let ending = |code, message: &str| finished(&Err(Failure::new(code, message))).ending;
        assert_eq!(ending(Code::Cancelled, "x"), Ending::Canceled);
        assert_eq!(ending(Code::Unknown, "failed to solve: context canceled"), Ending::Canceled);
        assert_eq!(ending(Code::Unknown, "it broke"), Ending::Failed("it broke".into()));
    }
}
