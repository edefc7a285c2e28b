//! The addresses that the gateway listens on.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::value_error::ValueError;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address of this machine.
    Tcp(SocketAddr),
    /// `:5000`: every address of this machine, IPv4 and IPv6.
    Any(u16),
    /// `unix:PATH`, with options as in `unix:PATH?mode=0660&group=www-data`: a unix socket.
    Unix(UnixSocket),
}

/// A unix socket, and the users of this machine that may connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnixSocket {
    /// The file of the socket.
    pub path: PathBuf,
    /// The mode of the file; None: as the umask leaves it.
    pub mode: Option<u32>,
    /// The number of the group that the file belongs to; None: the gateway's own.
    pub group: Option<u32>,
}

impl Address {
    /// Returns true if only this machine can reach it: a loopback address or a unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => is_loopback(address.ip()),
            Self::Any(_) => false,
            Self::Unix(_) => true,
        }
    }

    /// Returns true if both cannot be listened on at once. Port 0 is a fresh one each time.
    pub(super) fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(a), Self::Unix(b)) => a.path == b.path,
            (Self::Unix(_), _) | (_, Self::Unix(_)) => false,
            (Self::Tcp(a), Self::Tcp(b)) => a == b && a.port() != 0,
            (Self::Any(a), Self::Any(b)) => a == b && *a != 0,
            (Self::Any(any), Self::Tcp(one)) | (Self::Tcp(one), Self::Any(any)) => {
                *any == one.port() && *any != 0
            }
        }
    }

    pub(super) fn parse(written: &str) -> Result<Self, ValueError> {
        if let Some(path) = written.strip_prefix("unix:") {
            return unix(path);
        }
        if let Some(path) = written.strip_prefix("unix//") {
            let path = path.split('|').next().unwrap_or_default();
            return Err(ValueError::Value(format!("is in Caddy's form; write \"unix:/{path}\"")));
        }
        if let Some(port) = written.strip_prefix(':').and_then(port) {
            return Ok(Self::Any(port));
        }
        tcp(written).map(Self::Tcp).ok_or_else(|| {
            ValueError::value(
                "is not an address; write for example \"127.0.0.1:5000\", \"[::1]:5000\", \":5000\" or \
                 \"unix:/run/dockgate.sock\"",
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Any(port) => write!(f, ":{port}"),
            Self::Unix(socket) => write!(f, "unix:{}", socket.path.display()),
        }
    }
}

/// Parses an address with its port. `localhost` is the IPv4 loopback address, without resolving.
pub(super) fn tcp(written: &str) -> Option<SocketAddr> {
    match written.split_once(':') {
        Some(("localhost", digits)) => port(digits).map(|port| (Ipv4Addr::LOCALHOST, port).into()),
        _ => written.parse().ok(),
    }
}

/// Returns true for a loopback address, also an IPv4 one mapped into IPv6.
pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Returns true for the wildcard addresses, which listen for every other.
pub(super) fn is_any(ip: IpAddr) -> bool {
    ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Parses a port in digits alone: `parse` by itself would take a `+`.
pub(super) fn port(digits: &str) -> Option<u16> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Parses `PATH?mode=0660&group=www-data`.
fn unix(written: &str) -> Result<Address, ValueError> {
    refuse_caddys(written)?;
    let (path, options) = written.split_once('?').unwrap_or((written, ""));
    if path.is_empty() {
        return Err(ValueError::value("names no socket; write for example \"unix:/run/dockgate.sock\""));
    }
    let mut socket = UnixSocket { path: path.into(), mode: None, group: None };
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("mode", digits)) if socket.mode.is_none() => socket.mode = Some(mode(digits)?),
            Some(("group", name)) if socket.group.is_none() => socket.group = Some(group(name)?),
            Some(("mode" | "group", _)) => {
                return Err(ValueError::value("says it twice; remove one of them"));
            }
            _ => {
                return Err(ValueError::Value(format!(
                    "has an unknown option {option:?}; write for example \"unix:/run/dockgate.sock?mode=0660&group=www-data\""
                )));
            }
        }
    }
    Ok(Address::Unix(socket))
}

/// Refuses `unix:/path|0660` and `unix//path`: as a path, they would make a socket that nobody looks for.
fn refuse_caddys(written: &str) -> Result<(), ValueError> {
    let Some((path, mode)) = written.split_once('|') else { return Ok(()) };
    let mode = if mode.is_empty() { "0660" } else { mode };
    Err(ValueError::Value(format!("has its mode in Caddy's form; write \"unix:{path}?mode={mode}\"")))
}

/// Parses the mode of a file, in octal digits.
fn mode(digits: &str) -> Result<u32, ValueError> {
    let octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| octal && *mode <= 0o777);
    mode.ok_or_else(|| {
        ValueError::value("has a mode that is none; write three octal digits, for example mode=0660")
    })
}

/// Finds the number of a group by its name in /etc/group, or takes the number. Groups of a directory service have no line
/// there: their numbers can be written.
fn group(name: &str) -> Result<u32, ValueError> {
    let number = name.parse().ok().filter(|_| name.bytes().all(|b| b.is_ascii_digit()));
    let known = number.or_else(|| group_in(&std::fs::read_to_string(GROUPS).unwrap_or_default(), name));
    known.ok_or_else(|| {
        ValueError::Value(format!(
            "has a group {name:?} that is not in {GROUPS}; write one that is, or its number"
        ))
    })
}

/// Finds a group in a file of lines `NAME:PASSWORD:NUMBER:MEMBERS` (group(5)).
fn group_in(file: &str, name: &str) -> Option<u32> {
    let mut lines = file.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find_map(|fields| fields.get(2)?.parse().ok().filter(|_| fields[0] == name && !name.is_empty()))
}

const GROUPS: &str = "/etc/group";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_without_asking_anyone() {
        for (written, shown, local) in [
            ("127.0.0.1:5000", "127.0.0.1:5000", true),
            ("localhost:5000", "127.0.0.1:5000", true),
            ("[::1]:5000", "[::1]:5000", true),
            ("[::ffff:127.0.0.1]:5000", "[::ffff:127.0.0.1]:5000", true),
            ("unix:/run/d.sock", "unix:/run/d.sock", true),
            (":5000", ":5000", false),
            ("0.0.0.0:443", "0.0.0.0:443", false),
            ("[::]:0", "[::]:0", false),
        ] {
            let address = Address::parse(written).unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (shown, local), "{written}");
        }
    }

    #[test]
    fn a_unix_socket_may_have_a_mode_and_a_group() {
        let socket = |written: &str| match Address::parse(written) {
            Ok(Address::Unix(socket)) => (socket.path.display().to_string(), socket.mode, socket.group),
            other => panic!("{other:?}"),
        };
        assert_eq!(socket("unix:/run/x.sock"), ("/run/x.sock".to_owned(), None, None));
        assert_eq!(socket("unix:/x?mode=0660&group=33"), ("/x".to_owned(), Some(0o660), Some(33)));
        assert_eq!(socket("unix:x?group=root&mode=777"), ("x".to_owned(), Some(0o777), Some(0)));
        assert_eq!(socket("unix:/x?"), ("/x".to_owned(), None, None));
        assert_eq!(group_in("root:x:0:\nwww-data:x:33:a,b\n", "www-data"), Some(33));
        assert_eq!(group_in("root:x:0:\n:x:1:\nshort\n", ""), None);
    }

    #[test]
    fn other_forms_of_a_unix_socket_are_refused_with_what_to_write() {
        for (written, why) in [
            ("unix:/p|0660", "has its mode in Caddy's form; write \"unix:/p?mode=0660\""),
            ("unix//run/p|0660", "is in Caddy's form; write \"unix:/run/p\""),
            ("unix:/p?mode=rw", "has a mode that is none; write three octal digits, for example mode=0660"),
            ("unix:/p?mode=1777", "has a mode that is none; write three octal digits, for example mode=0660"),
            ("unix:/p?mode=+66", "has a mode that is none; write three octal digits, for example mode=0660"),
            ("unix:/p?mode=0660&mode=0600", "says it twice; remove one of them"),
            (
                "unix:/p?group=no-such-group",
                "has a group \"no-such-group\" that is not in /etc/group; write one that is, or its number",
            ),
            ("unix:?mode=0660", "names no socket; write for example \"unix:/run/dockgate.sock\""),
        ] {
            assert_eq!(Address::parse(written), Err(ValueError::value(why)), "{written}");
        }
        assert!(
            matches!(Address::parse("unix:/p?user=www"), Err(ValueError::Value(why)) if why.contains("unknown option"))
        );
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for written in
            ["", "5000", "127.0.0.1", ":", ":+5", ":99999", "registry.example.com:5000", "::1:5000", "unix:"]
        {
            assert!(Address::parse(written).is_err(), "{written}");
        }
    }
}
