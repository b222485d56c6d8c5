//! The whole program against real servers while something breaks: connections, processes, disks, logs.
//!
//! The points at which something breaks are found from outside, since the program has no hooks for tests: by what a target
//! shows (a lock waited for, an index being built), or by a proxy that stops right before the bytes of a COMMIT, or right
//! before the answer to it, when the server has committed and the program cannot know.
//!
//! The source is a [`bank`](stage::Bank): money moves between accounts, the sum never changes, so a transaction that is shown
//! in part is seen at the target at once. Every scenario ends in `verify`, or in a clear error with the way out.
//! tests/README.md lists them.

mod clock;
mod commits;
mod ddl;
mod disks;
mod failover;
mod lake;
mod locks;
mod logs;
mod network;
mod proofs;
mod shapes;
mod sizes;
mod stage;
