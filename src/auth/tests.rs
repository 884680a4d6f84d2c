//! Sessions of one key at two servers, against keys in memory.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

use super::*;
use crate::{config::auth::RootToken, tls::rsa, wire::apikey::ApiKeyAsk};

#[derive(Default)]
struct Memory(Mutex<BTreeMap<ApiKeyId, Arc<ApiKey>>>);

#[async_trait]
impl Keys for Memory {
    async fn known(&self, id: &ApiKeyId) -> Result<Option<Arc<ApiKey>>, KeysError> {
        Ok(self.0.lock().unwrap().get(id).cloned())
    }

    async fn newest(&self, id: &ApiKeyId) -> Result<Option<Arc<ApiKey>>, KeysError> {
        self.known(id).await
    }

    async fn all(&self) -> Result<Vec<Arc<ApiKey>>, KeysError> {
        Ok(self.0.lock().unwrap().values().cloned().collect())
    }

    async fn add(&self, key: ApiKey) -> Result<(), KeysError> {
        self.0.lock().unwrap().insert(key.id.clone(), Arc::new(key));
        Ok(())
    }

    async fn change(&self, id: &ApiKeyId, ask: &ApiKeyAsk) -> Result<(), KeysError> {
        let key = self.known(id).await?.ok_or(KeysError::NotFound)?;
        self.add(key.changed(ask, clock::wall())?).await
    }

    async fn delete(&self, id: &ApiKeyId) -> Result<(), KeysError> {
        self.0.lock().unwrap().remove(id).map(|_| ()).ok_or(KeysError::NotFound)
    }
}

struct World {
    keys: Arc<Memory>,
    here: Auth,
    there: Auth,
    holder: rsa::PrivateKey,
    id: ApiKeyId,
}

fn ask(text: &str) -> ApiKeyAsk {
    serde_json::from_str(text).unwrap()
}

impl World {
    async fn new() -> Self {
        let config = Config {
            enabled: true,
            root_token: RootToken::parse("0123456789").ok(),
            api_keys: true,
            ..Config::default()
        };
        let keys = Arc::new(Memory::default());
        let (here, there) =
            (Auth::new(&config, "controller", keys.clone()), Auth::new(&config, "controller", keys.clone()));
        let mut world = Self { keys, here, there, holder: fresh().0, id: ApiKeyId::parse("ci-bot").unwrap() };
        world.renew().await;
        world
    }

    /// Makes the key, or makes it anew.
    async fn renew(&mut self) {
        let (holder, public) = fresh();
        let key = ApiKey::new(
            &ask(r#"{"id":"ci-bot","ttl":60,"groups":["a"]}"#),
            &public,
            rand::random(),
            clock::wall(),
        );
        self.keys.add(key.unwrap()).await.unwrap();
        self.holder = holder;
    }

    /// The first step here; the secret as its holder reads it.
    async fn secret(&self) -> String {
        let sealed = self.here.sessions().unwrap().hand(&self.id).await.unwrap();
        let sealed = STANDARD.decode(sealed).unwrap();
        String::from_utf8(self.holder.decrypt(&sealed).unwrap()).unwrap()
    }

    /// The second step there.
    async fn shake(&self, secret: &str) -> Result<Session, Refusal> {
        self.there.sessions().unwrap().shake(&self.id, secret).await.map(|shaken| shaken.data)
    }

    async fn session(&self) -> Session {
        self.shake(&self.secret().await).await.unwrap()
    }
}

fn fresh() -> (rsa::PrivateKey, Vec<u8>) {
    let (private, public) = rsa::generate().unwrap();
    (rsa::PrivateKey::read(&STANDARD.encode(private)).unwrap(), public)
}

fn password(text: &str) -> Given {
    Given::Password(text.into())
}

#[tokio::test]
async fn only_the_password_counts_and_only_when_anybody_is_asked() {
    let keys = Arc::new(Memory::default());
    let new = |config: &Config| Auth::new(config, "controller", keys.clone());
    let config = Config { root_token: RootToken::parse("0123456789").ok(), ..Config::default() };
    for given in [Given::Nothing, Given::Unreadable, password("")] {
        assert_eq!(new(&config).who(given).await, Ok(Who::Anybody));
    }
    let auth = new(&Config { enabled: true, ..config });
    assert_eq!(auth.who(password("0123456789")).await, Ok(Who::Root));
    for wrong in ["", "012345678", "01234567890", "1123456789"] {
        assert_eq!(auth.who(password(wrong)).await, Err(Refusal::Wrong), "{wrong}");
    }
    assert_eq!(auth.who(Given::Nothing).await, Err(Refusal::Missing));
    assert_eq!(auth.who(Given::Unreadable).await, Err(Refusal::Unreadable));
    let none = new(&Config { enabled: true, ..Config::default() });
    assert_eq!(none.who(password("")).await, Err(Refusal::Wrong), "no token is not an empty token");
}

#[tokio::test]
async fn a_hand_here_and_a_shake_there_make_a_session_that_is_good_everywhere() {
    let world = World::new().await;
    let session = world.session().await;
    for auth in [&world.here, &world.there] {
        let who = auth.who(Given::Session(session.clone())).await.unwrap();
        assert_eq!(who.name().as_deref(), Some("key:ci-bot"));
        assert!(!who.is_operator());
    }
    let stolen = Session { user_name: "other".into(), ..session.clone() };
    assert_eq!(world.here.who(Given::Session(stolen)).await, Err(Refusal::Wrong));
    let odd = Session { user_name: "a/b\"".into(), ..session };
    assert_eq!(world.here.who(Given::Session(odd)).await, Err(Refusal::Wrong));
}

#[tokio::test]
async fn a_secret_is_good_once_at_a_server_and_a_wrong_one_never() {
    let world = World::new().await;
    let secret = world.secret().await;
    assert_eq!(world.shake("").await.unwrap_err(), Refusal::Wrong);
    assert_eq!(world.shake(&secret[1..]).await.unwrap_err(), Refusal::Wrong);
    assert!(world.shake(&secret).await.is_ok());
    assert_eq!(world.shake(&secret).await.unwrap_err(), Refusal::Wrong);
    let early = world.here.sessions().unwrap().sealer.clone();
    let generation = world.keys.known(&world.id).await.unwrap().unwrap().generation().unwrap();
    for (made, why) in [(seconds() - 181, Refusal::Expired), (seconds() + 70, Refusal::Expired)] {
        let secret = early.secret("ci-bot", &generation, made, &[1; 8]);
        assert_eq!(world.shake(&secret).await.unwrap_err(), why);
    }
    let skewed = early.secret("ci-bot", &generation, seconds() + 30, &[2; 8]);
    assert!(world.shake(&skewed).await.is_ok(), "another server's clock may be ahead");
}

#[tokio::test]
async fn what_becomes_of_a_key_becomes_of_its_sessions() {
    let mut world = World::new().await;
    let (session, secret) = (world.session().await, world.secret().await);
    let who = async |world: &World| world.here.who(Given::Session(session.clone())).await;
    world.keys.change(&world.id, &ask(r#"{"groups":["b"]}"#)).await.unwrap();
    let Ok(Who::Key(key)) = who(&world).await else { panic!("its groups were changed, nothing else") };
    assert_eq!(key.groups, ["b"]);
    let past = ApiKey { expires: clock::wall().minus(Duration::from_secs(1)), ..ApiKey::clone(&key) };
    world.keys.add(past).await.unwrap();
    assert_eq!(who(&world).await, Err(Refusal::Expired), "at once, not when it is deleted");
    assert_eq!(world.here.sessions().unwrap().hand(&world.id).await, Err(Refusal::Expired));
    world.keys.delete(&world.id).await.unwrap();
    assert_eq!(who(&world).await, Err(Refusal::Gone));
    assert_eq!(world.shake(&secret).await.unwrap_err(), Refusal::Gone);
    world.renew().await;
    assert_eq!(who(&world).await, Err(Refusal::Gone), "another key of its name");
    assert_eq!(world.shake(&secret).await.unwrap_err(), Refusal::Wrong);
    assert!(world.here.who(Given::Session(world.session().await)).await.is_ok());
}

#[tokio::test]
async fn a_session_ends_and_one_of_a_registry_is_none_of_a_controller() {
    let world = World::new().await;
    let sealer = &world.here.sessions().unwrap().sealer;
    let generation = world.keys.known(&world.id).await.unwrap().unwrap().generation().unwrap();
    let with = |sealer: &Sealer, end: u64| Session {
        user_name: "ci-bot".into(),
        token: sealer.token("ci-bot", "s", &generation, end),
        session_id: "s".into(),
    };
    let who = async |session: Session| world.here.who(Given::Session(session)).await;
    assert!(who(with(sealer, seconds() + 5)).await.is_ok());
    assert_eq!(who(with(sealer, seconds())).await, Err(Refusal::Expired));
    let registry = Sealer::derive("0123456789", "registry");
    assert_eq!(who(with(&registry, seconds() + 5)).await, Err(Refusal::Wrong));
}

#[tokio::test]
async fn without_a_switch_there_are_no_keys() {
    let keys = Arc::new(Memory::default());
    let on = Config {
        enabled: true,
        api_keys: true,
        root_token: RootToken::parse("0123456789").ok(),
        ..Config::default()
    };
    for off in [
        Config { enabled: false, ..on.clone() },
        Config { api_keys: false, ..on.clone() },
        Config { root_token: None, ..on },
    ] {
        assert!(Auth::new(&off, "controller", keys.clone()).sessions().is_none(), "{off:?}");
    }
}
