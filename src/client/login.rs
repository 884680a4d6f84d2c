//! What a client shows to a server that asks who calls.

use reqwest::{
    RequestBuilder,
    header::{AUTHORIZATION, HeaderValue},
};

use crate::config::{auth::RootToken, proxy::Secret};

/// What is shown; nothing by default. Cheap to clone, and never printed.
#[derive(Debug, Clone, Default)]
pub struct Login(Option<HeaderValue>);

impl Login {
    /// The root token, if there is one.
    pub fn root(token: Option<&RootToken>) -> Self {
        Self::with(token.map(RootToken::authorization).as_ref())
    }

    /// This value of `Authorization`, if there is one.
    pub fn with(authorization: Option<&Secret>) -> Self {
        let value = authorization.and_then(|value| HeaderValue::from_str(value.expose()).ok());
        Self(value.map(|mut value| {
            value.set_sensitive(true);
            value
        }))
    }

    /// The request with it.
    pub(super) fn shown(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.0 {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_to_servers_and_to_nobody_else() {
        let login = Login::root(RootToken::parse("p@ss:w0rd!").ok().as_ref());
        assert!(!format!("{login:?}").contains("cm9vd"), "{login:?}");
        let request = login.shown(reqwest::Client::new().get("http://x/")).build().unwrap();
        assert_eq!(request.headers()[AUTHORIZATION], "Basic cm9vdDpwQHNzOncwcmQh");
        assert!(!format!("{request:?}").contains("cm9vd"), "{request:?}");
        let nothing = Login::default().shown(reqwest::Client::new().get("http://x/")).build().unwrap();
        assert!(!nothing.headers().contains_key(AUTHORIZATION));
    }
}
