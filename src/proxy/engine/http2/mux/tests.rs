use super::*;
use crate::{clock, proxy::lane::Lane};

const LIMITS: Limits = Limits { head: HeadLimits { bytes: 32 * 1024, fields: 128 }, streams: 128 };

/// The windows that were promised to each stream.
fn grown(mux: &Mux) -> Vec<u32> {
    let (mut rest, mut out) = (mux.rest(), Vec::new());
    while let Some(head) = frame::Head::read(rest) {
        let (payload, behind) = rest[frame::HEAD..].split_at(head.length);
        if let Ok(frame::Frame::Window(by)) = head.take(payload)
            && head.stream > 0
        {
            out.push(by);
        }
        rest = behind;
    }
    out
}

#[tokio::test(start_paused = true)]
async fn what_is_promised_to_transfers_has_a_bound_and_comes_back() {
    let shared = Shared::new(LIMITS, clock::now());
    let mux = &mut *shared.lock();
    for _ in 0..3 {
        mux.wrote(mux.rest().len());
        let (first, last) = (mux.last, mux.last + 200);
        let places: Vec<Place> = (first..last)
            .filter(|id| !id.is_multiple_of(2))
            .map(|id| {
                mux.last = id;
                mux.streams.open(id, 0, None, false)
            })
            .collect();
        for place in &places {
            mux.is_of(*place, Lane::Control);
        }
        assert!(grown(mux).is_empty());
        for place in &places {
            mux.is_of(*place, Lane::Bulk);
        }
        let by = grown(mux);
        assert!(by[0] == 512 * 1024 - WINDOW && by.len() > 4, "{by:?}");
        assert!(by.iter().sum::<u32>() <= CONNECTION_WINDOW - 512 * 1024, "{by:?}");
        for place in places {
            mux.close(place, true);
        }
        assert_eq!(mux.promised, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_small() {
    let shared = Shared::new(LIMITS, clock::now());
    let mux = &mut *shared.lock();
    mux.wrote(mux.rest().len());
    assert!(size_of::<Mux>() <= 1024, "{}", size_of::<Mux>());
    mux.out.reserve(10_000);
    mux.idle();
    assert!(mux.out.capacity() <= KEPT_IDLE);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_not_kept_though_there_is_always_more() {
    let shared = Shared::new(LIMITS, clock::now());
    let mux = &mut *shared.lock();
    let place = mux.streams.open(1, i64::MAX, None, true);
    mux.room = i64::MAX;
    let cx = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..1000 {
        while mux.poll_send(place, &[7; 16_384], false, &cx).is_ready() {}
        mux.wrote(mux.rest().len() - 100);
    }
    assert!(mux.out.capacity() < 512 * 1024, "{}", mux.out.capacity());
}

#[tokio::test(start_paused = true)]
async fn each_setting_of_a_frame_counts() {
    let settings = |count: usize| [0, 4, 0, 0, 0, 1].repeat(count);
    let take = |count: usize| {
        let (shared, payload) = (Shared::new(LIMITS, clock::now()), settings(count));
        let head = frame::Head { length: payload.len(), kind: frame::Kind::Settings, flags: 0, stream: 0 };
        shared.lock().take(head, &payload, clock::now()).map(|_| ())
    };
    assert_eq!(take(0), Ok(()));
    assert_eq!(take(50), Ok(()));
    assert_eq!(take(2500), Err(super::super::meter::Broken::IDLE));
}
