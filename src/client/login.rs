//! What a client shows to a server that asks who calls: a token, or a session of an API key, for which it signs in.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{
    Client, Request, RequestBuilder, Response,
    header::{AUTHORIZATION, HeaderValue},
};
use tokio::{sync::Mutex, time::Instant};

use super::{ClientError, answer};
use crate::{
    clock,
    config::{agent::ApiKey, auth::RootToken, proxy::Secret},
    tls::rsa::{self, PrivateKey},
    wire::apikey::{Handshake, Shaken},
};

/// A session that is older is not shown any more, so that few end while a body goes out. Servers keep them for five
/// minutes, unless they are told otherwise; of one that ended sooner a server says so.
const YOUNG: Duration = Duration::from_secs(120);

/// Each step of signing in.
const STEP: Duration = Duration::from_secs(10);

/// Longest answer to one that is read: a session has a fraction of it.
const ANSWER: usize = 64 * 1024;

/// Servers of whom sessions are kept; an agent knows a few. More: all are made anew.
const SERVERS: usize = 64;

/// What is shown; nothing by default. Cheap to clone, and never printed.
#[derive(Debug, Clone, Default)]
pub struct Login(Shows);

#[derive(Debug, Clone, Default)]
enum Shows {
    #[default]
    Nothing,
    Value(HeaderValue),
    Key(Arc<Key>),
}

/// The holder of an API key.
#[derive(Debug)]
struct Key {
    id: String,
    /// Read for each handshake, so that a new key needs no restart.
    file: PathBuf,
    /// By server. Held while one is made: whoever comes meanwhile waits for it.
    sessions: Mutex<BTreeMap<String, Session>>,
}

#[derive(Debug, Clone)]
struct Session {
    value: HeaderValue,
    made: Instant,
}

impl Login {
    /// The root token, if there is one.
    pub fn root(token: Option<&RootToken>) -> Self {
        Self::with(token.map(RootToken::authorization).as_ref())
    }

    /// This value of `Authorization`, if there is one.
    pub fn with(authorization: Option<&Secret>) -> Self {
        let value = authorization.and_then(|value| HeaderValue::from_str(value.expose()).ok());
        Self(value.map_or(Shows::Nothing, |value| Shows::Value(sensitive(value))))
    }

    /// The holder of this key, who signs in at each server when it is asked for the first time. Clones share sessions.
    pub fn key(key: &ApiKey) -> Self {
        let (id, file) = (key.id.to_string(), key.file.clone());
        Self(Shows::Key(Arc::new(Key { id, file, sessions: Mutex::default() })))
    }

    /// Whether a request that was refused with 401 may be let in later: it signs in anew then.
    pub(super) fn signs_in(&self) -> bool {
        matches!(self.0, Shows::Key(_))
    }

    /// Sends a request and shows who it is from. A session that has ended is made anew, and a request that can be sent again
    /// then is.
    pub(super) async fn send(&self, url: &str, request: RequestBuilder) -> Result<Response, ClientError> {
        let failed = |source| ClientError::transport(url, source);
        let key = match &self.0 {
            Shows::Nothing => return request.send().await.map_err(failed),
            Shows::Value(value) => {
                return request.header(AUTHORIZATION, value.clone()).send().await.map_err(failed);
            }
            Shows::Key(key) => key,
        };
        let (client, request) = request.build_split();
        let mut request = request.map_err(failed)?;
        let mut again = request.try_clone();
        let shown = key.show(&client, url, &mut request, None).await?;
        let response = client.execute(request).await.map_err(failed)?;
        if response.status().as_u16() != 401 {
            return Ok(response);
        }
        let Some(mut request) = again.take() else {
            key.forget(url, &shown).await;
            return Ok(response);
        };
        drop(response);
        key.show(&client, url, &mut request, Some(&shown)).await?;
        client.execute(request).await.map_err(failed)
    }
}

impl Key {
    /// Adds a session, and not the one that is `over`.
    async fn show(
        &self,
        client: &Client,
        url: &str,
        request: &mut Request,
        over: Option<&HeaderValue>,
    ) -> Result<HeaderValue, ClientError> {
        let server = origin(request);
        let within = request.timeout().map_or(STEP, |timeout| STEP.min(*timeout));
        let mut sessions = self.sessions.lock().await;
        let good = |session: &&Session| Some(&session.value) != over && session.made.elapsed() < YOUNG;
        let value = match sessions.get(&server).filter(good) {
            Some(session) => session.value.clone(),
            None => {
                let value = self.sign_in(client, &server, url, within).await?;
                if sessions.len() >= SERVERS {
                    sessions.clear();
                }
                sessions.insert(server, Session { value: value.clone(), made: clock::now() });
                value
            }
        };
        request.headers_mut().insert(AUTHORIZATION, value.clone());
        Ok(value)
    }

    async fn forget(&self, url: &str, over: &HeaderValue) {
        self.sessions
            .lock()
            .await
            .retain(|server, session| !url.starts_with(server.as_str()) || session.value != *over);
    }

    /// The two steps (`reference/authentication.md` §4.2).
    async fn sign_in(
        &self,
        client: &Client,
        server: &str,
        asked: &str,
        within: Duration,
    ) -> Result<HeaderValue, ClientError> {
        let refused = |message: String| ClientError::Refused { url: asked.to_owned(), status: 401, message };
        let (id, file) = (&self.id, self.file.clone());
        let strange = |why: &str| ClientError::Strange { url: asked.to_owned(), why: why.to_owned() };
        let hand = Handshake { id: Some(id.clone()), secret: None };
        let (status, sealed) = step(client, &format!("{server}/tap/v1/hand"), &hand, within).await?;
        match status {
            200 => {}
            400..=499 => {
                return Err(refused(format!(
                    "API key `{id}` is not known there, or has expired: make it, or prolong it, with the root token"
                )));
            }
            _ => return Err(told(server, status, &sealed)),
        }
        let sealed = std::str::from_utf8(&sealed).ok().and_then(rsa::decode);
        let sealed = sealed.ok_or_else(|| strange("its handshake is no base64"))?;
        // Reading the file and the arithmetic both take their time.
        let opened = tokio::task::spawn_blocking(move || {
            let key = PrivateKey::read_file(&file).map_err(|why| format!("`{}` {why}", file.display()))?;
            let secret = key
                .decrypt(&sealed)
                .map_err(|_| format!("`{}` is not the key's other half", file.display()))?;
            String::from_utf8(secret).map_err(|_| "its secret is no text".to_owned())
        });
        let secret = opened.await.unwrap_or_else(|gone| Err(gone.to_string()));
        let secret = secret.map_err(|why| refused(format!("API key `{id}` cannot sign in: {why}")))?;
        let shake = Handshake { id: Some(id.clone()), secret: Some(secret) };
        let (status, shaken) = step(client, &format!("{server}/tap/v1/shake"), &shake, within).await?;
        match status {
            200 => {}
            400..=499 => {
                return Err(refused(format!(
                    "API key `{id}` was not let in: it was changed, or deleted, meanwhile"
                )));
            }
            _ => return Err(told(server, status, &shaken)),
        }
        let shaken: Shaken =
            serde_json::from_slice(&shaken).map_err(|_| strange("its handshake ends without a session"))?;
        let data = serde_json::to_vec(&shaken.data).map_err(|_| strange("its session cannot be written"))?;
        let value = HeaderValue::try_from(format!("Bearer {}", STANDARD.encode(data)));
        value.map(sensitive).map_err(|_| strange("its session cannot be shown"))
    }
}

async fn step(
    client: &Client,
    url: &str,
    body: &Handshake,
    within: Duration,
) -> Result<(u16, bytes::Bytes), ClientError> {
    let asked = client.post(url).json(body).timeout(within).send().await;
    let response = asked.map_err(|source| ClientError::transport(url, source))?;
    let status = response.status().as_u16();
    Ok((status, answer::read_bounded(url, response, ANSWER).await?))
}

fn told(server: &str, status: u16, words: &[u8]) -> ClientError {
    ClientError::Refused { url: format!("{server}/tap/v1"), status, message: answer::excerpt(words) }
}

/// Scheme, host and port.
fn origin(request: &Request) -> String {
    request.url().origin().ascii_serialization()
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread::{self, JoinHandle},
    };

    use super::*;
    use crate::client::http_client;

    /// Answers once; gives the head that it got.
    fn server(status: &'static str) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            let (mut head, mut piece) = (Vec::new(), [0; 4096]);
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = tcp.read(&mut piece).unwrap();
                head.extend_from_slice(&piece[..read]);
            }
            write!(tcp, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            String::from_utf8(head).unwrap().to_ascii_lowercase()
        });
        (url, serving)
    }

    /// What a server was shown.
    async fn shown(login: &Login) -> String {
        let (url, serving) = server("200 OK");
        assert_eq!(login.send(&url, http_client(STEP).unwrap().get(&url)).await.unwrap().status(), 200);
        serving.join().unwrap()
    }

    #[tokio::test]
    async fn it_is_shown_to_servers_and_to_nobody_else() {
        let login = Login::root(RootToken::parse("p@ss:w0rd!").ok().as_ref());
        assert!(!format!("{login:?}").contains("cm9vd"), "{login:?}");
        let expected = "authorization: basic cm9vddpwqhnzoncwcmqh";
        assert!(shown(&login).await.contains(expected), "it is shown");
        assert!(!shown(&Login::default()).await.contains("authorization"));
    }

    #[tokio::test]
    async fn a_key_that_is_not_known_is_named_and_its_file_is_not_shown() {
        let (url, serving) = server("401 Unauthorized");
        let key = ApiKey { id: "node-key".parse().unwrap(), file: "/nowhere".into() };
        let login = Login::key(&key);
        let asked = login.send(&url, http_client(STEP).unwrap().get(&url)).await;
        let why = asked.unwrap_err().to_string();
        assert!(why.contains("API key `node-key` is not known there") && !why.contains("/nowhere"), "{why}");
        assert!(serving.join().unwrap().starts_with("post /tap/v1/hand"));
    }
}
