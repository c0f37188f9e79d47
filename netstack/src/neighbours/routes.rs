//! Where packets go next (RFC 1122, 3.3.1): to their destination on the link, or to a gateway.

use std::net::Ipv4Addr;

/// Packets to some network.
#[derive(Debug, Clone, Copy)]
struct Route {
    network: u32,
    prefix_len: u8,
    /// `None`: the network is on the link.
    gateway: Option<Ipv4Addr>,
}

/// A few routes. Looking one up takes as long as there are many.
#[derive(Debug, Default)]
pub struct Routes {
    /// The longest prefix first.
    routes: Vec<Route>,
}

/// The bits of an address that name its network.
fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32u32.saturating_sub(prefix_len.into())).unwrap_or(0)
}

/// Whether `ip` is the network's own address or its broadcast address, in the network of `host` (RFC 1122, 3.2.1.3). Networks of two addresses
/// have neither (RFC 3021).
pub fn is_reserved(ip: Ipv4Addr, host: Ipv4Addr, prefix_len: u8) -> bool {
    let (mask, ip) = (mask(prefix_len), ip.to_bits());
    prefix_len < 31 && ip & mask == host.to_bits() & mask && [0, !mask].contains(&(ip & !mask))
}

impl Routes {
    /// Adds a route to the network of the `prefix_len` leading bits of `network`, on the link or by a gateway. Of two to the same network the
    /// first counts.
    pub fn add(&mut self, network: Ipv4Addr, prefix_len: u8, gateway: Option<Ipv4Addr>) {
        let route = Route { network: network.to_bits() & mask(prefix_len), prefix_len, gateway };
        let place = self.routes.partition_point(|known| known.prefix_len >= prefix_len);
        self.routes.insert(place, route);
    }

    /// The host on the link that a packet to `ip` is handed to.
    #[inline]
    pub fn next_hop(&self, ip: Ipv4Addr) -> Ipv4Addr {
        let route = self.routes.iter().find(|route| ip.to_bits() & mask(route.prefix_len) == route.network);
        route.and_then(|route| route.gateway).unwrap_or(ip)
    }
}
