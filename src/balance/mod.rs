//! Who is next among the eligible. Pure: load, turn and chance come in as numbers, a place comes out.

pub mod ejection;
mod least_requests;
pub mod retry_budget;
mod round_robin;

pub use least_requests::least_requests;
pub use round_robin::round_robin;
