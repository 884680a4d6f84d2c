//! What is worth an operator's look although the registry serves: each part of its upkeep says its own sentences.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Sentences of one part; more are counted.
const MOST: usize = 3;

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Notes {
    said: Arc<Mutex<BTreeMap<&'static str, Vec<String>>>>,
}

impl Notes {
    /// What this part has to say from now on; nothing takes back what it said.
    pub fn say(&self, part: &'static str, mut sentences: Vec<String>) {
        if sentences.len() > MOST {
            let more = sentences.len() - MOST;
            sentences.truncate(MOST);
            sentences.push(format!("and {more} more like that"));
        }
        self.said().insert(part, sentences);
    }

    /// All of it.
    pub fn all(&self) -> Vec<String> {
        self.said().values().flatten().cloned().collect()
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<String>>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_takes_back_its_own_words_alone_and_none_says_too_much() {
        let notes = Notes::default();
        notes.say("a", (0..10).map(|n| format!("a{n}")).collect());
        notes.say("b", vec!["b".into()]);
        assert_eq!(notes.all(), ["a0", "a1", "a2", "and 7 more like that", "b"]);
        notes.say("a", Vec::new());
        assert_eq!(notes.all(), ["b"]);
    }
}
