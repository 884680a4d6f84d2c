//! Large values that are made where they stay.

/// What `make` gives, on the heap. `Box::new` has the value before it has the room, so it copies all of it: two KiB for the
/// future of a request. Here the room is there first, and what is made is written straight into it.
#[inline(always)]
pub(super) fn boxed<T>(make: impl FnOnce() -> T) -> Box<T> {
    Box::write(Box::new_uninit(), make())
}
