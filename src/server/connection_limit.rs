//! The limit of open connections: a setting, or what the limit of open files leaves.

use rustix::process::{Resource, getrlimit};

/// The share of the open files that is kept for the application (1 / RESERVE), and its bounds.
const RESERVE: usize = 8;
const RESERVE_BOUNDS: (usize, usize) = (16, 1000);

/// The cap on open connections.
pub struct ConnectionLimit {
    /// The cap itself.
    pub connections: usize,
    is_given: bool,
    /// The limit of open files; `None` without one.
    files: Option<usize>,
    open: usize,
}

impl ConnectionLimit {
    /// The limit for a value of `max_connections`, at the start of a server.
    pub fn new(given: Option<usize>) -> ConnectionLimit {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        // Without /proc: standard streams, the loop's own, and a few libraries'.
        let open = std::fs::read_dir("/proc/self/fd").map_or(16, Iterator::count);
        ConnectionLimit {
            connections: given.unwrap_or_else(|| files.map_or(usize::MAX, |files| left(files, open))),
            is_given: given.is_some(),
            files,
            open,
        }
    }

    /// The warning at the start, if the cap cannot be reached.
    pub fn warning(&self) -> Option<String> {
        let files = self.files?;
        (self.is_given && self.connections > left(files, self.open)).then(|| {
            format!(
                "max_connections is {}, but the limit of open files is {files}, of which {} are open already. Raise it \
                 (ulimit -n), or lower max_connections to {}.",
                self.connections,
                self.open,
                left(files, self.open),
            )
        })
    }

    /// The warning when the cap is reached.
    pub fn fullness(&self) -> String {
        let cure = match self.files {
            Some(files) if !self.is_given => {
                format!("Raise the limit of open files (ulimit -n, now {files}), from which max_connections follows.")
            }
            _ => "Raise max_connections, and with it the limit of open files (ulimit -n).".to_owned(),
        };
        format!(
            "{} connections are open, as many as max_connections allows, and none is idle: new clients wait until one \
             is. {cure}",
            self.connections
        )
    }
}

fn left(files: usize, open: usize) -> usize {
    let (least, most) = RESERVE_BOUNDS;
    files.saturating_sub(open + (files / RESERVE).clamp(least, most)).max(1)
}

#[cfg(test)]
mod tests {
    use super::left;

    #[test]
    fn the_application_keeps_an_eighth_of_the_open_files_within_bounds() {
        assert_eq!(left(1024, 20), 1024 - 20 - 128);
        assert_eq!(left(64, 20), 64 - 20 - 16);
        assert_eq!(left(1_048_576, 20), 1_048_576 - 20 - 1000);
    }

    #[test]
    fn one_connection_is_always_allowed() {
        assert_eq!(left(13, 13), 1);
    }
}
