//! Headers that are meant for the next hop alone.

use crate::proto::syntax::is_token;

/// Returns the names that the `Connection` lines list, in lower case: not to be passed on either (RFC 9110 section
/// 7.6.1: `Connection = #connection-option`, an option being a token). What is no token is passed over.
///
/// Take them out before own headers are put in: a client may list any name.
pub(crate) fn connection_listed<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    lines.into_iter().flat_map(|line| line.split(|&b| b == b',')).filter_map(option).collect()
}

fn option(element: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(element).ok()?.trim_matches([' ', '\t']);
    is_token(text).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn connection_lists_names() {
        let lines: [&[u8]; 3] = [b"close, X-Foo,,\tAuthorization ", b"a b, \xff, c:d", b"keep-alive"];
        assert_eq!(connection_listed(lines), ["close", "x-foo", "authorization", "keep-alive"]);
        assert!(connection_listed(std::iter::empty()).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_listed_is_found(names in proptest::collection::vec("[a-z0-9-]{1,9}", 0..5)) {
            prop_assert_eq!(connection_listed([names.join(", ").as_bytes()]), names);
        }

        #[test]
        fn no_line_panics(line in any::<Vec<u8>>()) {
            let _ = connection_listed([line.as_slice()]);
        }
    }
}
