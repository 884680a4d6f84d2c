//! The questions that are asked for ever: each registry's list, and the versions of what it does not tell.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream};
use rand::Rng;

use super::Shared;
use crate::{
    client::lists::{self, Listed, Lists, Whole},
    clock,
    model::TemplateId,
    proxy::catalogue::{Entry, Sum, TEMPLATES, Versions},
    telemetry::chain,
};

/// Questions for versions that are under way at one registry.
const AT_ONCE: usize = 8;

/// A registry that knows the older list only is asked for the newer one again after so long: it may have been replaced.
const AGAIN: Duration = Duration::from_secs(600);

/// Asks for ever. One that does not answer delays no other: each has a task of its own.
pub(super) async fn lists(shared: &Shared, place: usize, name: &str, client: &Lists, interval: Duration) {
    let mut older_until = Duration::ZERO;
    loop {
        let sent = clock::boot();
        match list(client, sent, &mut older_until).await {
            Ok(entries) => {
                shared.core_mut().listed(place, entries, sent);
                shared.say(place, name, None);
                shared.tell();
                let older = sent < older_until;
                // What is not answered by then comes in the next round.
                drop(tokio::time::timeout(interval, versions(shared, place, client, older)).await);
            }
            Err(why) => {
                shared.say(place, name, Some(&why));
                shared.core_mut().failed(place, why);
            }
        }
        shared.tell();
        let pause = interval.mul_f64(rand::rng().random_range(0.9..1.1));
        tokio::time::sleep(pause.saturating_sub(clock::boot().saturating_sub(sent)).max(interval / 4)).await;
    }
}

async fn list(
    client: &Lists,
    sent: Duration,
    older_until: &mut Duration,
) -> Result<HashMap<TemplateId, Entry>, String> {
    let mut listed = if sent < *older_until { client.older().await } else { client.newer().await };
    if listed.as_ref().is_err_and(lists::is_unknown) && sent >= *older_until {
        *older_until = sent + AGAIN;
        listed = client.older().await;
    }
    let listed = listed.map_err(|error| match error.status() {
        Some(401 | 403) => format!(
            "{}: give the proxy what it needs to list templates, `token_file` or `authorization_file` in `catalogue`, or \
             a certificate in `tls`",
            chain(&error)
        ),
        _ => chain(&error),
    })?;
    if listed.len() > TEMPLATES {
        return Err(format!(
            "it lists {} templates, and more than {TEMPLATES} are not compared",
            listed.len()
        ));
    }
    // What has an id that nobody could ask for is left out.
    Ok(listed
        .iter()
        .filter_map(|listed| Some((TemplateId::parse(&*listed.id).ok()?, entry(listed))))
        .collect())
}

async fn versions(shared: &Shared, place: usize, client: &Lists, older: bool) {
    let wanted = shared.core().wanted(place, clock::boot());
    let asked = stream::iter(wanted).map(|id| async move {
        let sent = clock::boot();
        (client.versions(id.as_str(), older).await, id, sent)
    });
    let mut answers = std::pin::pin!(asked.buffer_unordered(AT_ONCE));
    while let Some((answer, id, sent)) = answers.next().await {
        match answer {
            Ok(whole) => shared.core_mut().versions(place, id, whole.as_ref().map(known), sent),
            // Until they are known nobody is sent there for this template.
            Err(error) => {
                tracing::debug!(template.id = %id, why = chain(&error), "versions could not be had")
            }
        }
    }
}

fn entry(listed: &Listed) -> Entry {
    let size = listed.size.to_string();
    Entry { sum: Sum::of([&listed.name, &size, &listed.arch]), pushed: listed.last_push }
}

fn known(whole: &Whole) -> Versions {
    let mut parts = vec![whole.name.clone(), whole.arch.clone()];
    for version in &whole.versions {
        parts.extend([version.number, version.size.try_into().unwrap_or(i64::MAX)].map(|n| n.to_string()));
        parts.extend([&version.tag, &version.description, &version.state_file].map(String::clone));
        for files in [&version.images, &version.state_files] {
            parts.push(files.len().to_string());
            parts.extend(files.iter().cloned());
        }
    }
    let dated = whole.versions.iter().all(|version| version.last_push > 0);
    let dates = || Sum::of(whole.versions.iter().map(|version| version.last_push.to_le_bytes()));
    Versions { sum: Sum::of(parts), dates: dated.then(dates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Whole {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn pulls_do_not_count_and_files_tags_and_pushes_do() {
        let text = r#"{"name":"n","versions":[{"number":0,"tag":"a","images":["1.ank"],"size":5,"last_pull":1,"last_push":7}]}"#;
        let first = known(&whole(text));
        assert_eq!(known(&whole(&text.replace("\"last_pull\":1", "\"last_pull\":9"))), first);
        for (from, to) in [
            ("\"tag\":\"a\"", "\"tag\":\"b\""),
            ("1.ank", "2.ank"),
            ("\"images\":[\"1.ank\"]", "\"state_files\":[\"1.ank\"]"),
            ("\"size\":5", "\"size\":6"),
            ("\"name\":\"n\"", "\"name\":\"m\""),
            ("\"last_push\":7", "\"last_push\":8"),
        ] {
            assert_ne!(known(&whole(&text.replace(from, to))), first, "{to}");
        }
        assert_eq!(known(&whole(&text.replace(",\"last_push\":7", ""))).dates, None);
    }
}
