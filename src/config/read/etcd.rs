//! A list of etcd members, wherever one is named.

use crate::config::{
    BaseUrl,
    raw::Table,
    value::{base_url, named},
};
use crate::model::ServiceName;

/// `etcd`: at least one URL, each once.
pub(super) fn urls(table: &Table<'_>) -> Option<Vec<BaseUrl>> {
    let members = table.need_list("etcd", "etcd = [\"http://10.0.1.4:2379\"]", base_url)?;
    for (index, (url, place)) in members.iter().enumerate() {
        if members.iter().take(index).any(|(other, _)| other == url) {
            let what = format!("`{}` names `{url}` twice", table.path_of("etcd"));
            table.fault_at(place.clone(), what, "name each member once");
        }
    }
    (!members.is_empty()).then(|| members.into_iter().map(|(url, _)| url).collect())
}

/// `cluster`: which cloud's keys.
pub(super) fn cluster(table: &Table<'_>) -> String {
    table.or("cluster", "main".to_owned(), |given| {
        named::<ServiceName>(given).map(|name| name.as_str().to_owned())
    })
}
