//! A client of one member: its connection, inside TLS if the config says so, and who asks.
//!
//! The crate's own way to sign in is not used: it does so when a client is made, which then cannot be made while its
//! member is away, and it does not notice that signing in became necessary.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use etcd_client::{Channel, Client, ConnectOptions, Error};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Mutex};
use tonic::{codegen::Service, transport::Uri};

use super::{Call, PING_EVERY, PING_TIMEOUT, grpc};
use crate::{
    config::{Etcd, Login},
    store::StoreError,
    tls::Upstream,
};

/// Asks one member.
pub(super) struct Door {
    client: Client,
    session: Option<Session>,
}

/// Who asks. The member's word is good for this client alone.
struct Session {
    login: Login,
    signed_in: AtomicBool,
    /// One at a time: each costs the member a tenth of a second of its processor.
    turn: Mutex<()>,
}

impl Door {
    /// Opens nothing yet: it dials when it is first used, and again whenever its connection has ended.
    pub(super) async fn new(
        etcd: &Etcd,
        url: &str,
        patience: Duration,
        require_leader: bool,
    ) -> Result<Self, StoreError> {
        let options = ConnectOptions::new()
            .with_connect_timeout(patience)
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_require_leader(require_leader);
        let refused =
            |error: &dyn std::fmt::Display| StoreError::Refused { why: format!("etcd {url}: {error}") };
        let client = match &etcd.tls {
            None => Client::connect([url], Some(options)).await,
            Some(tls) => {
                let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned())
                    .map_err(|error| refused(&error))?
                    .connect_timeout(patience)
                    .http2_keep_alive_interval(PING_EVERY)
                    .keep_alive_timeout(PING_TIMEOUT);
                let channel = endpoint.connect_with_connector_lazy(Dial(tls.clone()));
                Client::from_channel(Channel::Tonic(channel), Some(options)).await
            }
        };
        let client = client.map_err(|error| refused(&error))?;
        let session = etcd.login.clone().map(|login| Session {
            login,
            signed_in: AtomicBool::new(false),
            turn: Mutex::new(()),
        });
        Ok(Self { client, session })
    }

    /// The client as it is, to watch with.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Asks, signed in; once more if the member no longer knows who asks.
    pub(super) async fn ask<T>(&self, call: impl Fn(&Client) -> Call<T>) -> Result<T, Error> {
        let Some(session) = &self.session else { return call(&self.client).await };
        session.enter(&self.client).await?;
        match call(&self.client).await {
            // It was not done: who asks is looked at first, and again where it would be done.
            Err(Error::GRpcStatus(status)) if grpc::asks_who(i32::from(status.code()), status.message()) => {
                session.signed_in.store(false, Ordering::Release);
                session.enter(&self.client).await?;
                call(&self.client).await
            }
            answer => answer,
        }
    }

    /// Signs in, if there is need.
    pub(super) async fn enter(&self) -> Result<(), Error> {
        match &self.session {
            Some(session) => session.enter(&self.client).await,
            None => Ok(()),
        }
    }
}

impl Session {
    async fn enter(&self, client: &Client) -> Result<(), Error> {
        if self.signed_in.load(Ordering::Acquire) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        if self.signed_in.load(Ordering::Acquire) {
            return Ok(());
        }
        let Login { user, password } = &self.login;
        // What it learns, all clones of the client have.
        match client.clone().update_user(Some((user.clone(), password.expose().to_owned()))).await {
            Ok(()) => {}
            // So that servers can be told of it before the cluster is.
            Err(Error::GRpcStatus(status)) if grpc::asks_nobody(status.message()) => {
                tracing::warn!("etcd does not ask who its clients are, though the config names a user");
            }
            Err(error) => return Err(error),
        }
        self.signed_in.store(true, Ordering::Release);
        Ok(())
    }
}

/// Dials inside TLS, with certificates as they are then.
#[derive(Clone)]
struct Dial(Upstream);

impl Service<Uri> for Dial {
    type Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let tls = self.0.clone();
        Box::pin(async move {
            let host = to.host().unwrap_or_default();
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let port = to.port_u16().unwrap_or(443);
            Ok(TokioIo::new(tls.dial_h2(bare, port).await?))
        })
    }
}
