//! What is remembered of requests to servers of the vendor's: whether they show a session; at registries also which template
//! they are about, and that a write is under way.

use super::{catalogue::About, classify, ctx::Ctx, h1::Fields, snapshot::Service, survey::Writing};
use crate::{
    config::proxy::{Kind, Service as Config},
    health::Access,
    model::TemplateId,
};

/// What one request is about.
#[derive(Debug)]
pub struct Concerns {
    /// The template that it names.
    template: Option<TemplateId>,
    /// It shows a session of an API key.
    pub(super) session: bool,
    /// It changes something.
    writing: Option<Writing>,
}

impl Concerns {
    /// For what depends on which registry has what.
    pub(super) fn about(&self) -> About<'_> {
        self.template.as_ref().map_or(About::All, About::Template)
    }
}

/// Of a request that was routed; `None` where it makes no difference.
pub(super) fn concerns(
    service: &Service,
    ctx: &Ctx,
    query: &str,
    fields: &Fields<'_>,
) -> Option<Box<Concerns>> {
    let shared = service.writer.is_none() && service.upstreams.len() > 1;
    if service.survey.is_none() && !shared {
        return None;
    }
    let session = || fields.text("authorization").is_some_and(is_session);
    if service.kind == Kind::Controller {
        // Nothing but where its client shook hands, and that only of a session.
        return session().then(|| Box::new(Concerns { template: None, session: true, writing: None }));
    }
    let session = ctx.route.access == Access::Read && session();
    Some(Box::new(Concerns {
        template: classify::vendor::template(&ctx.path, query),
        session,
        writing: None,
    }))
}

/// A bearer of the vendor's own. One of a login elsewhere has two dots, and is good everywhere.
fn is_session(authorization: &str) -> bool {
    let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
    scheme.eq_ignore_ascii_case("bearer") && !token.contains('.')
}

/// Something of a request went out: if it may change what templates there are, it may have done so from here on.
pub(super) fn sent(ctx: &mut Ctx) {
    let writes = ctx.route.access == Access::Write && classify::vendor::may_change_templates(&ctx.path);
    if !writes || ctx.concerns.as_ref().is_none_or(|concerns| concerns.writing.is_some()) {
        return;
    }
    let survey = ctx.service().and_then(|service| service.survey.clone());
    if let (Some(survey), Some(concerns)) = (survey, &mut ctx.concerns) {
        concerns.writing = Some(survey.begin(concerns.template.clone()));
    }
}

/// It was answered. Who is refused has changed nothing.
pub(super) fn answered(ctx: &mut Ctx, status: u16) {
    if let Some(writing) = ctx.concerns.as_mut().and_then(|concerns| concerns.writing.as_mut()) {
        writing.refused = (400..500).contains(&status);
    }
}

/// Place of the registry that collects logs: the one that is named, else the writer, else the first one, so that all
/// proxies choose alike.
pub(super) fn logs(config: &Config) -> Option<usize> {
    if config.kind != Kind::Registry {
        return None;
    }
    let named = config.vendor.logs.as_ref();
    let place = named.and_then(|name| config.upstreams.iter().position(|upstream| upstream.name == *name));
    place.or(config.writer).or(Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_from_a_login_elsewhere() {
        for (value, session) in [
            ("Bearer eyJpZCI6ImNpIn0=", true),
            ("bearer eyJpZCI6ImNpIn0", true),
            ("Bearer aaa.bbb.ccc", false),
            ("Basic cm9vdDp0b2tlbg==", false),
            ("Bearer", true),
            ("", false),
        ] {
            assert_eq!(is_session(value), session, "{value}");
        }
    }
}
