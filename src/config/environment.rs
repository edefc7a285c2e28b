//! The environment as a value: read once at the top, so that nothing below depends on the process.

use std::collections::BTreeMap;
use std::fmt;

/// The variables that a configuration may be made from. `Debug` shows names, never values: some are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// Returns the environment of this process. What is not UTF-8 is read with replacement characters.
    pub fn from_process() -> Self {
        std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect()
    }

    /// Returns the value of one variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the variables whose name begins with `prefix`.
    pub(super) fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter(move |(name, _)| name.starts_with(prefix))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self { variables: variables.into_iter().map(|(n, v)| (n.into(), v.into())).collect() }
    }
}

impl<const COUNT: usize> From<[(&str, &str); COUNT]> for Environment {
    fn from(variables: [(&str, &str); COUNT]) -> Self {
        variables.into_iter().collect()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Returns true if a variable is one that Kubernetes sets for a service of that name: a service called `registry` or
/// `dockgate` gives every pod `REGISTRY_PORT`, `DOCKGATE_PORT_5000_TCP_ADDR` and the like.
pub(super) fn is_service_variable(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || is_port_variable(name)
}

fn is_port_variable(name: &str) -> bool {
    name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| {
            let port = rest.split('_').next().unwrap_or_default();
            !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_value() {
        let environment = Environment::from([("REGISTRY_HTTP_SECRET", "hunter2")]);
        assert_eq!(format!("{environment:?}"), r#"{"REGISTRY_HTTP_SECRET"}"#);
    }

    #[test]
    fn the_variables_of_a_kubernetes_service_are_known() {
        for name in ["REGISTRY_PORT", "REGISTRY_SERVICE_HOST", "REGISTRY_SERVICE_PORT_HTTPS"] {
            assert!(is_service_variable(name), "{name}");
        }
        assert!(is_service_variable("DOCKGATE_PORT_5000_TCP_ADDR"));
        assert!(!is_service_variable("REGISTRY_HTTP_ADDR"));
        assert!(!is_service_variable("DOCKGATE_SERVER__ADDRESS"));
    }
}
