//! Which start goes to which node: `fit` and `rank` are pure, `reserve` is the transaction, `dispatch` brings
//! waiting polls and waiting starts together.

pub mod fit;
pub mod rank;
pub(super) mod dispatch;
pub(super) mod reserve;
