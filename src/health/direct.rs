//! Connections of a probe that begin with a PROXY header, which the usual client cannot send.

use std::{fmt::Display, pin::pin};

use http::{
    HeaderValue, Request,
    header::{CONNECTION, HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Empty};
use hyper::{
    client::conn::http1,
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::TlsConnector;

use super::probe::{AGENT, BODY, method, signature};
use crate::{
    config::{Address, proxy::HttpProbe},
    tls::Upstream,
    wire::headers,
};

/// Connects, and sends `opening` if there is one. The error says why not.
pub(super) async fn connect(to: &Address, opening: Option<&[u8]>) -> Result<TcpStream, String> {
    let refused = |error: std::io::Error| format!("cannot connect: {error}");
    let mut tcp = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(refused)?;
    if let Some(opening) = opening {
        tcp.write_all(opening).await.map_err(refused)?;
    }
    Ok(tcp)
}

/// Asks once, on a connection of its own: the status, and as much of the body as is looked at. The error says why there
/// is none. Without a limit on time: the caller's covers it.
pub(super) async fn get(
    to: &Address,
    opening: &[u8],
    tls: Option<&Upstream>,
    wanted: &HttpProbe,
) -> Result<(u16, Vec<u8>), String> {
    let tcp = connect(to, Some(opening)).await?;
    let Some(tls) = tls else { return ask(TokioIo::new(tcp), to, wanted).await };
    let refused = |error: &dyn Display| format!("cannot connect: {error}");
    let name = tls.server_name(&to.host).map_err(|error| refused(&error))?;
    let secured = TlsConnector::from(tls.config()).connect(name, tcp).await;
    ask(TokioIo::new(secured.map_err(|error| refused(&error))?), to, wanted).await
}

async fn ask(
    io: impl Read + Write + Unpin,
    to: &Address,
    wanted: &HttpProbe,
) -> Result<(u16, Vec<u8>), String> {
    let broken = |error: &dyn Display| format!("the answer broke off: {error}");
    let (mut sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
    let host = wanted.host.clone().unwrap_or_else(|| to.to_string());
    let mut request = Request::builder()
        .method(method(wanted))
        .uri(&wanted.path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<&[u8]>::new())
        .map_err(|error| error.to_string())?;
    for (name, value) in &wanted.headers {
        request.headers_mut().insert(name, value.clone());
    }
    if let Some(signature) = signature(wanted).and_then(|text| HeaderValue::try_from(text).ok()) {
        request.headers_mut().insert(headers::SIGNATURE, signature);
    }
    let mut asked = pin!(async {
        let mut answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let mut body = Vec::new();
        while body.len() < BODY {
            let Some(frame) = answer.frame().await else { break };
            let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
            body.extend_from_slice(&data[..data.len().min(BODY - body.len())]);
        }
        Ok((answer.status().as_u16(), body))
    });
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        // It has ended with the answer, or without one: what was asked knows which.
        _ = &mut connection => asked.await,
    }
}
