//! Who a request comes from.

use std::net::{IpAddr, Ipv4Addr};

use actix_web::HttpRequest;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address: the peer's, or what trusted proxies say of it. Of a forwarded chain the
/// last address that is no trusted proxy counts: everything left of it the client may have made up.
pub fn client_address(request: &HttpRequest, trusted_proxies: &[IpNet]) -> IpAddr {
    // An IPv4 client of an IPv6 listener has an IPv4 address all the same.
    let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip().to_canonical());
    let headers = request.headers().get_all(FORWARDED_FOR);
    let chain: Vec<&str> =
        headers.filter_map(|header| header.to_str().ok()).flat_map(|list| list.split(',')).collect();
    resolve(peer, &chain, trusted_proxies)
}

fn resolve(peer: IpAddr, chain: &[&str], trusted_proxies: &[IpNet]) -> IpAddr {
    let trusted = |address: &IpAddr| trusted_proxies.iter().any(|network| network.contains(address));
    let mut client = peer;
    for hop in chain.iter().rev() {
        if !trusted(&client) {
            break;
        }
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, chain: &[&str]) -> String {
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        resolve(peer.parse().unwrap(), chain, &proxies).to_string()
    }

    #[test]
    fn a_stranger_can_not_make_up_an_address() {
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_is_believed_as_far_as_it_saw() {
        assert_eq!(client("10.0.0.1", &["198.51.100.1", " 203.0.113.9", "10.0.0.2"]), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &["not an address"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }
}
