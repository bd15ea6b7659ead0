//! Messages of the agent protocol: which pass, and how keys from files answer them.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::key::Key;

/// The longest message of either side; OpenSSH's own limit.
const LONGEST: u32 = 256 << 10;

/// `SSH_AGENT_FAILURE`
const FAILURE: u8 = 5;
/// `SSH_AGENTC_REQUEST_IDENTITIES`
const REQUEST_IDENTITIES: u8 = 11;
/// `SSH_AGENT_IDENTITIES_ANSWER`
const IDENTITIES_ANSWER: u8 = 12;
/// `SSH_AGENTC_SIGN_REQUEST`
const SIGN_REQUEST: u8 = 13;
/// `SSH_AGENT_SIGN_RESPONSE`
const SIGN_RESPONSE: u8 = 14;

/// Passes requests that leave the agent as it is, and their answers.
pub(super) async fn relay<S, A>(step: &mut S, agent: &mut A) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(request) = read(step).await? {
        match request.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                write(agent, &request).await?;
                let answer = read(agent).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                write(step, &answer).await?;
            }
            _ => write(step, &[FAILURE]).await?,
        }
    }
    Ok(())
}

/// Answers with these keys until the other end is closed.
pub(super) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(step: &mut S, keys: &[Key]) -> io::Result<()> {
    while let Some(request) = read(step).await? {
        let answer = match request.split_first() {
            Some((&REQUEST_IDENTITIES, _)) => identities(keys),
            Some((&SIGN_REQUEST, body)) => signature(keys, body).unwrap_or_else(|| vec![FAILURE]),
            _ => vec![FAILURE],
        };
        write(step, &answer).await?;
    }
    Ok(())
}

fn identities(keys: &[Key]) -> Vec<u8> {
    let mut answer = vec![IDENTITIES_ANSWER];
    answer.extend_from_slice(&(keys.len() as u32).to_be_bytes());
    for key in keys {
        put(&mut answer, key.public());
        put(&mut answer, key.comment().as_bytes());
    }
    answer
}

/// `None` when no key here is meant, or it does not sign so.
fn signature(keys: &[Key], body: &[u8]) -> Option<Vec<u8>> {
    let (public, rest) = take(body)?;
    let (data, rest) = take(rest)?;
    let flags = u32::from_be_bytes(rest.try_into().ok()?);
    let signature = keys.iter().find(|key| key.public() == public)?.sign(data, flags)?;
    let mut answer = vec![SIGN_RESPONSE];
    put(&mut answer, &signature);
    Some(answer)
}

/// A string as ssh writes it: its length, big endian, and its bytes (RFC 4251, section 5).
pub(super) fn put(to: &mut Vec<u8>, text: &[u8]) {
    to.extend_from_slice(&(text.len() as u32).to_be_bytes());
    to.extend_from_slice(text);
}

/// The string that bytes begin with, and what follows.
fn take(from: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = from.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// One message without its length; `None` at the end.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32().await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    from.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(4 + message.len());
    put(&mut bytes, message);
    to.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one request is answered with.
    async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &[u8]) -> Vec<u8> {
        write(stream, request).await.unwrap();
        read(stream).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn only_listing_and_signing_reach_the_agent() {
        let (mut asker, mut step) = tokio::io::duplex(1 << 20);
        let (mut agent, mut far) = tokio::io::duplex(1 << 20);
        let relayed = tokio::spawn(async move { relay(&mut step, &mut agent).await });
        // An agent that answers each request with its own bytes, and stops at one that would change it.
        let echo = tokio::spawn(async move {
            while let Some(request) = read(&mut far).await.unwrap() {
                assert!(matches!(request.first(), Some(&(REQUEST_IDENTITIES | SIGN_REQUEST))), "{request:?}");
                write(&mut far, &request).await.unwrap();
            }
        });
        assert_eq!(ask(&mut asker, &[REQUEST_IDENTITIES]).await, [REQUEST_IDENTITIES]);
        assert_eq!(ask(&mut asker, &[SIGN_REQUEST, 1, 2]).await, [SIGN_REQUEST, 1, 2]);
        // Adding, removing, locking, extensions, and what is no request.
        for refused in [17, 18, 19, 22, 23, 25, 26, 27, 0, 200] {
            assert_eq!(ask(&mut asker, &[refused, 9]).await, [FAILURE], "{refused}");
        }
        assert_eq!(ask(&mut asker, &[]).await, [FAILURE]);
        asker.write_all(&(LONGEST + 1).to_be_bytes()).await.unwrap();
        assert_eq!(relayed.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn forged_requests_for_signatures_are_failures() {
        let (mut asker, mut step) = tokio::io::duplex(1 << 20);
        let served = tokio::spawn(async move { answer(&mut step, &[]).await });
        assert_eq!(ask(&mut asker, &[REQUEST_IDENTITIES]).await, [IDENTITIES_ANSWER, 0, 0, 0, 0]);
        for forged in [&[SIGN_REQUEST][..], &[SIGN_REQUEST, 255, 255, 255, 255], &[SIGN_REQUEST, 0, 0, 0, 0, 0], &[17]]
        {
            assert_eq!(ask(&mut asker, forged).await, [FAILURE], "{forged:?}");
        }
        drop(asker);
        served.await.unwrap().unwrap();
    }
}
