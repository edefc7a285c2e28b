//! The page of a listing.

use crate::proto::query;

/// The page parameters of a listing (distribution-spec, "Listing Tags"), decoded.
///
/// `n` is the greatest number of entries wanted, `last` the entry after which to begin (it need not exist). What else
/// stands in the query is kept in its order, because upstreams put their own cursors there (`next_page`,
/// `nextToken`) and the next page is asked with what `Link` said.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Page {
    /// At most so many entries.
    pub n: Option<u64>,
    /// Begin after this one.
    pub last: Option<String>,
    /// All other parameters, in order.
    pub other: Vec<(String, String)>,
}

impl Page {
    /// Returns the query of this page without a leading `?`: `n=100&last=v9`, values percent-encoded; empty for the
    /// first page of the default size.
    pub fn render(&self) -> String {
        query::render(self.pairs())
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, String)> {
        let n = self.n.map(|n| ("n", n.to_string()));
        let last = self.last.clone().map(|last| ("last", last));
        let other = self.other.iter().map(|(key, value)| (key.as_str(), value.clone()));
        n.into_iter().chain(last).chain(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_renders_its_parameters_in_a_fixed_order() {
        let page = Page {
            n: Some(2),
            last: Some("a/b c".into()),
            other: vec![("next_page".into(), "x+y=&".into()), ("é".into(), String::new())],
        };
        assert_eq!(page.render(), "n=2&last=a%2Fb%20c&next_page=x%2By%3D%26&%C3%A9=");
        assert_eq!(Page::default().render(), "");
    }
}
