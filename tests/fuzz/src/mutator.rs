//! Ways to damage an example: bits, bytes, lengths, pieces left out, doubled, or taken from another example.

/// Damages examples, in an order that follows from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Mutator(u64);

/// Numbers at the edges of what fields hold.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xfb,
    0xfc,
    0xfe,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Pieces of text that mean something to a reader of text.
const WORDS: [&[u8]; 16] = [
    b"'",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b"-",
    b"99999999999999999999",
    b"e999999999",
    b"\0",
    b"\xff",
    b"NaN",
    b"infinity",
    b"'''",
    b"%",
];

impl Mutator {
    /// The damage of a seed.
    pub fn new(seed: u64) -> Self {
        Mutator(seed)
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 if there is nothing below it.
    fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.number() % end as u64) as usize }
    }

    fn one_of<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())]
    }

    /// One of the examples with up to eight damages, mostly one or two.
    ///
    /// # Panics
    ///
    /// Without examples.
    pub fn damaged(&mut self, examples: &[Vec<u8>]) -> Vec<u8> {
        let mut input = examples[self.below(examples.len())].clone();
        let damages = 1 + self.below(self.0 as usize % 8 + 1);
        for _ in 0..damages {
            self.damage(&mut input, examples);
        }
        input
    }

    fn damage(&mut self, input: &mut Vec<u8>, examples: &[Vec<u8>]) {
        let at = self.below(input.len());
        let (from, to) = {
            let (a, b) = (self.below(input.len() + 1), at);
            (a.min(b), a.max(b))
        };
        match self.below(11) {
            0 | 1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.number() as u8;
                }
            }
            3 | 4 => self.number_at(input, at),
            5 => input.truncate(at),
            6 => drop(input.drain(from..to)),
            7 => {
                let piece = input[from..to].to_vec();
                input.splice(at..at, piece);
            }
            8 => {
                let other = &examples[self.below(examples.len())];
                let (a, b) = (self.below(other.len() + 1), self.below(other.len() + 1));
                input.splice(from..to, other[a.min(b)..a.max(b)].iter().copied());
            }
            9 => {
                let word = self.one_of(&WORDS);
                input.splice(from..from + (to - from).min(word.len()), word.iter().copied());
            }
            _ => {
                let more = self.below(64);
                let byte = self.number() as u8;
                input.splice(at..at, std::iter::repeat_n(byte, more));
            }
        }
        input.truncate(1 << 16);
    }

    /// A number of one to eight bytes in either order: an edge, or what is there changed a little.
    fn number_at(&mut self, input: &mut [u8], at: usize) {
        let width = self.one_of(&[1, 2, 3, 4, 8]);
        let Some(field) = input.get_mut(at..at + width) else { return };
        let big = self.below(2) == 0;
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(field);
        if big {
            bytes[..width].reverse();
        }
        let number = match self.below(3) {
            0 => u64::from_le_bytes(bytes).wrapping_add(self.below(9) as u64).wrapping_sub(4),
            _ => self.one_of(&EDGES),
        };
        bytes = number.to_le_bytes();
        if big {
            bytes[..width].reverse();
        }
        field.copy_from_slice(&bytes[..width]);
    }
}

#[test]
fn damage_is_the_same_each_time_and_changes_nearly_everything() {
    let examples = [b"hello, world".to_vec(), (0..=255).collect()];
    let (mut a, mut b) = (Mutator::new(7), Mutator::new(7));
    let inputs: Vec<Vec<u8>> = (0..1000).map(|_| a.damaged(&examples)).collect();
    assert!(inputs.iter().all(|i| *i == b.damaged(&examples)));
    let changed = inputs.iter().filter(|i| !examples.contains(i)).count();
    assert!(changed > 900, "{changed}");
}
