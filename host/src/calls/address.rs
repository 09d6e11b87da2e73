//! Which addresses the internet routes: what a call may connect to without a word of the operator.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address means for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Anywhere on the internet.
    Public,
    /// This machine, its networks, or what is reserved: only where the operator says so.
    Private,
    /// No host at all, or many.
    Never,
}

/// Judges an address. IPv6 addresses that stand for an IPv4 one are judged as that.
pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(address) => reach_v4(address),
            None => reach_v6(address),
        },
    }
}

/// IANA IPv4 Special-Purpose Address Registry (RFC 6890 and later).
fn reach_v4(address: Ipv4Addr) -> Reach {
    let [a, b, c, d] = address.octets();
    if address.is_multicast() || address.is_broadcast() || address.is_unspecified() {
        return Reach::Never;
    }
    let private = match (a, b, c) {
        // "This network", private, carrier-grade NAT, loopback, link-local.
        (0 | 10 | 127, ..) | (100, 64..=127, _) | (169, 254, _) => true,
        (172, 16..=31, _) | (192, 168, _) => true,
        // Protocol assignments, documentation, 6to4 relays, AS112, benchmarks, documentation.
        (192, 0, 0 | 2) | (192, 88, 99) | (192, 31, 196) | (192, 52, 193) | (192, 175, 48) => true,
        (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => true,
        // Reserved. 168.63.129.16: the host of Azure machines.
        (240.., ..) => true,
        (168, 63, 129) => d == 16,
        _ => false,
    };
    if private { Reach::Private } else { Reach::Public }
}

/// IANA IPv6 Special-Purpose Address Registry; outside of 2000::/3 nothing is routed.
fn reach_v6(address: Ipv6Addr) -> Reach {
    if address.is_multicast() || address.is_unspecified() {
        return Reach::Never;
    }
    let [a, b, ..] = address.segments();
    let global = a & 0xe000 == 0x2000;
    // Protocol assignments (with Teredo and benchmarks) and documentation.
    let special = a == 0x2001 && (b < 0x0200 || b == 0x0db8);
    if global && !special && a != 0x3fff { Reach::Public } else { Reach::Private }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, NAT64, 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0) if (g, h) != (0, 0) && (g, h) != (0, 1) => v4(g, h),
        (0, 0, 0, 0, 0, 0xffff) | (0, 0, 0, 0, 0xffff, 0) => v4(g, h),
        (0x0064, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, high, low, ..) => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_internet_routes_is_public() {
        for (reached, addresses) in [
            (
                Reach::Public,
                vec![
                    "1.1.1.1",
                    "100.63.255.255",
                    "172.32.0.1",
                    "192.0.1.1",
                    "2606:4700::1111",
                    "::ffff:8.8.8.8",
                    "64:ff9b::808:808",
                ],
            ),
            (
                Reach::Private,
                vec![
                    "10.0.0.1",
                    "100.64.0.1",
                    "127.0.0.1",
                    "127.255.255.254",
                    "169.254.169.254",
                    "172.16.0.1",
                    "192.168.1.1",
                    "198.18.0.1",
                    "0.0.0.1",
                    "240.0.0.1",
                    "168.63.129.16",
                    "::1",
                    "fe80::1",
                    "fc00::1",
                    "fd12:3456::1",
                    "2001:db8::1",
                    "2001::1",
                    "64:ff9b:1::1",
                    "::ffff:10.0.0.1",
                    "::ffff:127.0.0.1",
                    "::127.0.0.1",
                    "64:ff9b::a00:1",
                    "2002:7f00:1::",
                ],
            ),
            (
                Reach::Never,
                vec!["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "::ffff:0.0.0.0"],
            ),
        ] {
            for address in addresses {
                assert_eq!(reach(address.parse().unwrap()), reached, "{address}");
            }
        }
    }
}
