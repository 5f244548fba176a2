//! Chance that a seed repeats.

/// SplitMix64 (Steele, Lea, Flood 2014): the same sequence for the same seed on every machine and release.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 up to, not including, `end`, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Both ends included.
    pub fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Between `least` and `most` distinct members, in the list's order.
    pub fn some<T: Clone>(&mut self, list: &[T], least: usize, most: usize) -> Vec<T> {
        let mut want = self.between(least.min(list.len()), most.min(list.len()));
        let mut chosen = Vec::with_capacity(want);
        for (i, item) in list.iter().enumerate() {
            if self.below(list.len() - i) < want {
                chosen.push(item.clone());
                want -= 1;
            }
        }
        chosen
    }
}
