use super::*;

#[test]
fn lists_of_threads_share_one_bound_and_what_ends_makes_room() {
    let transfers = Transfers::default();
    let (a, b) = (transfers.list(), transfers.list());
    assert!((0..MOST - 1).all(|_| a.take_place()));
    assert!(b.take_place() && transfers.is_full() && !a.take_place());
    b.leave_place();
    assert!(!transfers.is_full() && a.take_place());
}

#[test]
fn words_of_who_is_waited_for_survive_their_number() {
    for waits in [Waits::Client, Waits::Upstream, Waits::Turn] {
        assert_eq!(Waits::of(waits as u8), waits);
    }
}
