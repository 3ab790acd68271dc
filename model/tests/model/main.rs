//! What the crate promises to the outside: bytes that never change, admission that does not depend on arrival, decoders
//! that take anything.

mod admission;
mod attacks;

mod convergence;
mod golden;
mod plain;
mod small;
mod world;
