//! The CI workflows: what they run of others.

use std::path::Path;

#[test]
fn actions_are_pinned_by_commit() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/workflows");
    let mut actions = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let used = text.lines().filter_map(|line| line.trim_start_matches(['-', ' ']).strip_prefix("uses: "));
        for action in used.filter(|action| !action.starts_with("./")) {
            let (_, reference) = action.split_once('@').unwrap_or_default();
            let commit = reference.split(' ').next().unwrap_or_default();
            let pinned = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(pinned, "{}: {action} can be moved by its owner", path.display());
            actions += 1;
        }
    }
    assert!(actions > 0, "no action was found");
}
