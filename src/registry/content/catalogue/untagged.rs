//! Which manifests no tag leads to.

use std::collections::BTreeSet;

use super::Catalogue;
use crate::model::Digest;

impl Catalogue {
    /// Manifests that were last pushed before this (Unix seconds) and that nothing needs: no tag, no newer manifest,
    /// no index that stays, and what they are about does not stay, either.
    pub fn untagged(&self, pushed_before: i64) -> Vec<Digest> {
        let tagged = self.tags.values().map(|version| version.digest);
        let newer = self.manifests.iter().filter(|(_, stored)| stored.pushed >= pushed_before);
        let mut ahead: Vec<Digest> = tagged.chain(newer.map(|(digest, _)| *digest)).collect();
        let mut stays = BTreeSet::new();
        while let Some(digest) = ahead.pop() {
            if !stays.insert(digest) {
                continue;
            }
            let listed = self.manifests.get(&digest).map(|stored| stored.children.as_slice());
            ahead.extend(listed.unwrap_or_default());
            ahead.extend(self.referrers(&digest).map(|(referrer, _)| *referrer));
        }
        self.manifests.keys().filter(|digest| !stays.contains(digest)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{RepositoryName, Tag},
        wire::replication::Stored,
    };

    #[test]
    fn a_manifest_that_something_leads_to_is_not_untagged() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let stored = |pushed, children: &[&str], subject: Option<&str>| Stored {
            media_type: "x".into(),
            size: 1,
            subject: subject.map(digest),
            children: children.iter().map(|child| digest(child)).collect(),
            pushed,
        };
        let mut catalogue = Catalogue::new(RepositoryName::parse("a").unwrap());
        catalogue.add(digest("tagged index"), stored(1, &["listed"], None));
        catalogue.add(digest("listed"), stored(1, &[], None));
        catalogue.add(digest("signature"), stored(1, &[], Some("listed")));
        catalogue.add(digest("old"), stored(1, &["only the old one lists it"], None));
        catalogue.add(digest("only the old one lists it"), stored(1, &[], None));
        catalogue.add(digest("of the old one"), stored(1, &[], Some("old")));
        catalogue.add(digest("young"), stored(10, &["listed by the young"], None));
        catalogue.add(digest("listed by the young"), stored(1, &[], None));
        catalogue.tag(Tag::parse("t").unwrap(), digest("tagged index"), 1);
        let mut wanted = ["old", "only the old one lists it", "of the old one"].map(digest);
        wanted.sort();
        assert_eq!(catalogue.untagged(5), wanted);
        assert!(catalogue.untagged(1).is_empty());
    }
}
