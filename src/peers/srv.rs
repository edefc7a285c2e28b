//! SRV records (RFC 2782), which the system's resolver does not look up for programs.
//!
//! The name servers and search domains are those of `/etc/resolv.conf`: a cluster's short names are completed by them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use resolv_conf::Config;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::config::limits;

/// Returns the hosts and ports of the SRV records of `name`, in their alphabet's order.
///
/// # Errors
/// If no name server answers, or there is no such name.
pub(super) async fn look_up(name: &str) -> io::Result<Vec<(String, u16)>> {
    let text = tokio::fs::read(RESOLV_CONF).await.unwrap_or_default();
    let config = Config::parse(&text).map_err(io::Error::other)?;
    let servers = config.nameservers.iter().map(|server| SocketAddr::new(server.into(), DNS_PORT));
    look_up_at(&servers.collect::<Vec<_>>(), &candidates(name, &config), name).await
}

/// Returns the names to ask for, in order: the name alone first if it has dots enough.
fn candidates(name: &str, config: &Config) -> Vec<String> {
    let search = config.get_last_search_or_domain().map(|domain| format!("{name}.{domain}"));
    let own = [name.to_owned()].into_iter();
    if name.matches('.').count() >= config.ndots as usize {
        own.chain(search).collect()
    } else {
        search.chain(own).collect()
    }
}

async fn look_up_at(
    servers: &[SocketAddr],
    candidates: &[String],
    name: &str,
) -> io::Result<Vec<(String, u16)>> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{name} has no SRV records"));
    for candidate in candidates {
        for server in servers.iter().chain(servers) {
            match tokio::time::timeout(limits::SRV_PATIENCE, ask(*server, candidate)).await {
                Ok(Ok(Some(mut found))) if !found.is_empty() => {
                    found.sort_unstable();
                    found.dedup();
                    return Ok(found);
                }
                // The name has no SRV records.
                Ok(Ok(_)) => break,
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
    }
    Err(failure)
}

/// Asks one name server; `None` if it knows no such name.
async fn ask(server: SocketAddr, name: &str) -> io::Result<Option<Vec<(String, u16)>>> {
    let id = NEXT.fetch_add(1, Ordering::Relaxed) ^ id_seed();
    let query = query(id, name)?;
    // Any port: another's answer has to guess it, and the id.
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        match read(id, &answer[..length]) {
            Ok(Answer::Truncated) => return ask_by_tcp(server, id, &query).await,
            Ok(Answer::None) => return Ok(None),
            Ok(Answer::Some(found)) => return Ok(Some(found)),
            // Not the answer to this query: that may still come.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => return Err(error),
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, id: u16, query: &[u8]) -> io::Result<Option<Vec<(String, u16)>>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    match read(id, &answer)? {
        Answer::Some(found) => Ok(Some(found)),
        Answer::None => Ok(None),
        Answer::Truncated => Err(io::Error::other("the name server's answer is cut short")),
    }
}

/// An answer of a name server.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Some(Vec<(String, u16)>),
    None,
    /// The answer does not fit into a datagram.
    Truncated,
}

fn query(id: u16, name: &str) -> io::Result<Vec<u8>> {
    let name = Name::new(name).map_err(io::Error::other)?.into_owned();
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::SRV), CLASS::IN.into(), false));
    packet.build_bytes_vec().map_err(io::Error::other)
}

fn read(id: u16, bytes: &[u8]) -> io::Result<Answer> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    let packet = Packet::parse(bytes).map_err(invalid)?;
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Ok(Answer::Truncated);
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(Answer::None),
        code => return Err(io::Error::other(format!("the name server answers {code:?}"))),
    }
    let found = packet.answers.iter().filter_map(|record| match &record.rdata {
        // A target of "." says that there is no such service.
        RData::SRV(srv) if !srv.target.to_string().is_empty() => {
            Some((srv.target.to_string().trim_end_matches('.').to_ascii_lowercase(), srv.port))
        }
        _ => None,
    });
    Ok(Answer::Some(found.take(limits::PEERS_MOST).collect()))
}

/// Returns bits that another machine does not know.
fn id_seed() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    u16::try_from(RandomState::new().hash_one(()) & 0xffff).unwrap_or_default()
}

static NEXT: AtomicU16 = AtomicU16::new(0);

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// The most bytes that a name server sends to a client that does not say that it takes more (RFC 1035 section 4.2.1), with room.
const DATAGRAM: usize = 4096;

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::SRV;

    use super::*;

    fn answer(id: u16, code: RCODE, targets: &[(&str, u16)]) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        *packet.rcode_mut() = code;
        for (target, port) in targets {
            let srv = SRV { priority: 0, weight: 0, port: *port, target: Name::new_unchecked(target) };
            let name = Name::new_unchecked("_peer._tcp.peers");
            packet.answers.push(ResourceRecord::new(name, CLASS::IN, 5, RData::SRV(srv)));
        }
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn hosts_and_ports_are_read() {
        let bytes = answer(7, RCODE::NoError, &[("B.peers", 5003), ("a.peers", 5004)]);
        let found = vec![("b.peers".to_owned(), 5003), ("a.peers".to_owned(), 5004)];
        assert_eq!(read(7, &bytes).unwrap(), Answer::Some(found));
        assert_eq!(read(7, &answer(7, RCODE::NameError, &[])).unwrap(), Answer::None);
        assert!(read(7, &answer(7, RCODE::ServerFailure, &[])).is_err());
    }

    #[test]
    fn answers_to_others_are_passed_by() {
        let of = |bytes: &[u8]| read(7, bytes).unwrap_err().kind();
        assert_eq!(of(&answer(8, RCODE::NoError, &[])), io::ErrorKind::InvalidData);
        assert_eq!(of(b"no packet"), io::ErrorKind::InvalidData);
        assert_eq!(of(&query(7, "peers").unwrap()), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn the_search_domains_complete_a_short_name() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let config = Config::parse("search a.example b.example\noptions ndots:5\n").unwrap();
        let serving = tokio::spawn(async move {
            let mut asked = Vec::new();
            let mut bytes = [0; 512];
            while asked.len() < 2 {
                let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
                let packet = Packet::parse(&bytes[..length]).unwrap();
                asked.push(packet.questions[0].qname.to_string());
                let is_last = asked.len() == 2;
                let code = if is_last { RCODE::NoError } else { RCODE::NameError };
                let targets: &[_] = if is_last { &[("x.b.example", 1)] } else { &[] };
                socket.send_to(b"noise", from).await.unwrap();
                socket.send_to(&answer(packet.id(), code, targets), from).await.unwrap();
            }
            asked
        });
        let found = look_up_at(&[server], &candidates("peers.svc", &config), "peers.svc").await.unwrap();
        assert_eq!(found, [("x.b.example".to_owned(), 1)]);
        assert_eq!(serving.await.unwrap(), ["peers.svc.a.example", "peers.svc.b.example"]);
        assert_eq!(candidates("a.b.c.d.e.f", &config)[0], "a.b.c.d.e.f");
    }
}
