//! The cache's contents, as text.

use std::collections::BTreeMap;
use std::io::{self, Write};

use indicatif::HumanBytes;

use crate::cache::maintenance::{Entry, Removed, Stats, UpstreamStats};
use crate::cache::{Amount, Counted, MemberReport, StoreStats};
use crate::cli::probe::format::{duration, plain};

/// Prints a cache in numbers.
pub(super) fn stats(stats: &Stats, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", plain(&stats.path.display().to_string()))?;
    for (word, amount) in
        [("blobs", stats.blobs), ("manifests", stats.manifests), ("half way", stats.partial)]
    {
        row(word, &format!("{:>9}  {}", amount.count, HumanBytes(amount.bytes)), out)?;
    }
    row("in all", &in_all(stats), out)?;
    if let Some(reason) = &stats.degraded {
        row("degraded", &plain(reason), out)?;
    }
    stats.upstreams.iter().try_for_each(|upstream| of_upstream(upstream, out))?;
    stats.store.as_ref().map_or(Ok(()), |store| of_store(store, out))?;
    if !stats.fleet.is_empty() {
        of_fleet(&stats.fleet, out)?;
    }
    match &stats.counted {
        Some(counted) => of_gateway(counted, out),
        None => writeln!(out, "\nNo gateway that runs has this directory, as far as can be seen from here."),
    }
}

fn in_all(stats: &Stats) -> String {
    let bytes = |amount: Amount| amount.bytes;
    let all = bytes(stats.blobs) + bytes(stats.manifests) + bytes(stats.partial);
    let percent = all as f64 * 100.0 / stats.max_size.max(1) as f64;
    format!("{} of {} ({percent:.1} %)", HumanBytes(all), HumanBytes(stats.max_size))
}

fn of_upstream(upstream: &UpstreamStats, out: &mut dyn Write) -> io::Result<()> {
    let resting = upstream.breaker.as_deref() == Some("open");
    let resting = resting.then_some(", circuit open: it has failed too often");
    let offline = upstream.offline.then_some(", offline");
    let (repositories, tags) = (count(upstream.repositories, "repository"), count(upstream.tags, "tag"));
    let how: String = resting.into_iter().chain(offline).collect();
    writeln!(out, "\n{}\n  {repositories}, {tags}{how}", plain(&upstream.name))
}

fn of_gateway(counted: &Counted, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nsince the gateway's start")?;
    let requests: u64 = counted.requests.values().sum();
    row("requests", &with_parts(requests, &counted.requests), out)?;
    if let Some(percent) = counted.hit_percent() {
        row("hits", &format!("{percent:.1} %"), out)?;
    }
    row("saved", &HumanBytes(counted.bytes_saved).to_string(), out)?;
    row("fills", &counted.fills.to_string(), out)?;
    let failures: u64 = counted.fill_failures.values().sum();
    row("failed", &with_parts(failures, &counted.fill_failures), out)?;
    let evicted = count(counted.evicted_blobs, "blob");
    row("evicted", &format!("{evicted}, {}", HumanBytes(counted.evicted_bytes)), out)
}

fn of_store(store: &StoreStats, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n{}", plain(&store.name))?;
    if let Some(reason) = &store.failure {
        row("passed", &format!("over: {}", plain(reason)), out)?;
    }
    if let Some(swept) = store.swept {
        let (objects, bytes) = (count(swept.count, "object"), HumanBytes(swept.bytes));
        row("swept", &format!("{objects} left, {bytes}"), out)?;
    }
    let counts = &store.counts;
    let read = format!("{}, {}", count(counts.hits, "object"), HumanBytes(counts.read_bytes));
    row("read", &format!("{read}; {} not there", counts.misses), out)?;
    let stored = format!("{}, {}", count(counts.stored, "object"), HumanBytes(counts.stored_bytes));
    row("stored", &format!("{stored}; {} waiting, {} dropped", store.waiting, counts.dropped), out)?;
    let (won, all) = (counts.hedges_won, counts.hedges_won + counts.hedges_lost);
    row("hedges", &format!("{all}, the upstream was first in {won}"), out)?;
    let (reads, writes, wrong) = (counts.failures, counts.store_failures, counts.wrong);
    row("failed", &format!("{}: {reads} reads, {writes} writes, {wrong} wrong", reads + writes + wrong), out)
}

fn of_fleet(members: &[MemberReport], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nreplicas")?;
    let width = members.iter().map(|member| member.name.len()).max().unwrap_or_default();
    for member in members {
        let how = match (&member.resting, member.is_own) {
            (_, true) => "this one".to_owned(),
            (Some(reason), false) => format!("passed over: {reason}"),
            (None, false) => {
                let questions = count(member.asked, "question");
                format!("{questions}, {} not answered; {} from it", member.failed, HumanBytes(member.bytes))
            }
        };
        writeln!(out, "  {}  {}", plain(&format!("{:width$}", member.name)), plain(&how))?;
    }
    Ok(())
}

/// Formats a sum and its parts: `7: 5 hit, 2 miss`.
fn with_parts(sum: u64, parts: &BTreeMap<String, u64>) -> String {
    let parts = parts.iter().filter(|(_, count)| **count > 0);
    let parts: Vec<String> = parts.map(|(word, count)| format!("{count} {}", plain(word))).collect();
    if parts.is_empty() { sum.to_string() } else { format!("{sum}: {}", parts.join(", ")) }
}

fn row(word: &str, text: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "  {word:<10}{text}")
}

/// Prints the images, one a line.
pub(super) fn entries(entries: &[Entry], out: &mut dyn Write) -> io::Result<()> {
    let names: Vec<String> = entries.iter().map(name).collect();
    let width = names.iter().map(String::len).max().unwrap_or_default().max(IMAGE.len());
    let ages: Vec<String> = entries.iter().map(|entry| duration(entry.age)).collect();
    let age_width = ages.iter().map(String::len).max().unwrap_or_default();
    let has_places = entries.iter().any(|entry| !entry.places.is_empty());
    if !entries.is_empty() {
        let places = if has_places { format!("{:age_width$}  PLACES", "AGE") } else { "AGE".to_owned() };
        writeln!(out, "{IMAGE:<width$}  {:<19}  {:>11}  {places}", "DIGEST", "SIZE")?;
    }
    for ((entry, name), age) in entries.iter().zip(&names).zip(&ages) {
        let size = HumanBytes(entry.size).to_string();
        let places = plain(&entry.places.join(", "));
        let last = if has_places { format!("{age:age_width$}  {places}") } else { age.clone() };
        writeln!(out, "{name:<width$}  {}  {size:>11}  {last}", plain(&short(&entry.digest)))?;
    }
    Ok(())
}

const IMAGE: &str = "IMAGE";

fn name(entry: &Entry) -> String {
    plain(&format!("{}:{}", entry.repository, entry.tag.as_deref().unwrap_or("<none>")))
}

/// Shortens a digest to `sha256:` and 12 digits.
pub(super) fn short(digest: &str) -> String {
    let end = digest.find(':').map_or(12, |colon| colon + 13);
    digest.get(..end).unwrap_or(digest).to_owned()
}

/// Formats a removal in a sentence.
pub(super) fn removed(removed: &Removed) -> String {
    let of = count(removed.repositories, "repository");
    let (tags, manifests) = (count(removed.tags, "tag"), count(removed.manifests, "manifest"));
    let space = HumanBytes(removed.bytes);
    let files = count(removed.contents, "file");
    let here = format!("removed {tags} and {manifests} of {of}; that gave back {space} in {files}");
    match removed.elsewhere {
        0 => here,
        replicas => format!("{here}; {} removed it too", count(replicas, "other replica")),
    }
}

/// Formats a count: `1 tag`, `2 repositories`.
pub(super) fn count(count: u64, word: &str) -> String {
    match (count, word.strip_suffix('y')) {
        (1, _) => format!("1 {word}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {word}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::StoreCounts;
    use crate::cli::probe::format::speaks_to_terminals;

    fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn sample() -> Stats {
        Stats {
            path: "/var/lib/dockgate".into(),
            max_size: 100 << 30,
            blobs: Amount { count: 1234, bytes: 50 << 30 },
            manifests: Amount { count: 7, bytes: 4096 },
            partial: Amount::default(),
            degraded: None,
            upstreams: vec![UpstreamStats {
                name: "docker.io".into(),
                repositories: 1,
                tags: 2,
                breaker: Some("open".into()),
                offline: false,
            }],
            counted: None,
            store: None,
            fleet: Vec::new(),
        }
    }

    #[test]
    fn a_cache_is_told_in_numbers() {
        let text = written(|out| stats(&sample(), out));
        for part in [
            "/var/lib/dockgate\n  blobs          1234  50.00 GiB\n  manifests         7  4.00 KiB\n",
            "  in all    50.00 GiB of 100.00 GiB (50.0 %)\n",
            "\ndocker.io\n  1 repository, 2 tags, circuit open: it has failed too often\n",
            "No gateway that runs",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        assert!(!text.contains("degraded"), "{text}");
    }

    #[test]
    fn a_gateway_tells_what_its_cache_was_good_for_and_what_is_wrong() {
        let requests = [("hit", 6), ("miss", 2), ("fill", 0)].map(|(word, count)| (word.to_owned(), count));
        let counted = Counted {
            requests: requests.into(),
            bytes_saved: 3 << 20,
            fill_failures: [("digest".to_owned(), 1)].into(),
            evicted_blobs: 2,
            ..Counted::default()
        };
        let with = Stats { counted: Some(counted), degraded: Some("no\u{1b}room".into()), ..sample() };
        let text = written(|out| stats(&with, out));
        for part in [
            "  requests  8: 6 hit, 2 miss\n  hits      75.0 %\n  saved     3.00 MiB\n",
            "  failed    1: 1 digest\n  evicted   2 blobs, 0 B\n",
            "  degraded  no\\u{1b}room\n",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
    }

    #[test]
    fn a_store_is_told_in_numbers() {
        let counts = StoreCounts {
            hits: 3,
            read_bytes: 3 << 20,
            misses: 2,
            stored: 1,
            stored_bytes: 1 << 20,
            hedges_won: 1,
            hedges_lost: 4,
            failures: 6,
            wrong: 1,
            ..StoreCounts::default()
        };
        let (swept, failure) = (Some(Amount { count: 9, bytes: 9 << 20 }), Some("503\u{1b}".to_owned()));
        let store = StoreStats { name: "s3://a/b".to_owned(), failure, waiting: 5, swept, counts };
        let text = written(|out| stats(&Stats { store: Some(store), ..sample() }, out));
        for part in [
            "\ns3://a/b\n  passed    over: 503\\u{1b}\n  swept     9 objects left, 9.00 MiB\n",
            "  read      3 objects, 3.00 MiB; 2 not there\n  stored    1 object, 1.00 MiB; 5 waiting, 0 dropped\n",
            "  hedges    5, the upstream was first in 1\n  failed    7: 6 reads, 0 writes, 1 wrong\n",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
    }

    #[test]
    fn replicas_are_told_with_what_came_from_them() {
        let member = |name: &str, is_own, resting: Option<&str>| MemberReport {
            name: name.to_owned(),
            is_own,
            resting: resting.map(str::to_owned),
            asked: 3,
            failed: 1,
            bytes: 2 << 20,
        };
        let fleet = vec![
            member("a:1", true, None),
            member("bb:1", false, None),
            member("c:1", false, Some("refused\u{1b}")),
        ];
        let text = written(|out| stats(&Stats { fleet, ..sample() }, out));
        let expected = "\nreplicas\n  a:1   this one\n  bb:1  3 questions, 1 not answered; 2.00 MiB from it\n  \
            c:1   passed over: refused\\u{1b}\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn images_are_in_columns() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let entry = |repository: &str, tag: Option<&str>| Entry {
            repository: repository.into(),
            tag: tag.map(str::to_owned),
            digest: digest.clone(),
            size: 3 << 20,
            age: 90,
            places: Vec::new(),
        };
        let text = written(|out| entries(&[entry("a/b", Some("x")), entry("a/bcd", None)], out));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "IMAGE         DIGEST                      SIZE  AGE");
        assert_eq!(lines[1], "a/b:x         sha256:0123456789ab     3.00 MiB  1 min 30 s");
        assert_eq!(lines[2], "a/bcd:<none>  sha256:0123456789ab     3.00 MiB  1 min 30 s");
        assert_eq!(written(|out| entries(&[], out)), "");
    }

    #[test]
    fn places_are_in_a_column_where_they_are_said() {
        let entry = |repository: &str, age, places: &[&str]| Entry {
            repository: repository.into(),
            tag: Some("x".to_owned()),
            digest: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            size: 3 << 20,
            age,
            places: places.iter().map(|place| (*place).to_owned()).collect(),
        };
        let listed = [entry("a", 90, &["here", "store"]), entry("b", 1, &["10.0.0.2:5003"])];
        let text = written(|out| entries(&listed, out));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "IMAGE  DIGEST                      SIZE  AGE         PLACES");
        assert_eq!(lines[1], "a:x    sha256:0123456789ab     3.00 MiB  1 min 30 s  here, store");
        assert_eq!(lines[2], "b:x    sha256:0123456789ab     3.00 MiB  1 s         10.0.0.2:5003");
    }

    #[test]
    fn a_removal_tells_of_other_replicas() {
        let here = Removed { repositories: 1, tags: 2, ..Removed::default() };
        assert_eq!(
            removed(&Removed { elsewhere: 2, ..here }),
            "removed 2 tags and 0 manifests of 1 repository; that gave back 0 B in 0 files; 2 other replicas removed it too"
        );
    }

    #[test]
    fn a_caches_names_cannot_speak_to_the_terminal() {
        let evil = "\u{1b}]0;owned\u{7}\r\nfine:\u{9b}2J\u{202e}";
        let entry = Entry {
            repository: evil.into(),
            tag: Some(evil.to_owned()),
            digest: evil.to_owned(),
            size: 1,
            age: 1,
            places: vec![evil.to_owned()],
        };
        let mut stats_of_evil = sample();
        stats_of_evil.path = evil.into();
        stats_of_evil.degraded = Some(evil.into());
        stats_of_evil.upstreams[0].name = evil.into();
        let requests = [(evil.to_owned(), 1)];
        stats_of_evil.counted = Some(Counted {
            requests: requests.clone().into(),
            fill_failures: requests.into(),
            ..Counted::default()
        });
        let list = written(|out| entries(&[entry], out));
        assert_eq!(list.lines().count(), 2, "{list}");
        for text in [list, written(|out| stats(&stats_of_evil, out))] {
            let speaks = |character: char| character != '\n' && speaks_to_terminals(character);
            assert!(!text.contains(speaks), "{text:?}");
            assert!(!text.lines().any(|line| line.starts_with("fine")), "{text}");
        }
    }

    #[test]
    fn counts_are_words() {
        assert_eq!(
            [count(1, "tag"), count(2, "tag"), count(0, "repository")],
            ["1 tag", "2 tags", "0 repositories"]
        );
    }
}
