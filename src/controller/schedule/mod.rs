//! Which start goes to which node: `fit`, `room`, `rank` and `best` are pure, `reserve` is the transaction, `dispatch` brings
//! waiting polls and waiting starts together.

pub mod best;
pub mod fit;
pub mod rank;
pub mod room;
pub(super) mod dispatch;
pub(super) mod reserve;
#[cfg(test)]
mod starving;
