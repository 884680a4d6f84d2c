//! HTTP/1.1 as bytes: where a head ends, what its fields are, how a body is framed. Pure; the guard, the steps and
//! the engine share it, so that none of them can read a message differently.

pub mod answer;
pub mod chunked;
pub mod fields;
pub mod framing;
pub mod scan;

pub use fields::Fields;
pub use framing::Framing;
