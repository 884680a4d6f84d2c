//! What only the start has needed of the program is given back (Linux).
//!
//! A program that may lie anywhere carries a list of its own addresses, which the loader corrects, and what reads command
//! line and config runs once: megabytes of the file that are in memory and never looked at again. What is looked at comes
//! back, as it came, so that this may be done at any time.

use std::{fs, ops::Range, path::Path};

/// Gives it back. There is nothing to be said where that cannot be done: the program runs as well with it.
pub(super) fn give_back() {
    let Ok(program) = std::env::current_exe() else { return };
    // The breakpoints of a debugger lie in there.
    if fs::read_to_string("/proc/self/status").is_ok_and(|status| !is_traced(&status))
        && let Ok(maps) = fs::read_to_string("/proc/self/maps")
    {
        maps.lines().filter_map(|line| unchanging(line, &program)).for_each(system::forget);
    }
}

fn is_traced(status: &str) -> bool {
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_none_or(|pid| pid.trim() != "0")
}

/// Where a part of the program's file lies that nobody can have changed: its code, and the constants that begin the file.
/// What the loader has corrected is also there to be read only, but never begins a file.
fn unchanging(line: &str, program: &Path) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (place, rights, offset) = (words.next()?, words.next()?, words.next()?);
    // The device and the number of the file stand before its name.
    let name = line.get(line.find('/')?..)?;
    let begins = offset.bytes().all(|digit| digit == b'0');
    let is_it = (rights == "r-xp" || rights == "r--p" && begins) && Path::new(name) == program;
    let (start, end) = place.split_once('-').filter(|_| is_it)?;
    let address = |word| usize::from_str_radix(word, 16).ok();
    Some(address(start)?..address(end)?).filter(|range| !range.is_empty())
}

#[cfg(target_os = "linux")]
mod system {
    use std::ops::Range;

    use rustix::mm::{Advice, madvise};

    #[expect(unsafe_code, reason = "no crate has a safe wrapper of this call: most of what it can do is not")]
    pub(super) fn forget(range: Range<usize>) {
        let start = std::ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: the system says of these pages that they are ours alone, not to be written, and of a file that cannot
        // change while it runs. Nobody has changed them, so what comes back is what was there.
        let done = unsafe { madvise(start, range.end - range.start, Advice::LinuxDontNeed) };
        if let Err(error) = done {
            tracing::debug!(error = %error, "memory that only the start has needed is kept");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn forget(_: std::ops::Range<usize>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_nobody_can_have_changed_of_our_own_file() {
        let program = "/opt/a b/switchyard";
        let of = |line: &str| {
            unchanging(&format!("{line}                /opt/a b/switchyard"), Path::new(program))
        };
        assert_eq!(of("1000-3000 r--p 00000000 fe:00 77"), Some(0x1000..0x3000));
        assert_eq!(of("3000-9000 r-xp 00002000 fe:00 77"), Some(0x3000..0x9000));
        assert_eq!(of("9000-a000 r--p 00008000 fe:00 77"), None, "the loader has corrected it");
        assert_eq!(of("a000-b000 rw-p 00009000 fe:00 77"), None);
        assert_eq!(of("a000-b000 rwxp 00002000 fe:00 77"), None);
        for other in [
            "555-666 r--p 00000000 fe:00 12 /usr/lib/libm.so.6",
            "555-666 r-xp 00000000 fe:00 12 /opt/a b/switchyard-old",
            "555-666 r-xp 00000000 00:00 0 [vdso]",
            "1000 r--p 00000000 fe:00 77 /opt/a b/switchyard",
            "g-h r--p 0 fe:00 77 /opt/a b/switchyard",
            "2-1 r--p 0 fe:00 77 /opt/a b/switchyard",
            "/opt/a b/switchyard",
            "",
        ] {
            assert_eq!(unchanging(other, Path::new(program)), None, "{other}");
        }
    }

    #[test]
    fn one_that_is_looked_at_by_a_debugger_keeps_it() {
        assert!(!is_traced("Name:\tx\nTracerPid:\t0\nUid:\t0"));
        assert!(is_traced("Name:\tx\nTracerPid:\t77\nUid:\t0"));
        assert!(is_traced("Name:\tx\n"), "it is not said");
    }

    /// The linker puts this test into the same file as what it calls.
    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_given_back_comes_back_while_others_run() {
        let (words, ended) = (["constants", "come", "back"], std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                let mut looks = 0;
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(words.concat(), "constantscomeback");
                    looks += 1;
                }
                looks
            });
            for _ in 0..200 {
                give_back();
            }
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(running.join().is_ok_and(|looks| looks > 0));
        });
    }
}
