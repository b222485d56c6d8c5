//! The production pipeline over ends in memory, under seeded faults.
//!
//! `crossfade::pipeline::run` copies and streams beside somebody who writes, while calls of both ends fail before or
//! after they were done, sessions are killed, tables are taken in anew and the pipeline is stopped and started again.
//! [`oracle`] says what must hold in spite of it; `self_test` breaks the ends on purpose and demands that the oracle sees
//! it. A seed fixes the world: sizes, rules, every transaction of the log, and which calls fail ("the third commit").
//! It does not fix how threads interleave, so a seed that failed may pass: [`seeds::replay`] runs it a hundred times.
//!
//! `CROSSFADE_SEEDS=FIRST..END` runs other seeds than those of every day, `CROSSFADE_SEED=N` is for `replay`.

mod apply;
mod bounds;
mod codec;
mod conformance;
mod defects;
mod faults;
mod lens;
mod oracle;
mod plans;
mod poison;
mod proof;
mod random;
mod scenario;
mod seeds;
mod self_test;
mod source;
mod stream;
mod target;
mod target_parts;
mod world;
