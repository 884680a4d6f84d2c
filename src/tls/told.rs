//! What is said of files that are looked at again and again: each thing once.

use std::collections::BTreeMap;

use tracing::{error, info};

use super::{Problem, in_words};

/// Whose files were refused, and with which words.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<String, String>);

impl Told {
    /// Says what a look at the files of one table has found, if that is news.
    pub fn say(&mut self, of: &str, looked: Result<bool, Vec<Problem>>) {
        match looked {
            Ok(new) => {
                let healed = self.0.remove(of).is_some();
                if new {
                    info!(tls.of = of, "new certificates, keys or lists were taken");
                } else if healed {
                    info!(tls.of = of, "certificates, keys and lists are again those in use");
                }
            }
            Err(problems) => {
                let faults = in_words(&problems);
                if self.0.get(of) != Some(&faults) {
                    error!(
                        tls.of = of,
                        faults, "new certificates, keys or lists were refused, the old ones serve on"
                    );
                    self.0.insert(of.to_owned(), faults);
                }
            }
        }
    }
}
