//! The page, and the sections that it has.

use maud::{DOCTYPE, Markup, html};

use crate::admin::dashboard::paths::{SCRIPT, STYLE};
use crate::admin::dashboard::search::Found;
use crate::admin::dashboard::{
    caches, overview, peers, problems, settings, store, table, transfers, upstreams,
};
use crate::admin::state::AdminState;

/// A part of the page that is brought up to date by itself.
#[derive(Clone, Copy)]
pub(super) struct Section {
    /// The id of its element.
    pub(super) id: &'static str,
    /// The heading; none if the content speaks for itself.
    title: &'static str,
    /// The element of its content.
    kind: Kind,
    /// Renders its content.
    pub(super) render: fn(&AdminState) -> Markup,
}

/// The kind of a section's content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Figures, each with its name.
    Figures,
    /// Charts beside each other.
    Charts,
    /// Anything else.
    Block,
}

/// The sections in their order: first what moves, then what is broken, then what seldom changes.
pub(super) const SECTIONS: [Section; 10] = [
    Section { id: "figures", title: "", kind: Kind::Figures, render: overview::figures },
    Section { id: "charts", title: "Last hour", kind: Kind::Charts, render: overview::charts },
    Section { id: "transfers", title: "Transfers now", kind: Kind::Block, render: transfers::render },
    Section { id: "upstreams", title: "Upstreams", kind: Kind::Block, render: upstreams::render },
    Section {
        id: "problems",
        title: "Recent errors and denials",
        kind: Kind::Block,
        render: problems::render,
    },
    Section { id: "cache", title: "Cache", kind: Kind::Block, render: caches::render },
    Section { id: "store", title: "Object store", kind: Kind::Block, render: store::render },
    Section { id: "peers", title: "Replicas", kind: Kind::Block, render: peers::render },
    Section { id: "certificates", title: "Certificates", kind: Kind::Block, render: settings::certificates },
    Section {
        id: "configuration",
        title: "Configuration",
        kind: Kind::Block,
        render: settings::configuration,
    },
];

/// Renders the whole page, with what a search for `asked` has found.
pub(super) fn render(state: &AdminState, asked: &str, found: &Found) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "dockgate" }
                link rel="stylesheet" href=(STYLE);
                script src=(SCRIPT) defer {}
            }
            body {
                a class="skip" href="#main" { "Skip to the figures" }
                (header(state, asked))
                main id="main" {
                    section aria-label="Search" { (found.render()) }
                    @for section in SECTIONS { (section.wrapped(state)) }
                }
            }
        }
    }
}

fn header(state: &AdminState, asked: &str) -> Markup {
    let (word, tone) = match (state.stall(), state.is_draining()) {
        (Some(_), _) => ("a worker hangs", table::Tone::Bad),
        (None, true) => ("draining", table::Tone::Warning),
        (None, false) => ("ready", table::Tone::Good),
    };
    html! {
        header {
            h1 { a href="/" { "dockgate" } }
            (table::badge(word, tone))
            span id="live" class="live" role="status" { "not live" }
            form action="/" method="get" role="search" {
                label for="q" class="hidden" { "Search a repository, tag or digest in the cache" }
                input id="q" name="q" type="search" value=(asked) autocomplete="off" spellcheck="false"
                    placeholder="Repository, tag or digest   /";
                button type="submit" { "Search" }
            }
        }
    }
}

impl Section {
    fn wrapped(&self, state: &AdminState) -> Markup {
        let content = (self.render)(state);
        let heading = format!("{}-title", self.id);
        html! {
            @if self.kind == Kind::Figures {
                section aria-label="Figures" { dl id=(self.id) class="figures" { (content) } }
            } @else {
                section aria-labelledby=(heading) {
                    h2 id=(heading) { (self.title) }
                    div id=(self.id) class=(self.kind.class()) { (content) }
                }
            }
        }
    }
}

impl Kind {
    fn class(self) -> &'static str {
        match self {
            Self::Figures => "figures",
            Self::Charts => "charts",
            Self::Block => "block",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_ids_of_their_own() {
        let ids: std::collections::BTreeSet<_> = SECTIONS.iter().map(|section| section.id).collect();
        assert_eq!(ids.len(), SECTIONS.len());
    }
}
