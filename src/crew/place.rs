//! The addresses of a crew's sockets.
//!
//! The master chooses a place before its first fork (`python/rmeinheld/crew_directory.py`): a private directory, or a
//! name for abstract sockets. The name of a socket contains the slot, its generation and the version of the protocol.
//! No two workers have one name, and generations of the service that speak different versions do not find each other.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::message::{PROTOCOL_VERSION, Sibling};
use crate::net::LocalAddress;

/// The version of the protocol of the inspect socket ([`super::inspect`]).
pub const INSPECT_VERSION: u64 = 1;

/// Where the workers of one service find each other's sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrewPlace {
    /// The directory, unless all sockets are abstract.
    directory: Option<PathBuf>,
    /// The beginning of the names of abstract sockets.
    token: String,
}

impl CrewPlace {
    /// Reads the text that `crew_directory.Place` is known by: an absolute path, or `@` and a name.
    pub fn parse(text: &str) -> Option<CrewPlace> {
        if let Some(token) = text.strip_prefix('@') {
            return (!token.is_empty()).then(|| CrewPlace { directory: None, token: token.to_owned() });
        }
        let directory = PathBuf::from(text);
        let token = directory.file_name()?.to_str()?.to_owned();
        directory.is_absolute().then_some(CrewPlace { directory: Some(directory), token })
    }

    /// The addresses of the worker's socket. The abstract one stands in where the directory's file system has become
    /// full or read-only since it was made.
    pub fn addresses(&self, worker: Sibling) -> impl Iterator<Item = LocalAddress> {
        self.named(&format!("{}-{}.v{PROTOCOL_VERSION}", worker.slot, worker.generation))
    }

    /// The addresses of the worker's socket for questions ([`super::inspect`]).
    pub fn inspect_addresses(&self, worker: Sibling) -> impl Iterator<Item = LocalAddress> {
        self.named(&format!("{}-{}.i{INSPECT_VERSION}", worker.slot, worker.generation))
    }

    fn named(&self, name: &str) -> impl Iterator<Item = LocalAddress> + use<> {
        let path = self.directory.as_ref().map(|directory| LocalAddress::Path(directory.join(name)));
        path.into_iter().chain([LocalAddress::Abstract(format!("{}/{name}", self.token))])
    }

    /// Removes the sockets of earlier owners of the slot, which were killed.
    pub fn remove_predecessors(&self, worker: Sibling) {
        let Some(entries) = self.directory.as_deref().and_then(|directory| std::fs::read_dir(directory).ok()) else {
            return;
        };
        for entry in entries.flatten().filter(|entry| is_of_predecessor(&entry.file_name(), worker)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }

    /// The directory, if there is one.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

fn is_of_predecessor(name: &OsStr, worker: Sibling) -> bool {
    let parts = name.to_str().and_then(|name| name.split_once('.')).and_then(|(name, _)| name.split_once('-'));
    parts.is_some_and(|(slot, generation)| {
        slot.parse() == Ok(worker.slot) && generation.parse::<u64>().is_ok_and(|other| other < worker.generation)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_or_the_name_of_abstract_sockets() {
        let worker = Sibling { slot: 3, generation: 7 };
        let of = |text| CrewPlace::parse(text).map(|place| place.addresses(worker).collect::<Vec<_>>());
        let abstract_one = LocalAddress::Abstract("crew-1/3-7.v1".to_owned());
        assert_eq!(of("@crew-1"), Some(vec![abstract_one.clone()]));
        assert_eq!(of("/run/crew-1"), Some(vec![LocalAddress::Path("/run/crew-1/3-7.v1".into()), abstract_one]));
        for text in ["", "@", "crew-1", "/", "run/crew-1"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn the_sockets_of_killed_predecessors_are_known_by_their_names() {
        let worker = Sibling { slot: 3, generation: 7 };
        for (name, is_stale) in [
            ("3-6.v1", true),
            ("3-1.v9", true),
            ("3-7.v1", false),
            ("3-8.v1", false),
            ("33-6.v1", false),
            ("3-6", false),
            ("trial", false),
        ] {
            assert_eq!(is_of_predecessor(OsStr::new(name), worker), is_stale, "{name}");
        }
    }
}
