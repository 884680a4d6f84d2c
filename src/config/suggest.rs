//! "Did you mean …?": the nearest of the known words.

/// The known word nearest to `given`, if it is near enough to be a slip of the hand.
pub(super) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_ascii_lowercase();
    let limit = (given.len() / 3).max(1);
    known
        .into_iter()
        .map(|word| (distance(&given, &word.to_ascii_lowercase()), word))
        .filter(|(distance, word)| *distance <= limit || plural(&given, word))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

fn plural(given: &str, word: &str) -> bool {
    given.strip_suffix('s') == Some(word) || word.strip_suffix('s') == Some(given)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    // Words of a config are short; a hostile one must not cost time.
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let known = ["interval", "timeout", "upstreams", "listen", "rise", "fall"];
        for (given, expected) in [
            ("intervall", Some("interval")),
            ("Timeout", Some("timeout")),
            ("upstream", Some("upstreams")),
            ("lsiten", Some("listen")),
            ("rize", Some("rise")),
            ("certificate", None),
            ("x", None),
        ] {
            assert_eq!(nearest(given, known), expected, "{given}");
        }
    }
}
