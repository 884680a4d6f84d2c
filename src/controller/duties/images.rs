//! Savings of VMs: ends those whose end nobody else has taken over, forgets what was shown long enough.

use std::{collections::BTreeSet, time::Duration};

use super::{MOST, Pass};
use crate::{
    controller::{
        lists::Cache,
        ops::{
            Ops, OpsError,
            images::{IMAGES, pending},
        },
        writes::{Draft, Fence, Outcome, Patience},
    },
    model::{ImageId, Timestamp},
    store::Revision,
};

/// One that is over is shown for so long.
const SHOWN: Duration = Duration::from_secs(24 * 3600);

pub(super) struct Images;

impl Pass for Images {
    const NAME: &'static str = "images";

    async fn pass(&mut self, ops: &Ops, held: &Fence) -> Result<usize, OpsError> {
        let mut done = 0;
        for id in ops.inner.lists.peek(pending).into_iter().take(MOST) {
            done += usize::from(ops.settle_image(&id, Some(held)).await?);
        }
        let now = ops.inner.clocks.believed();
        for (id, revision) in ops.inner.lists.peek(|cache| over(cache, now)) {
            let key = ops.inner.keys.image(&id);
            let draft = Draft::new(&key).at(&key, revision).fenced(Some(held)).delete(&key);
            let draft = draft.delete_prefix(&ops.inner.keys.image_outputs(id.as_str()));
            done +=
                usize::from(matches!(ops.inner.writes.commit(draft, Patience::new()).await?, Outcome::Done));
        }
        Ok(done)
    }
}

/// What is over and was shown for long enough; more, oldest first, while there is hardly room for new ones.
fn over(cache: &Cache, now: Option<Timestamp>) -> Vec<(ImageId, Revision)> {
    let images = cache.commands().images();
    let ended: BTreeSet<_> = images
        .filter(|item| !item.newer)
        .filter_map(|item| Some((item.record.ended?, item.record.id.clone(), item.mod_revision)))
        .collect();
    let count = cache.commands().images().count();
    let surplus = if count > IMAGES * 9 / 10 { (count / 10).max(1) } else { 0 };
    let shown = |end: Timestamp| now.is_some_and(|now| now.since(end) >= SHOWN);
    let due = ended.into_iter().enumerate().filter(|(at, (end, ..))| *at < surplus || shown(*end));
    due.map(|(_, (_, id, revision))| (id, revision)).take(MOST).collect()
}
