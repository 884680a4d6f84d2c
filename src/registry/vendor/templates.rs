//! Templates: the two lists, one template, its config, its architecture, its end.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::Body,
    extract::{RawQuery, Request, State},
};
use serde::Deserialize;

use super::answer::{Answer, Fail, changed, done};
use crate::{
    http::BodyRoom,
    model::{Arch, Tag, TemplateId},
    registry::{content::Which, query::Query, repositories::RepositoryError, state::App},
    wire::{
        lenient,
        template::{self, RevertTemplate},
    },
};

/// Largest body of this API: a few short fields.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// A body that takes longer is refused.
pub(super) const BODY_PATIENCE: Duration = Duration::from_secs(8);

/// `GET /registry/vm`, with `?id=` one template without its push and pull times.
pub(super) async fn v1(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
    match id_of(&query)? {
        None => {
            let list = app.repositories.templates().await?;
            let one = |template: template::TemplateSummary| BTreeMap::from([(template.id, template.name)]);
            done(list.templates.into_iter().map(one).collect::<Vec<_>>())
        }
        Some(id) => {
            let template = app.repositories.template(&id).await?;
            let mut body = serde_json::to_value(&template).unwrap_or_default();
            strip_times(&mut body);
            done(body)
        }
    }
}

/// `GET /registry/v2/vm`, with `?id=` one template.
pub(super) async fn v2(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
    match id_of(&query)? {
        None => done(app.repositories.templates().await?.templates),
        Some(id) => done(app.repositories.template(&id).await?),
    }
}

/// `DELETE /registry/vm?id=`; the id may be in a JSON body, too.
pub(super) async fn delete(State(app): State<App>, RawQuery(query): RawQuery, body: Body) -> Answer {
    let asked = Asked::read(&query, body).await?;
    changed(app.repositories.delete_template(&asked.id()?).await?)
}

/// `GET /registry/vm/info?id=[&tag=][&version=]`: the config of a version, the newest by default.
pub(super) async fn info(State(app): State<App>, RawQuery(query): RawQuery) -> Answer {
    let asked = Asked::read(&query, Body::empty()).await?;
    match app.repositories.config(&asked.id()?, &asked.which()?).await {
        // Since 1.51.2 of the vendor: 404, and not the newest one instead.
        Err(RepositoryError::NoVersion(_)) => Err(Fail::not_found()),
        other => done(other?),
    }
}

/// `PUT /registry/vm/arch` `{"id":…,"arch":"arm64"|"amd64"}`.
pub(super) async fn arch(State(app): State<App>, RawQuery(query): RawQuery, body: Body) -> Answer {
    let asked = Asked::read(&query, body).await?;
    let arch = match asked.arch.as_deref() {
        Some("arm64") => Arch::Arm64,
        Some("amd64") => Arch::Amd64,
        _ => return Err(Fail::bad("arch must be arm64 or amd64")),
    };
    changed(app.repositories.set_arch(&asked.id()?, arch).await?)
}

/// What the changing calls ask; from the query, and from a JSON body where the query does not say.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    #[serde(flatten)]
    version: RevertTemplate,
    #[serde(deserialize_with = "lenient::text")]
    arch: Option<String>,
}

impl Asked {
    pub(super) async fn read(query: &Option<String>, body: Body) -> Result<Self, Fail> {
        let room = BodyRoom::new(BODY_LIMIT, BODY_LIMIT, BODY_PATIENCE);
        let whole = room.read(Request::new(body)).await?;
        let body = whole.bytes();
        let mut asked = if body.trim_ascii().is_empty() {
            Self::default()
        } else {
            serde_json::from_slice(body)
                .map_err(|error| Fail::bad(format!("body is not valid JSON: {error}")))?
        };
        let query = Query::parse(query.as_deref().unwrap_or_default());
        for (key, field) in [
            ("id", &mut asked.version.id),
            ("tag", &mut asked.version.tag),
            ("tag_name", &mut asked.version.tag_name),
            ("arch", &mut asked.arch),
        ] {
            if let Some(given) = query.get(key) {
                *field = Some(given.to_owned());
            }
        }
        for (key, field) in [("version", &mut asked.version.version), ("number", &mut asked.version.number)] {
            if let Some(given) = query.get(key) {
                let number = given.trim().parse();
                *field = Some(number.map_err(|_| Fail::bad(format!("{key} is not a whole number")))?);
            }
        }
        Ok(asked)
    }

    pub(super) fn id(&self) -> Result<TemplateId, Fail> {
        let id = self.version.id.as_deref().ok_or_else(|| Fail::bad("id is missing"))?;
        // What cannot be an id is not the id of anything.
        TemplateId::parse(id).map_err(|_| Fail::not_found())
    }

    /// By tag, else by number, else the newest.
    pub(super) fn which(&self) -> Result<Which, Fail> {
        if let Some(tag) = self.version.tag.as_deref().or(self.version.tag_name.as_deref()) {
            let wrong = |_| Fail::bad(format!("Did not find any versions with tag {}", tag.escape_debug()));
            // No tag has a space: one was a plus before somebody in between decoded it as forms are.
            return Tag::parse(tag.replace(' ', "+")).map(Which::Tag).map_err(wrong);
        }
        let number = self.version.version.or(self.version.number);
        Ok(number.map_or(Which::Newest, Which::Number))
    }

    /// The same, if nothing of it contradicts the rest: for a call that deletes.
    pub(super) fn which_beyond_doubt(&self, query: &Option<String>) -> Result<Which, Fail> {
        let query = Query::parse(query.as_deref().unwrap_or_default());
        self.version.beyond_doubt(|key| query.is_empty(key)).map_err(Fail::bad)?;
        self.which()
    }
}

fn id_of(query: &Option<String>) -> Result<Option<TemplateId>, Fail> {
    let query = Query::parse(query.as_deref().unwrap_or_default());
    query.get("id").map(|id| TemplateId::parse(id).map_err(|_| Fail::not_found())).transpose()
}

fn strip_times(body: &mut serde_json::Value) {
    match body {
        serde_json::Value::Object(map) => {
            map.retain(|key, _| !matches!(key.as_str(), "last_pull" | "last_push" | "creation_date"));
            map.values_mut().for_each(strip_times);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(strip_times),
        _ => {}
    }
}
