//! Names of objects that may be gone when the name is used. No name is ever reused.

/// Names one wait of one unit. Numbers are never reused, so a late wake-up ends no other wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The unit's slot.
    pub unit: usize,
    /// The wait's own number.
    pub number: u64,
}

/// Names a source, and stays unique when its slot is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(pub u64);

impl SourceId {
    /// The inbox's bell, which is not a source.
    pub const BELL: SourceId = SourceId(u64::MAX);

    /// The poller's alarm, which is not a source.
    pub const ALARM: SourceId = SourceId(u64::MAX - 1);

    /// The name of the source in a slot, given the source's generation.
    pub fn new(index: usize, generation: u32) -> SourceId {
        SourceId(u64::from(generation) << 32 | index as u64)
    }

    /// The slot of the source.
    pub fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    /// The generation: the running number of the source's registration.
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Names one piece of work that a unit runs or has run. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkId {
    /// The unit's slot.
    pub unit: usize,
    /// The work's own number.
    pub number: u64,
}
