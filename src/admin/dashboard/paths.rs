//! The paths of the dashboard.

/// The page.
pub(super) const PAGE: &str = "/";
/// The events that bring it up to date.
pub(super) const EVENTS: &str = "/dashboard/events";
/// The style sheet.
pub(super) const STYLE: &str = "/dashboard/style.css";
/// The script, which names the path of the events too.
pub(super) const SCRIPT: &str = "/dashboard/script.js";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_asks_for_the_events() {
        assert!(include_str!("script.js").contains(&format!("new EventSource(\"{EVENTS}\")")));
    }
}
