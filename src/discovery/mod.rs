//! Where the upstreams of a service come from. Each source yields a watch of the whole list, so that a
//! reader never sees half a change. Knows nothing of their health.

pub mod fixed;
