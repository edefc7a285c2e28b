//! The settings of the `registry` image: a layer below the file, so that the gateway can take that image's place.

use crate::config::context::Context;
use crate::config::duration;
use crate::config::environment::Environment;
use crate::config::limits::TIMEOUT_MOST;
use crate::config::mistake::Place;
use crate::config::tree::{Node, Table, Value};
use crate::config::value_error::ValueError;

/// The meaning of a variable of the registry.
enum Meaning {
    /// The key at this path.
    Key(&'static [&'static str]),
    /// The key at this path, whose value is a list.
    List(&'static [&'static str]),
    /// The one upstream.
    Upstream,
    /// The credentials and the cache of that upstream, which need it.
    OfUpstream,
    /// The kind of login.
    Auth,
    /// A log level.
    Level,
    /// None here: a setting of other programs, which is set in many shells.
    Foreign,
}

use Meaning::{Auth, Foreign, Key, Level, List, OfUpstream, Upstream};

/// Begins the variables of header fields: `REGISTRY_HTTP_HEADERS_Access-Control-Allow-Origin`.
const HEADERS: &str = "REGISTRY_HTTP_HEADERS_";
const HTPASSWD_PATH: &[&str] = &["auth", "htpasswd", "path"];
const REMOTE_URL: &str = "REGISTRY_PROXY_REMOTEURL";
const USERNAME: &str = "REGISTRY_PROXY_USERNAME";
const PASSWORD: &str = "REGISTRY_PROXY_PASSWORD";
const TTL: &str = "REGISTRY_PROXY_TTL";

const MEANINGS: &[(&str, Meaning)] = &[
    ("REGISTRY_HTTP_ADDR", Key(&["server", "address"])),
    ("REGISTRY_HTTP_HOST", Key(&["server", "external_url"])),
    ("REGISTRY_HTTP_SECRET", Key(&["server", "secret"])),
    ("REGISTRY_HTTP_TLS_CERTIFICATE", Key(&["server", "tls", "certificate"])),
    ("REGISTRY_HTTP_TLS_KEY", Key(&["server", "tls", "key"])),
    ("REGISTRY_HTTP_TLS_LETSENCRYPT_CACHEFILE", Key(&["server", "tls", "acme", "path"])),
    ("REGISTRY_HTTP_TLS_LETSENCRYPT_DIRECTORYURL", Key(&["server", "tls", "acme", "directory"])),
    ("REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL", Key(&["server", "tls", "acme", "email"])),
    ("REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS", List(&["server", "tls", "acme", "domains"])),
    ("REGISTRY_AUTH", Auth),
    // podman, skopeo and buildah: where they keep their logins (containers-auth.json(5)).
    ("REGISTRY_AUTH_FILE", Foreign),
    ("REGISTRY_AUTH_HTPASSWD_REALM", Key(&["auth", "realm"])),
    ("REGISTRY_AUTH_HTPASSWD_PATH", Key(HTPASSWD_PATH)),
    (REMOTE_URL, Upstream),
    (USERNAME, OfUpstream),
    (PASSWORD, OfUpstream),
    (TTL, OfUpstream),
    ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", Key(&["cache", "path"])),
    ("REGISTRY_LOG_LEVEL", Level),
];

/// Puts what the variables say below what the file says, whose keys win. Empty variables are as good as none.
pub(super) fn underlay(table: &mut Table, environment: &Environment, context: &Context) {
    let mut layer = Layer { table: Table::new(), environment, context };
    for (name, value) in environment.starting_with("REGISTRY_").filter(|(_, value)| !value.is_empty()) {
        layer.take(name, value);
    }
    if context.file.is_none() && !layer.table.is_empty() {
        layer.listen_as_the_image_does();
        context.advise_variables_of(variable_of);
    }
    merge(table, layer.table, context);
}

/// Returns the variable that sets the key at `path`.
fn variable_of(path: &str) -> Option<&'static str> {
    let is_it = |meaning: &Meaning| matches!(meaning, Key(keys) | List(keys) if keys.join(".") == path);
    MEANINGS.iter().find(|(_, meaning)| is_it(meaning)).map(|(name, _)| *name)
}

struct Layer<'a> {
    table: Table,
    environment: &'a Environment,
    context: &'a Context,
}

impl Layer<'_> {
    fn take(&mut self, name: &str, value: &str) {
        if let Some(field) = name.strip_prefix(HEADERS) {
            return self.header(name, field, value);
        }
        let meaning = MEANINGS.iter().find(|(known, _)| *known == name).map(|(_, meaning)| meaning);
        let place = Place::variable(name);
        match meaning {
            Some(Key(path)) => self.set(path, literal(place, value)),
            Some(List(path)) => self.set(path, list(&place, value)),
            Some(Upstream) => self.upstream(place, value),
            Some(OfUpstream) if self.value(REMOTE_URL).is_some() => {}
            Some(OfUpstream) => self.context.warn(format!("{name} has no meaning without {REMOTE_URL}")),
            Some(Auth) => self.auth(place, value),
            Some(Level) => self.set(&["log", "level"], literal(place, level(value))),
            Some(Foreign) => {}
            None => self.context.warn(format!("{name} has no meaning here")),
        }
    }

    /// Takes a header field that the registry adds to its answers: of CORS, the allowed origins. What those pages may do, the
    /// gateway knows itself.
    fn header(&mut self, name: &str, field: &str, value: &str) {
        let field = field.to_ascii_lowercase().replace('_', "-");
        match field.strip_prefix("access-control-") {
            Some("allow-origin") => {
                self.set(&["server", "cors", "origins"], list(&Place::variable(name), value));
            }
            Some("allow-methods" | "allow-headers" | "allow-credentials" | "expose-headers" | "max-age") => {}
            _ => self.context.warn(format!("{name} has no meaning here")),
        }
    }

    fn set(&mut self, path: &[&str], node: Node) {
        let Some((last, tables)) = path.split_last() else { return };
        let mut table = &mut self.table;
        for name in tables {
            let place = node.place.clone();
            let entry = table.entry((*name).to_owned());
            let below = entry.or_insert_with(|| Node { place, value: Value::Table(Table::new()) });
            let Value::Table(next) = &mut below.value else { return };
            table = next;
        }
        table.insert((*last).to_owned(), node);
    }

    /// Adds an upstream that takes every name, as the registry's one upstream does.
    fn upstream(&mut self, place: Place, url: &str) {
        let keys = [("url", url), ("prefix", "")];
        let keys = keys.map(|(name, value)| (name.to_owned(), literal(place.clone(), value)));
        let credentials = self.credentials(&place).map(|node| ("credentials".to_owned(), node));
        let cache = self.cache().map(|node| ("cache".to_owned(), node));
        let upstream = Value::Table(keys.into_iter().chain(credentials).chain(cache).collect());
        let upstream = Node { place: place.clone(), value: upstream };
        self.set(&["upstream"], Node { place, value: Value::List(vec![upstream]) });
    }

    fn credentials(&self, place: &Place) -> Option<Node> {
        let pair = [("username", USERNAME), ("password", PASSWORD)];
        let missing = |name: &str, other: &str| {
            let text = format!("a name and a password belong together; set {other} too, or unset it");
            self.context.mistake(&Place::variable(name), "", text);
        };
        match pair.map(|(_, name)| self.value(name)) {
            [None, None] => return None,
            [Some(_), Some(_)] => {}
            [Some(_), None] => missing(USERNAME, PASSWORD),
            [None, Some(_)] => missing(PASSWORD, USERNAME),
        }
        let node = |(key, name): (&str, &str)| {
            Some((key.to_owned(), literal(Place::variable(name), self.value(name)?)))
        };
        let table = pair.into_iter().map(node).collect::<Option<Table>>()?;
        Some(Node { place: place.clone(), value: Value::Table(table) })
    }

    /// Sets the cache's times. The registry asks its upstream for a tag each time, and serves what it has for as long
    /// as it keeps it where the
    /// upstream can't be asked. (Here content goes when room is needed, and not before.)
    fn cache(&self) -> Option<Node> {
        let written = self.value(TTL)?;
        let place = Place::variable(TTL);
        let ttl = duration::parse_go(written).unwrap_or_else(|wrong| {
            let (ValueError::Value(why) | ValueError::Hidden(why)) = wrong;
            self.context.mistake(&place, "", format!("{written:?} {why}"));
            TIMEOUT_MOST
        });
        // With a TTL of 0 the registry image never expires anything.
        let stale = if ttl.is_zero() { TIMEOUT_MOST } else { ttl };
        let keys = [("tag_ttl", "0".to_owned()), ("stale_if_error", format!("{}ms", stale.as_millis()))];
        let keys = keys.map(|(name, value)| (name.to_owned(), literal(place.clone(), &value)));
        Some(Node { place, value: Value::Table(keys.into_iter().collect()) })
    }

    /// Returns a variable's value; an empty one is as good as none.
    fn value(&self, name: &str) -> Option<&str> {
        self.environment.get(name).filter(|value| !value.is_empty())
    }

    /// Sets the login. The file's path has its own variable, whose name sorts behind this one and which may be missing.
    fn auth(&mut self, place: Place, value: &str) {
        match value.to_ascii_lowercase().as_str() {
            "htpasswd" => {
                let empty = Node { place: place.clone(), value: Value::Table(Table::new()) };
                self.set(&["auth", "htpasswd"], empty);
            }
            "none" => {}
            _ => {
                let text = format!("{value:?} is not available in this version; write htpasswd");
                self.context.mistake(&place, "", text);
            }
        }
    }

    /// Listens on every address at port 5000, as the image's own configuration does.
    fn listen_as_the_image_does(&mut self) {
        let address = &["server", "address"];
        let written = matches!(self.table.get("server"),
            Some(Node { value: Value::Table(server), .. }) if server.contains_key("address"));
        if !written {
            self.set(address, literal(Place::Environment, ":5000"));
        }
    }
}

/// Returns the items of a list as the registry takes it from a variable: in YAML's flow style, quoted or not.
fn items_of(value: &str) -> impl Iterator<Item = &str> {
    let value = value.trim();
    let list = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value);
    let items = list.split(',').map(|item| item.trim().trim_matches(['"', '\'']));
    items.filter(|item| !item.is_empty())
}

/// Returns the items as a list.
fn list(place: &Place, value: &str) -> Node {
    let items = items_of(value).map(|item| literal(place.clone(), item)).collect();
    Node { place: place.clone(), value: Value::List(items) }
}

/// Adds a text. The registry knows no `${...}`, so there is none in it.
fn literal(place: Place, value: &str) -> Node {
    Node::text(place, &value.replace("${", "$${"))
}

/// Maps a level. The registry's logger has two more, both above `error`.
fn level(value: &str) -> &str {
    match value {
        "fatal" | "panic" => "error",
        "warning" => "warn",
        level => level,
    }
}

fn merge(above: &mut Table, below: Table, context: &Context) {
    for (name, node) in below {
        match (above.get_mut(&name), node) {
            (Some(Node { value: Value::Table(above), .. }), Node { value: Value::Table(below), .. }) => {
                merge(above, below, context);
            }
            (Some(winner), Node { place: Place::Variable(name), .. }) => {
                context.warn(format!("{name} is overruled by {}", winner.place));
            }
            (Some(_), _) => {}
            (None, node) => {
                above.insert(name, node);
            }
        }
    }
}
