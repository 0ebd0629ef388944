//! Who may ask: whoever knows the token; without one, whoever is on this machine and is no page of another site.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority};
use subtle::ConstantTimeEq;

use super::failure::Failure;

/// Whether a request may be answered.
///
/// # Errors
/// What the client is told.
pub fn check(token: Option<&str>, headers: &HeaderMap) -> Result<(), Failure> {
    match token {
        Some(token) => check_token(token, headers),
        None => check_site(headers),
    }
}

/// How long it takes does not tell how much of a token is right.
fn check_token(token: &str, headers: &HeaderMap) -> Result<(), Failure> {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
    match given.is_some_and(|given| bool::from(given.ct_eq(token.as_bytes()))) {
        true => Ok(()),
        false => Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "This server needs its token, as `Authorization: Bearer TOKEN`.",
        )),
    }
}

/// Refuses what a browser sends for pages of other sites: it names them as `Origin`, or, where their name was made to
/// lead here, as `Host`.
fn check_site(headers: &HeaderMap) -> Result<(), Failure> {
    for host in headers.get_all(header::HOST) {
        if !host.to_str().is_ok_and(is_local) {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                "host_not_allowed",
                "Without a token this server answers as localhost or a loopback address only, and the request names another `Host`. Give the server a --token.",
            ));
        }
    }
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    for origin in headers.get_all(header::ORIGIN) {
        let site = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        if site.map(|(_, site)| site) != own {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                "cross_origin",
                "Without a token this server answers no page but its own, and the request's `Origin` is another one. Give the server a --token.",
            ));
        }
    }
    Ok(())
}

/// Whether a `Host` is this machine as it names itself.
fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let loopback = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    !host.contains('@') && (loopback || name.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_by_its_names() {
        for host in ["localhost", "LocalHost:80", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "x",
            "evil.example",
            "localhost.evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "192.168.0.1:8000",
            "0.0.0.0:8000",
            "[::2]:1",
            "localhost:8000, evil.example",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn only_the_own_page_asks_without_a_token() {
        let says = |headers: &[(&'static str, &'static str)]| {
            let pair = |&(name, value): &(&'static str, &'static str)| {
                (name.parse().unwrap(), HeaderValue::from_static(value))
            };
            let headers: HeaderMap = headers.iter().map(pair).collect();
            check(None, &headers).err().and_then(|failure| failure.code)
        };
        let host = ("host", "127.0.0.1:8000");
        assert_eq!(says(&[]), None);
        assert_eq!(says(&[host]), None);
        assert_eq!(says(&[host, ("origin", "http://127.0.0.1:8000")]), None);
        for origin in ["null", "http://127.0.0.1:8001", "https://evil.example", "127.0.0.1:8000"] {
            assert_eq!(says(&[host, ("origin", origin)]), Some("cross_origin"), "{origin}");
        }
        assert_eq!(says(&[("host", "evil.example:8000")]), Some("host_not_allowed"));
        assert_eq!(says(&[("origin", "http://127.0.0.1:8000")]), Some("cross_origin"));
    }
}
