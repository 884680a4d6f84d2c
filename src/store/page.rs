//! Reading a whole prefix page by page at one revision.

use super::{Range, Ranged, Store, StoreError};

/// How often reading begins anew when the revision is compacted under it.
const TRIES: usize = 3;

/// All keys that begin with `prefix` as they were at one revision, which is that of the answer.
///
/// Read in pages of `size` keys (at least 1), so that no single answer grows with the store. When the revision
/// is compacted meanwhile it begins anew, a few times.
pub async fn read_prefix(store: &dyn Store, prefix: &str, size: i64) -> Result<Ranged, StoreError> {
    let mut tries = 1;
    loop {
        match read_once(store, Range::prefix(prefix).limit(size.max(1))).await {
            Err(StoreError::Compacted { .. }) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

async fn read_once(store: &dyn Store, range: Range) -> Result<Ranged, StoreError> {
    let mut all = store.range(range.clone()).await?;
    while all.more {
        let Some(last) = all.kvs.last() else { break };
        let next = range.clone().at(all.revision).after(&last.key);
        let page = store.range(next).await?;
        all.kvs.extend(page.kvs);
        all.more = page.more;
    }
    Ok(all)
}
