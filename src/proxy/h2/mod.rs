//! HTTP/2 as bytes: frames (RFC 9113 §4, §6), compressed fields (RFC 7541), and heads as those of HTTP/1.1, which is
//! what everybody else reads. Pure, and it panics at no input: the engine drives it, fuzzing tries it.

pub mod frame;
pub mod hpack;
pub mod request;
pub mod answer;
