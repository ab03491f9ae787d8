//! Which address a request really comes from.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address: the peer's, unless the peer is a trusted proxy. Then it is the rightmost address of
/// `X-Forwarded-For` that is not itself a trusted proxy, since everything to the left of it is hearsay.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if trusted.is_empty() {
        return client;
    }
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    // Byte by byte, since a proxy appends to whatever a client wrote: a line with bytes that are no text still ends with its word.
    let lines: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',')) {
        if !is_trusted(client) {
            return client;
        }
        // What cannot be read ends the chain of trust at the proxy that passed it on.
        let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| parse(hop.trim())) else {
            return client;
        };
        client = address;
    }
    client
}

/// An address, with or without a port and brackets.
fn parse(hop: &str) -> Option<IpAddr> {
    let address = hop
        .parse::<IpAddr>()
        .or_else(|_| hop.parse::<std::net::SocketAddr>().map(|socket| socket.ip()))
        .or_else(|_| hop.trim_matches(['[', ']']).parse());
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, forwarded: &[&str], expect: &str) {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let found = client_address(peer.parse().unwrap(), &headers, &trusted);
        assert_eq!(found, expect.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
    }

    #[test]
    fn only_a_trusted_peer_can_name_another_address() {
        check("192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &[], "10.0.0.1");
    }

    #[test]
    fn the_rightmost_untrusted_address_counts_whatever_the_client_wrote_before_it() {
        check("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.2.3.4"], "198.51.100.7");
        check("10.0.0.1", &["1.1.1.1", "198.51.100.7:4711", "fd00::2"], "198.51.100.7");
        check("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1");
        check("10.0.0.1", &["10.9.9.9, 10.2.3.4"], "10.9.9.9");
    }

    #[test]
    fn bytes_that_are_no_text_hide_nothing_that_a_proxy_wrote_after_them() {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_FOR, HeaderValue::from_bytes(b"\xff\x80, 198.51.100.7, 10.2.3.4").unwrap());
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let found = client_address("10.0.0.1".parse().unwrap(), &headers, &trusted);
        assert_eq!(found, "198.51.100.7".parse::<IpAddr>().unwrap());
        headers.append(FORWARDED_FOR, HeaderValue::from_bytes(b"10.1.1.1\xe9").unwrap());
        let found = client_address("10.0.0.1".parse().unwrap(), &headers, &trusted);
        assert_eq!(found, "10.0.0.1".parse::<IpAddr>().unwrap(), "nothing before it can be believed");
    }

    #[test]
    fn an_unreadable_hop_ends_the_chain_at_the_proxy_that_passed_it_on() {
        check("10.0.0.1", &["198.51.100.7, unknown, 10.2.3.4"], "10.2.3.4");
        check("10.0.0.1", &["198.51.100.7, "], "10.0.0.1");
    }
}
