//! Results on their way to a client: a file, or directories.

use std::io;

use futures_util::{stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use super::live::Live;
use crate::engine::{ClientError, DeliveredTree, Delivery, FileContent};
use crate::wire::filesync::{self, send, Error, Tree};
use crate::wire::proto::file_send::file_send_client::FileSendClient;
use crate::wire::proto::filesync::BytesMessage;
use crate::wire::raw;

/// Packets on their way to the client.
const WAITING: usize = 16;

fn about(delivery: &Delivery) -> filesync::Delivery {
    let Delivery { exporter, metadata, multi_platform } = delivery;
    filesync::Delivery { exporter: Some(*exporter), metadata: metadata.clone(), multi_platform: *multi_platform }
}

/// Gives the client a file. If it cannot be written to its end, the call is broken off: half of it is not taken for all.
pub(super) async fn file(live: &Live, delivery: &Delivery, content: FileContent) -> Result<(), ClientError> {
    let asking = format!("send the file of exporter {}", delivery.exporter);
    let (broken, is_broken) = oneshot::channel::<io::Error>();
    let parts = stream::unfold((content, Some(broken)), |(mut content, mut broken)| async move {
        match content.next().await {
            Ok(Some(data)) => Some((raw::encode(&BytesMessage { data }), (content, broken))),
            Ok(None) => None,
            Err(error) => {
                let _ = broken.take().map(|broken| broken.send(error));
                // Ending the stream would say that this was all.
                std::future::pending().await
            }
        }
    });
    let mut call = Request::new(parts);
    about(delivery).write(call.metadata_mut());
    let mut client = FileSendClient::new(live.channel());
    let mut answers = live.messages(async move { client.diff_copy(call).await });
    let taking = async {
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(_) => {}
                // It has it already.
                Err(status) if status.code() == Code::AlreadyExists => break,
                Err(status) => return Err(live.refused(&asking, status).await),
            }
        }
        Ok(())
    };
    tokio::select! {
        taken = taking => taken,
        Ok(error) = is_broken => Err(ClientError::failed(asking.clone(), error)),
    }
}

/// Gives the client directories, in one transfer.
pub(super) async fn trees(live: &Live, delivery: &Delivery, trees: Vec<DeliveredTree>) -> Result<(), ClientError> {
    let asking = format!("send the directories of exporter {}", delivery.exporter);
    let (outgoing, packets) = mpsc::channel(WAITING);
    let mut call = Request::new(ReceiverStream::new(packets).map(|packet| raw::encode(&packet)));
    about(delivery).write(call.metadata_mut());
    let mut client = FileSendClient::new(live.channel());
    let answers = live.messages(async move { client.diff_copy(call).await });
    let mut incoming = answers.map(|message| message.and_then(raw::decode));
    let mut trees: Vec<Tree> = trees.into_iter().map(|tree| Tree::export(tree.root, tree.at, tree.latest)).collect();
    trees.sort_by(|a, b| a.at.cmp(&b.at));
    let refused = match send(&mut incoming, outgoing, trees).await {
        // What comes after the last packet is how it went at the other side.
        Ok(_) => match incoming.next().await {
            None | Some(Ok(_)) => return Ok(()),
            Some(Err(status)) => status,
        },
        Err(Error::Call(status)) => *status,
        Err(error) => return Err(ClientError::failed(asking, error)),
    };
    Err(live.refused(&asking, refused).await)
}
