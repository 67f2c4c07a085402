//! Addresses as people type them: those a process listens on, and the contact points of Cassandra.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Parses an address to listen on: `IP:PORT`, or `localhost:PORT` for 127.0.0.1. Other names are refused: they may stand
/// for several addresses, and for others tomorrow.
///
/// # Errors
/// With what is wrong with it.
pub(super) fn listening(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err("it has no port".to_owned());
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Err("it is not HOST:PORT".to_owned()) };
    let Ok(port) = port.parse() else { return Err("its port is not a number from 0 to 65535".to_owned()) };
    match host {
        "" => Err("it has no address before the port".to_owned()),
        host if host.eq_ignore_ascii_case("localhost") => Ok((Ipv4Addr::LOCALHOST, port).into()),
        // Its brackets are missing.
        host if host.parse::<IpAddr>().is_ok() => Err(format!("write it as [{host}]:{port}")),
        host => Err(format!("`{}` is a name, and only `localhost` is resolved", host.escape_debug())),
    }
}

/// Returns whether a socket that listens on one of two addresses keeps another from listening on the other.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // An unspecified IPv6 address listens on IPv4 as well.
    let covers =
        |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

/// Checks a contact point of Cassandra: `HOST` or `HOST:PORT`.
///
/// # Errors
/// With what is wrong with it and what to use instead; without the text itself, which may have a password in it.
pub(super) fn contact_point(text: &str) -> Result<(), &'static str> {
    if text.contains('@') {
        return Err("a contact point holds no user and password; give them as SHOAL_DATA__USERNAME and \
                    SHOAL_DATA__PASSWORD, or as `username` and `password` in [data] of the file");
    }
    if text.contains("://") {
        return Err("a contact point has no scheme");
    }
    if text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok_and(|address| address.port() > 0) {
        return Ok(());
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/[]".contains(c)) {
        return Err("a contact point is not HOST:PORT");
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        Some(_) => Err("the port of a contact point is not a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_the_one_name_to_listen_on() {
        for (text, address) in [
            ("127.0.0.1:7000", "127.0.0.1:7000"),
            ("[::1]:7000", "[::1]:7000"),
            ("localhost:7000", "127.0.0.1:7000"),
            ("LOCALHOST:0", "127.0.0.1:0"),
        ] {
            assert_eq!(listening(text), Ok(address.parse().expect("an address")), "{text}");
        }
        for (text, part) in [
            ("foo", "not HOST:PORT"),
            ("127.0.0.1", "no port"),
            ("::1", "no port"),
            (":7000", "no address"),
            ("localhost:x", "not a number"),
            ("::1:70000", "not a number"),
            ("1:2:3:4:5:6:7:8:7000", "[1:2:3:4:5:6:7:8]:7000"),
            ("example.com:7000", "only `localhost` is resolved"),
        ] {
            let error = listening(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_overlap_by_port_and_interface() {
        let overlaps = |a: &str, b: &str| {
            let (a, b) = (a.parse().expect("an address"), b.parse().expect("an address"));
            assert_eq!(overlap(a, b), overlap(b, a));
            overlap(a, b)
        };
        assert!(overlaps("127.0.0.1:7000", "127.0.0.1:7000"));
        assert!(overlaps("0.0.0.0:7000", "127.0.0.1:7000"));
        assert!(overlaps("[::]:7000", "127.0.0.1:7000"));
        assert!(!overlaps("0.0.0.0:7000", "[::1]:7000"));
        assert!(!overlaps("127.0.0.1:7000", "127.0.0.2:7000"));
        assert!(!overlaps("127.0.0.1:0", "127.0.0.1:0"));
    }

    #[test]
    fn contact_points_hold_no_password() {
        for good in ["a", "a:9042", "127.0.0.1", "127.0.0.1:9042", "::1", "[::1]:9042"] {
            assert_eq!(contact_point(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("user:secret@a:9042", "SHOAL_DATA__PASSWORD"),
            ("cassandra://a:9042", "scheme"),
            ("a:x", "port"),
            ("a:0", "port"),
            (":9042", "not HOST:PORT"),
            ("a b", "not HOST:PORT"),
            ("[::1", "not HOST:PORT"),
        ] {
            let error = contact_point(bad).expect_err(bad);
            assert!(error.contains(part) && !error.contains("secret"), "{bad}: {error}");
        }
    }
}
