//! Bytes from outside, damaged: what every reader of them must bear.
//!
//! A connector's readers are private, so its fuzz tests stand beside them and use this crate for what is common: examples
//! from real servers ([`corpus`]), a way to damage them ([`Mutator`]), and a run that demands of each damaged input that it
//! is read or refused without a panic, and without allocating more than is due ([`Fuzz`]). The allocator that counts
//! (`allocator.rs`) is that of every test binary that links this crate.
//!
//! Inputs follow from a fixed seed, so a run is the same each time; `CROSSFADE_FUZZ_ITERATIONS` makes it longer. Mutation is
//! blind: a stable toolchain has no coverage to follow. Lengths, counts and offsets are therefore aimed at directly.

mod allocator;
pub mod corpus;
mod mutator;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use mutator::Mutator;

/// Inputs of a run when nothing else is said: below ten seconds in a debug build for every reader.
const ITERATIONS: u64 = 20_000;

/// A run of damaged inputs through one reader.
#[derive(Debug, Clone, Copy)]
pub struct Fuzz {
    /// Inputs, unless the variable says otherwise.
    iterations: u64,
    /// Bytes that may be allocated at once for each byte of input.
    factor: usize,
}

/// Bytes that may be allocated whatever the input is: buffers of a fixed size.
const FIXED: usize = 1 << 20;

impl Default for Fuzz {
    fn default() -> Self {
        Fuzz { iterations: ITERATIONS, factor: 64 }
    }
}

impl Fuzz {
    /// Another number of inputs, for a reader that is slow.
    #[must_use]
    pub fn iterations(self, iterations: u64) -> Self {
        Fuzz { iterations, ..self }
    }

    /// Another bound, for a reader of compressed bytes.
    #[must_use]
    pub fn factor(self, factor: usize) -> Self {
        Fuzz { factor, ..self }
    }

    /// Feeds every example as it is, then damaged ones. The reader says whether it accepted its input.
    ///
    /// # Panics
    ///
    /// If the reader does, or allocates more than is due, or refuses everything: then nothing behind its first check was
    /// tried. The message holds the input.
    pub fn run(self, examples: &[Vec<u8>], mut read: impl FnMut(&[u8]) -> bool) {
        assert!(!examples.is_empty(), "no example to begin with");
        let mut accepted = examples.iter().filter(|e| self.one(e, &mut read)).count();
        assert!(accepted > 0, "none of {} undamaged examples was accepted", examples.len());
        let iterations = match std::env::var("CROSSFADE_FUZZ_ITERATIONS") {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("CROSSFADE_FUZZ_ITERATIONS={text} is not a number")),
            Err(_) => self.iterations,
        };
        let mut mutator = Mutator::new(1);
        for _ in 0..iterations {
            let input = mutator.damaged(examples);
            accepted += usize::from(self.one(&input, &mut read));
        }
        println!("{} examples, {iterations} damaged inputs, {accepted} accepted", examples.len());
    }

    fn one(self, input: &[u8], read: &mut impl FnMut(&[u8]) -> bool) -> bool {
        let (outcome, peak) = allocator::peak_of(|| catch_unwind(AssertUnwindSafe(|| read(input))));
        let allowed = input.len() * self.factor + FIXED;
        match outcome {
            Err(_) => panic!("a panic (above) on {}", hex(input)),
            Ok(_) if peak > allowed => {
                panic!("{peak} bytes allocated for {} of input, {allowed} are due: {}", input.len(), hex(input))
            }
            Ok(accepted) => accepted,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(read: impl FnMut(&[u8]) -> bool) -> String {
        let fuzz = Fuzz::default().iterations(2_000);
        let panic = catch_unwind(AssertUnwindSafe(|| fuzz.run(&[vec![0, 0, 0, 2, 7, 7]], read))).unwrap_err();
        *panic.downcast::<String>().unwrap()
    }

    /// A length of four bytes, then so many bytes.
    fn split(input: &[u8]) -> Option<(usize, &[u8])> {
        let (length, rest) = input.split_first_chunk::<4>()?;
        Some((u32::from_be_bytes(*length) as usize, rest))
    }

    #[test]
    fn a_reader_that_trusts_a_length_is_found() {
        let trusting = |input: &[u8]| match split(input) {
            Some((length, rest)) => {
                let mut out: Vec<u8> = Vec::with_capacity(length);
                out.extend(rest);
                !out.is_empty()
            }
            None => false,
        };
        assert!(fails(trusting).contains("bytes allocated for"));
        let indexing = |input: &[u8]| split(input).is_some_and(|(length, rest)| rest[..length].len() == 2);
        assert!(fails(indexing).contains("a panic"));
        assert!(fails(|_| false).contains("none of 1 undamaged examples"));
    }

    #[test]
    fn a_careful_reader_passes() {
        let careful = |input: &[u8]| split(input).is_some_and(|(length, rest)| rest.get(..length).is_some());
        Fuzz::default().iterations(2_000).run(&[vec![0, 0, 0, 2, 7, 7]], careful);
    }
}
