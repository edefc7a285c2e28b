//! The parts that the sections share.

use std::time::SystemTime;

use maud::{Markup, html};

use crate::admin::dashboard::units;

/// The tone of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// All is well.
    Good,
    /// Worth a look.
    Warning,
    /// Something is broken.
    Bad,
    /// Nothing is known yet, or it does not matter.
    Neutral,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "badge good",
            Self::Warning => "badge warning",
            Self::Bad => "badge bad",
            Self::Neutral => "badge",
        }
    }
}

/// Renders a state as a word: the colour only repeats it.
pub(super) fn badge(word: &str, tone: Tone) -> Markup {
    html! { span class=(tone.class()) { (word) } }
}

/// Renders how long ago a time is, with the time itself for those who point at it.
pub(super) fn ago(time: SystemTime, now: SystemTime) -> Markup {
    let stamp = units::timestamp(time);
    html! { time datetime=(stamp) title=(stamp) { (units::ago(time, now)) } }
}

/// Renders a table with these heads, in a frame that scrolls sideways on a narrow screen. Numbers stand to the right: a
/// head that begins with `#` is of such a column, without the `#`.
pub(super) fn table(caption: &str, heads: &[&str], rows: &Markup) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table {
                caption class="hidden" { (caption) }
                thead {
                    tr {
                        @for head in heads {
                            @if let Some(head) = head.strip_prefix('#') {
                                th scope="col" class="number" { (head) }
                            } @else {
                                th scope="col" { (head) }
                            }
                        }
                    }
                }
                tbody { (rows) }
            }
        }
    }
}

/// Renders a line in the place of an empty table.
pub(super) fn nothing(line: &str) -> Markup {
    html! { p class="nothing" { (line) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_escaped() {
        let badge = badge("<script>alert(1)</script>", Tone::Bad).into_string();
        assert_eq!(badge, "<span class=\"badge bad\">&lt;script&gt;alert(1)&lt;/script&gt;</span>");
    }

    #[test]
    fn columns_of_numbers_are_marked() {
        let table = table("Things", &["Name", "#Size"], &html! { tr { td { "a" } } }).into_string();
        assert!(table.contains("<th scope=\"col\">Name</th>"), "{table}");
        assert!(table.contains("<th scope=\"col\" class=\"number\">Size</th>"), "{table}");
    }
}
