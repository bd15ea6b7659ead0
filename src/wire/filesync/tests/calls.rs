//! Transfers in the calls of a session: a client's directory to the daemon, results to the client.

use std::path::PathBuf;

use bytes::Bytes;
use tonic::codegen::BoxStream;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::wire::proto::file_send::file_send_client::FileSendClient;
use crate::wire::proto::file_send::file_send_server::{FileSend, FileSendServer};
use crate::wire::proto::filesync::file_sync_client::FileSyncClient;
use crate::wire::proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use crate::wire::proto::filesync::BytesMessage;
use crate::wire::{raw, session};

/// A client with one directory to read from, exporter 0 that takes a directory and exporter 1 that takes a file.
#[derive(Clone)]
struct Client {
    context: PathBuf,
    out: PathBuf,
}

#[tonic::async_trait]
impl FileSync for Client {
    async fn diff_copy(&self, call: Request<Streaming<Packet>>) -> Result<Response<BoxStream<Packet>>, Status> {
        let asked = DirectoryRequest::read(call.metadata()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if asked.name != "context" {
            return Err(Status::not_found(format!("no access allowed to dir {:?}", asked.name)));
        }
        let root = opened(&self.context);
        let select = Select::new(&root, &asked.include, &asked.exclude, &asked.follow).unwrap();
        let (outgoing, packets) = mpsc::channel(4);
        tokio::spawn(send(call.into_inner(), outgoing, vec![Tree::context(root, select)]));
        Ok(Response::new(Box::pin(ReceiverStream::new(packets).map(Ok))))
    }
}

#[tonic::async_trait]
impl FileSend for Client {
    type DiffCopyStream = BoxStream<Bytes>;

    async fn diff_copy(&self, call: Request<Streaming<Bytes>>) -> Result<Response<BoxStream<Bytes>>, Status> {
        let delivery = Delivery::read(call.metadata()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let messages = call.into_inner();
        if delivery.exporter == Some(1) {
            let parts: Vec<Result<BytesMessage, Status>> =
                messages.map(|message| message.and_then(raw::decode)).collect().await;
            let file: Vec<u8> = parts.into_iter().flat_map(|part| part.unwrap().data).collect();
            fs::write(self.out.join(&delivery.metadata["name"]), file).unwrap();
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        let (outgoing, packets) = mpsc::channel(4);
        let incoming = messages.map(|message| message.and_then(raw::decode));
        tokio::spawn(receive(incoming, outgoing, opened(&self.out), Receive::export()));
        Ok(Response::new(Box::pin(ReceiverStream::new(packets).map(|packet| Ok(raw::encode(&packet))))))
    }
}

async fn session_with(client: Client) -> Channel {
    let (ours, theirs) = tokio::io::duplex(4096);
    let services = Routes::new(FileSyncServer::new(client.clone())).add_service(FileSendServer::new(client));
    tokio::spawn(session::serve(theirs, services));
    session::connect(ours).await.unwrap().0
}

fn call(messages: mpsc::Receiver<Packet>, about: &DirectoryRequest) -> Request<ReceiverStream<Packet>> {
    let mut call = Request::new(ReceiverStream::new(messages));
    about.write(call.metadata_mut());
    call
}

#[tokio::test]
async fn directories_travel_in_both_directions() {
    let (context, out, copy) = (zoo(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let client = Client { context: context.path().into(), out: out.path().into() };
    let channel = session_with(client).await;

    let mut sync = FileSyncClient::new(channel.clone());
    let unknown = DirectoryRequest { name: "/etc".into(), ..DirectoryRequest::default() };
    let refused = sync.diff_copy(call(mpsc::channel(1).1, &unknown)).await.unwrap_err();
    assert_eq!(refused.message(), r#"no access allowed to dir "/etc""#);

    let about = DirectoryRequest { name: "context".into(), exclude: vec!["übrig".into(), "pipe".into()], ..unknown };
    for files in [5, 0] {
        let (outgoing, messages) = mpsc::channel(4);
        let incoming = sync.diff_copy(call(messages, &about)).await.unwrap().into_inner();
        let received = receive(incoming, outgoing, opened(copy.path()), Receive::context()).await.unwrap();
        assert_eq!((received.entries, received.files), (11, files));
    }
    let mut told = picture(context.path());
    told.retain(|path, _| path != "socket" && path != "pipe");
    assert_eq!(picture(copy.path()), told);

    let mut give = FileSendClient::new(channel);
    let (outgoing, packets) = mpsc::channel(4);
    let mut call = Request::new(ReceiverStream::new(packets).map(|packet| raw::encode(&packet)));
    Delivery { exporter: Some(0), ..Delivery::default() }.write(call.metadata_mut());
    let incoming = give.diff_copy(call).await.unwrap().into_inner().map(|message| message.and_then(raw::decode));
    let sent = send(incoming, outgoing, vec![Tree::export(opened(copy.path()), "linux_amd64".into(), None)]).await;
    assert_eq!(sent.unwrap().files, 5);
    assert_eq!(fs::read_to_string(out.path().join("linux_amd64/a/b/deep")).unwrap(), "deep");

    let parts = ["tar ", "of ", "bytes"].map(|part| raw::encode(&BytesMessage { data: part.into() }));
    let mut call = Request::new(tokio_stream::iter(parts));
    let metadata = [("name".to_owned(), "out.tar".to_owned())].into();
    Delivery { exporter: Some(1), metadata, multi_platform: false }.write(call.metadata_mut());
    let mut end = give.diff_copy(call).await.unwrap().into_inner();
    assert!(end.message().await.unwrap().is_none());
    assert_eq!(fs::read_to_string(out.path().join("out.tar")).unwrap(), "tar of bytes");
}

#[tokio::test]
async fn a_failure_on_one_side_is_told_on_the_other() {
    let (context, out, copy) = (zoo(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let client = Client { context: context.path().into(), out: out.path().into() };
    let mut sync = FileSyncClient::new(session_with(client).await);
    fs::write(context.path().join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff")), "").unwrap();
    let about = DirectoryRequest { name: "context".into(), ..DirectoryRequest::default() };
    let (outgoing, messages) = mpsc::channel(4);
    let incoming = sync.diff_copy(call(messages, &about)).await.unwrap().into_inner();
    let error = receive(incoming, outgoing, opened(copy.path()), Receive::context()).await.unwrap_err();
    assert_eq!(error.to_string(), "error from sender: the name of \"\u{fffd}\" is not valid UTF-8");
}
