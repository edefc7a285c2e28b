//! Tests of the other replicas.

use crate::config::tests::*;
use crate::proto::Authority;

const SECRET: &str = "[server]\nsecret = '0123456789abcdef0123456789abcdef'\n";
const REST: &str = "[auth.htpasswd]\npath = 'htpasswd'\n[[upstream]]\nname = 'docker.io'\n[upstream.cache]\n";

/// Returns what `[peers]` amounts to with these keys.
fn peers(keys: &str) -> Peers {
    read(&format!("{SECRET}[peers]\n{keys}\n{REST}")).unwrap().peers.unwrap()
}

/// Returns the errors of its keys, which begin at line 4.
fn wrong(keys: &str) -> Vec<String> {
    refusal(&format!("{SECRET}[peers]\n{keys}\n{REST}"))
}

fn authority(written: &str) -> Authority {
    Authority::parse(written).unwrap()
}

#[test]
fn a_gateway_is_alone_unless_peers_are_written() {
    assert!(read(&format!("{SECRET}{REST}")).unwrap().peers.is_none());
}

#[test]
fn members_come_from_dns_from_srv_or_from_a_list() {
    let of = |members: &str| peers(&format!("members = {members}")).members;
    assert_eq!(of("'dns://Peers.example:5003'"), Members::Dns(authority("peers.example:5003")));
    assert_eq!(of("'srv://_peer._tcp.peers'"), Members::Srv("_peer._tcp.peers".to_owned()));
    let list = vec![authority("10.0.0.1:5003"), authority("[2001:db8::1]:5003")];
    assert_eq!(of("['10.0.0.1:5003', '[2001:db8::1]:5003']"), Members::List(list));
    assert_eq!(of("'10.0.0.1:5003'"), Members::List(vec![authority("10.0.0.1:5003")]));
}

#[test]
fn peers_have_defaults_and_own_values() {
    let own = peers(
        "address = '127.0.0.1:7000'\nmembers = ['a:1', 'b:2']\nname = 'b:2'\nrefresh = '1m'\nconnect_timeout = '1s'\nresting = '30s'",
    );
    let seconds = Duration::from_secs;
    assert_eq!(own.address, Address::parse("127.0.0.1:7000").unwrap());
    assert_eq!(own.name, Some(authority("b:2")));
    assert_eq!((own.refresh, own.connect_timeout, own.resting), (seconds(60), seconds(1), seconds(30)));
    let default = peers("members = 'dns://p:5003'");
    assert_eq!((default.address, default.name), (Address::Any(5003), None));
    assert_eq!((default.refresh, default.resting), (seconds(5), seconds(5)));
    assert_eq!(default.connect_timeout, Duration::from_millis(250));
    assert_eq!(default.secret.expose(), "0123456789abcdef0123456789abcdef");
}

#[test]
fn wrong_peers_are_refused_with_their_line() {
    let names = "names no members; write for example \"dns://dockgate-peers:5003\", \
                 \"srv://_peer._tcp.dockgate-peers\" or [\"10.0.0.1:5003\", \"10.0.0.2:5003\"]";
    let host = "is not a host and port; write for example \"10.0.0.1:5003\"";
    for (keys, told) in [
        ("members = 'http://p'", format!("4: peers.members: \"http://p\" {names}")),
        ("members = 'dns://p'", format!("4: peers.members: \"dns://p\" {host}")),
        ("members = ['a:1', 'b']", format!("4: peers.members[1]: \"b\" {host}")),
        ("members = ['a:1', 'a:1']", "4: peers.members[1]: \"a:1\" is there twice; remove one of them".to_owned()),
        (
            "members = ['a:1', 'dns://p:1']",
            "4: peers.members[1]: \"dns://p:1\" stands alone: it names all members; remove the others".to_owned(),
        ),
        (
            "members = 'srv://p:53'",
            "4: peers.members: \"srv://p:53\" is not the name of SRV records, which have the ports; write for example \
             \"srv://_peer._tcp.dockgate-peers\""
                .to_owned(),
        ),
        (
            "members = ['a:1']\nname = 'b:1'",
            "5: peers.name: \"b:1\" is none of the members; write it as it stands there".to_owned(),
        ),
        (
            "members = ['a:1']\naddress = 'unix:/run/peers.sock'",
            "5: peers.address: \"unix:/run/peers.sock\" is not an address and port that other machines reach; write for \
             example \":5003\" or \"10.0.0.1:5003\""
                .to_owned(),
        ),
        (
            "members = ['a:1']\naddress = '127.0.0.1:5000'",
            "5: peers.address: \"127.0.0.1:5000\" is taken by server.address, 127.0.0.1:5000; write another port".to_owned(),
        ),
        (
            "members = ['a:1']\nresting = '0'",
            "5: peers.resting: \"0\" leaves no time at all; write for example \"10s\"".to_owned(),
        ),
    ] {
        assert_eq!(wrong(keys), [format!("dockgate.toml:{told}")], "{keys}");
    }
    let none = wrong("refresh = '5s'");
    assert!(none[0].starts_with("dockgate.toml:3: peers.members: no replica is named; add"), "{none:?}");
}

#[test]
fn peers_need_a_secret_of_their_own() {
    let errors = refusal(&format!("[peers]\nmembers = ['a:1']\n{REST}"));
    let told = "dockgate.toml:1: peers: needs server.secret, the same on every replica: from it the key is derived by which \
                they know each other; make one with `dockgate secret`";
    assert_eq!(errors, [told]);
}

#[test]
fn peers_without_a_cache_are_warned_of() {
    let config =
        read(&format!("{SECRET}[peers]\nmembers = ['a:1']\n{}", REST.replace("[upstream.cache]\n", "")));
    let warnings = config.unwrap().warnings;
    assert!(warnings[0].contains("[peers] shares what caches hold"), "{warnings:?}");
}
