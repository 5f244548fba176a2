//! Places in arrays, given out so that one that a packet on its way may still look at is not filled anew.

use std::collections::VecDeque;

/// Free places of one array. The longest free goes first.
#[derive(Debug)]
pub(super) struct Ids {
    first: u32,
    end: u32,
    /// With the era in which it became free.
    free: VecDeque<(u32, u64)>,
    /// Places beyond the end that were asked for: the array is too small by so many.
    beyond: u32,
}

impl Ids {
    /// Places from `first` to before `end`, less those in use.
    pub fn new(first: u32, end: u32, used: impl Fn(u32) -> bool) -> Self {
        Self {
            first,
            end,
            free: (first..end).filter(|id| !used(*id)).map(|id| (id, 0)).collect(),
            beyond: 0,
        }
    }

    /// A place, and the era in which it became free. Never fails: beyond the end there are places that only [`Self::used`] knows.
    pub fn take(&mut self) -> (u32, u64) {
        self.free.pop_front().unwrap_or_else(|| {
            self.beyond += 1;
            (self.end + self.beyond - 1, 0)
        })
    }

    pub fn give(&mut self, id: u32, era: u64) {
        if id < self.end {
            self.free.push_back((id, era));
        }
    }

    /// Places in use, those beyond the end included.
    pub fn used(&self) -> u32 {
        self.end - self.first - self.free.len() as u32 + self.beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_place_is_taken_last() {
        let mut ids = Ids::new(2, 6, |id| id == 3);
        assert_eq!(ids.used(), 1);
        let (a, era) = ids.take();
        assert_eq!((a, era), (2, 0));
        ids.give(a, 7);
        assert_eq!(ids.take().0, 4);
        assert_eq!(ids.take().0, 5);
        assert_eq!(ids.take(), (2, 7));
        assert_eq!(ids.used(), 4);
        ids.take();
        assert_eq!(ids.used(), 5);
    }
}
