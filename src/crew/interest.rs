//! The channels that a worker listens to, as its siblings see them: a bit for each hash of a name.
//!
//! A worker that publishes reads the bits of all siblings, which wakes no process. A bit is set until the call that
//! begins to listen has returned, so a message that is published after that call reaches the listener. Names share bits:
//! a worker may get messages of channels that it does not listen to.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a worker, 1 KiB. With 800 channels in a worker, it gets a tenth of the messages of all others.
pub const PLACES: usize = 8192;

/// The bits of one worker, in the scoreboard.
#[repr(C)]
pub struct ChannelInterest {
    words: [AtomicU64; PLACES / 64],
}

impl Default for ChannelInterest {
    fn default() -> ChannelInterest {
        ChannelInterest { words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// The place of a name. The empty name, of which all workers make use, shares its place with no other.
pub fn place_of(name: &[u8]) -> usize {
    if name.is_empty() {
        return 0;
    }
    // FNV-1a, the same in all versions that share a scoreboard.
    let hash = name
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    1 + ((hash ^ (hash >> 32)) % (PLACES as u64 - 1)) as usize
}

impl ChannelInterest {
    /// Whether the worker listens to a name of this place.
    pub fn has(&self, place: usize) -> bool {
        self.words.get(place / 64).is_some_and(|word| word.load(Ordering::SeqCst) & (1 << (place % 64)) != 0)
    }

    /// Notes that the worker listens.
    pub fn add(&self, place: usize) {
        if let Some(word) = self.words.get(place / 64) {
            word.fetch_or(1 << (place % 64), Ordering::SeqCst);
        }
    }

    /// Notes that the worker listens no longer.
    pub fn remove(&self, place: usize) {
        if let Some(word) = self.words.get(place / 64) {
            word.fetch_and(!(1 << (place % 64)), Ordering::SeqCst);
        }
    }

    /// Notes that the worker listens to nothing.
    pub fn clear(&self) {
        for word in &self.words {
            word.store(0, Ordering::SeqCst);
        }
    }
}

/// The number of names of each place that this worker listens to.
#[derive(Default)]
pub struct ListeningCounts {
    counts: Vec<u32>,
}

impl ListeningCounts {
    /// Adds a name. Returns whether it is the first one of its place.
    pub fn add(&mut self, place: usize) -> bool {
        self.counts.resize(PLACES, 0);
        self.counts.get_mut(place).is_some_and(|count| {
            *count += 1;
            *count == 1
        })
    }

    /// Removes a name. Returns whether it was the last one of its place.
    pub fn remove(&mut self, place: usize) -> bool {
        self.counts.get_mut(place).is_some_and(|count| {
            let is_last = *count == 1;
            *count = count.saturating_sub(1);
            is_last
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_names_stay_what_they_are() {
        assert_eq!((place_of(b""), place_of(b"room"), place_of(b"news")), (0, 4997, 6612));
    }

    #[test]
    fn names_spread_over_all_places_but_that_of_the_empty_name() {
        let mut counts = vec![0_u32; PLACES];
        for number in 0..80_000 {
            counts[place_of(format!("room-{number}").as_bytes())] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts.iter().all(|&count| count < 40));
    }

    #[test]
    fn a_place_is_noted_until_the_last_of_its_names_is_removed() {
        let (interest, mut listening) = (ChannelInterest::default(), ListeningCounts::default());
        assert!(listening.add(70));
        interest.add(70);
        assert!(!listening.add(70));
        assert!(interest.has(70) && !interest.has(71) && !interest.has(6) && !interest.has(PLACES));
        assert!(!listening.remove(70));
        assert!(listening.remove(70));
        assert!(!listening.remove(70));
        interest.remove(70);
        assert!(!interest.has(70));
        interest.add(3);
        interest.clear();
        assert!(!interest.has(3));
    }
}
