//! The peaks of bursts: the most units and sources since memory was returned to the kernel.

/// Units that have gone since a peak make it the peak of a burst. Each has up to 17 KB of the heap.
const UNITS_OF_BURST: usize = 128;

/// Sources that have gone since a peak make it the peak of a burst. Each has about 0.2 KB of the heap.
const SOURCES_OF_BURST: usize = 4096;

/// The most units and sources since memory was returned last.
#[derive(Default)]
pub struct Peaks {
    units: usize,
    sources: usize,
    /// The end of a burst has been found, and its memory is still to be returned.
    has_ended: bool,
}

impl Peaks {
    /// Notes how many units and sources there are now. Returns true once if a burst has ended, or a part of it.
    pub fn has_burst_ended(&mut self, units: usize, sources: usize) -> bool {
        self.units = self.units.max(units);
        self.sources = self.sources.max(sources);
        let has_ended = self.units - units >= UNITS_OF_BURST || self.sources - sources >= SOURCES_OF_BURST;
        has_ended && !std::mem::replace(&mut self.has_ended, has_ended)
    }

    /// Begins anew, since memory is returned now.
    pub fn begin(&mut self, units: usize, sources: usize) {
        *self = Peaks { units, sources, has_ended: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_burst_is_found_once() {
        let mut peaks = Peaks::default();
        assert!(!peaks.has_burst_ended(1000, 0));
        assert!(!peaks.has_burst_ended(1001 - UNITS_OF_BURST, 0));
        assert!(peaks.has_burst_ended(1000 - UNITS_OF_BURST, 0));
        assert!(!peaks.has_burst_ended(20, 0));
        peaks.begin(20, 0);
        assert!(!peaks.has_burst_ended(0, 0));
        assert!(!peaks.has_burst_ended(0, SOURCES_OF_BURST));
        assert!(peaks.has_burst_ended(0, 0));
    }
}
