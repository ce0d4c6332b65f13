//! Sets of addresses and networks, such as the trusted peers.

use std::net::IpAddr;

use super::Peer;

/// A set of IP networks, or of all addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    is_everything: bool,
    networks: Vec<(IpAddr, u8)>,
}

impl Networks {
    /// Parses texts like `192.0.2.0/24`, `::1` and `*`. Returns `None` if a text is anything else.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Option<Networks> {
        let mut parsed = Networks::default();
        for text in texts {
            let text = text.as_ref();
            if text == "*" {
                parsed.is_everything = true;
                continue;
            }
            let (address, prefix) = text.split_once('/').map_or((text, None), |(left, right)| (left, Some(right)));
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.map_or(Ok(most), str::parse).ok().filter(|&prefix| prefix <= most)?;
            parsed.networks.push((address, prefix));
        }
        Some(parsed)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        !self.is_everything && self.networks.is_empty()
    }

    /// Whether the set contains the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_everything || self.networks.iter().any(|&(network, prefix)| is_in(address, network, prefix))
    }

    /// Whether the set contains the peer. As in Gunicorn, every non-empty set contains all peers without an address:
    /// permissions decide who may use a Unix socket.
    pub fn contains_peer(&self, peer: Peer) -> bool {
        match peer {
            Peer::Inet(address, _) => self.contains(address),
            Peer::Unix => !self.is_empty(),
        }
    }
}

fn is_in(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let (address, network, bits) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (u128::from(address.to_bits()), u128::from(network.to_bits()), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    let ignored = bits - u32::from(prefix);
    // A shift by all 128 bits would overflow.
    (address ^ network).checked_shr(ignored).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_networks() {
        let networks = Networks::parse(&["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1"]).unwrap();
        for inside in ["10.0.0.0", "10.255.255.255", "192.0.2.1", "2001:db8::", "2001:db8:ffff::1", "::1"] {
            assert!(networks.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.2", "2001:db9::", "::", "::a00:1"] {
            assert!(!networks.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(networks.contains_peer(Peer::Unix));
    }

    #[test]
    fn everything_and_nothing() {
        let (all, none) = (Networks::parse(&["*"]).unwrap(), Networks::parse::<&str>(&[]).unwrap());
        let all_by_prefix = Networks::parse(&["0.0.0.0/0", "::/0"]).unwrap();
        for address in ["0.0.0.0", "255.255.255.255", "::", "2001:db8::1"] {
            let address = address.parse().unwrap();
            assert!(all.contains(address) && all_by_prefix.contains(address) && !none.contains(address));
        }
        assert!(none.is_empty() && !none.contains_peer(Peer::Unix) && all.contains_peer(Peer::Unix));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "a", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0", "*.1"] {
            assert_eq!(Networks::parse(&[text]), None, "{text}");
        }
    }
}
