//! The rows beyond plain IP sockets, by family of vectors.

mod disarm;
mod families;
mod foreign;
mod sockets;
mod unix;

use super::{ROWS, Row};

/// Every row, in the order in which they are tried.
pub fn all() -> impl Iterator<Item = &'static Row> + Clone {
    [
        ROWS,
        sockets::ROWS,
        families::ROWS,
        foreign::ROWS,
        unix::ROWS,
        disarm::ROWS,
    ]
    .into_iter()
    .flatten()
}
