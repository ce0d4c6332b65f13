//! Names of things that may be gone when the name is used. No name is ever given twice.

/// Names one wait of one unit. Numbers are never used twice, so a late wake-up ends no other wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The unit's slot.
    pub unit: usize,
    /// The wait's own number.
    pub number: u64,
}

/// Names a source; stays unique when its slot is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(pub u64);

impl SourceId {
    /// The inbox's bell, which is no source.
    pub const BELL: SourceId = SourceId(u64::MAX);

    /// The poller's alarm, which is none either.
    pub const ALARM: SourceId = SourceId(u64::MAX - 1);

    /// For a slot and how often it has been used.
    pub fn new(index: usize, generation: u32) -> SourceId {
        SourceId(u64::from(generation) << 32 | index as u64)
    }

    /// The slot.
    pub fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    /// How often the slot had been used.
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Names one piece of work that a unit runs or has run. Numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkId {
    /// The unit's slot.
    pub unit: usize,
    /// The work's own number.
    pub number: u64,
}
