//! The explorer: a page that shows a question's thoughts, lets one change them and see the answer change. It is one file
//! that needs nothing else, and asks the server as any other client does.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::{Command, Stdio},
};

use axum::{
    http::header,
    response::{Html, IntoResponse, Response},
};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The page. Its policy lets a browser run what has this answer's nonce and reach this server, nothing else.
pub async fn page() -> Response {
    // Each state is keyed by the system's randomness.
    let nonce = format!("{:016x}{:016x}", random(), random());
    let page = PAGE.replace("NONCE", &nonce);
    let page = page.replace("/* style.css */", STYLE).replace("/* script.js */", SCRIPT);
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let head = [
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (head, Html(page)).into_response()
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// Opens the page in the browser; if that cannot be done, says where it is.
pub fn open(address: SocketAddr) {
    let url = format!("http://{}/", reachable(address));
    // Some openers end only when the browser does.
    std::thread::spawn(move || {
        let (program, arguments) = opener();
        let mut command = Command::new(program);
        command.args(arguments).arg(&url);
        let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let problem = match ended.status() {
            Ok(status) if status.success() => return,
            Ok(status) => format!("{program} ended with {status}"),
            Err(error) => format!("{program}: {error}"),
        };
        eprintln!("note: no browser could be opened ({problem}); the explorer is at {url}");
    });
}

/// The system's program that opens what it is given, and what it is given before.
fn opener() -> (&'static str, &'static [&'static str]) {
    match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("rundll32", &["url.dll,FileProtocolHandler"]),
        _ => ("xdg-open", &[]),
    }
}

/// The address under which this machine reaches a listener, which may listen on all of its addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let own = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(own, address.port())
}
