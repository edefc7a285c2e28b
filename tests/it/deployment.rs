//! The files in deploy/: the metrics, alerts and pages that they name exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::harness::{Gateway, Origin, Request, soon};

fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<&str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !is_part(character)).filter(|word| word.starts_with("dockgate_")).collect()
}

/// Metrics that come with what they tell of: a reload, a rate limit, an order of a certificate.
const LATER: [&str; 4] = [
    "dockgate_acme_orders_total",
    "dockgate_reload_ok",
    "dockgate_upstream_rate_limit",
    "dockgate_upstream_rate_limit_remaining",
];

#[tokio::test]
async fn alerts_and_dashboard_use_metrics_that_there_are() {
    let origin = Origin::start().await;
    let builder = Gateway::builder().cache("").admin_listener().tls(&["localhost"]);
    let gateway = builder.upstream_with("up", "", origin.address(), "[upstream.cache]").start().await;
    origin.image("a", "x", &[b"layer".to_vec()]);
    gateway.connect_tls("localhost").await.ask(&Request::get("/v2/a/manifests/x")).await.is(200);
    let mut scraped = String::new();
    soon("the request to be counted", async {
        while !scraped.contains("dockgate_requests_total{") {
            scraped = gateway.admin("/metrics").await.is(200).text();
        }
    })
    .await;
    let there = metrics(&scraped);
    for file in ["monitoring/alerts.yml", "monitoring/grafana.json"] {
        let text = deployed(file);
        let used = metrics(&text);
        assert!(used.len() > 5, "{file} uses {used:?}");
        for name in used {
            let is_there = there.contains(name) || LATER.contains(&name);
            assert!(is_there, "{file} uses {name}, which the gateway does not have");
        }
    }
}

#[test]
fn metrics_that_come_later_are_documented() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for name in LATER {
        assert!(page.contains(&format!("`{name}{{")), "{name}");
    }
}

#[test]
fn the_chart_has_the_alerts_of_the_page() {
    let alerts = deployed("monitoring/alerts.yml");
    let (_, rules) = alerts.split_once("\n\n").unwrap();
    assert_eq!(deployed("helm/dockgate/files/alerts.yml"), rules);
}

#[test]
fn every_alert_is_explained() {
    let (alerts, page) = (deployed("monitoring/alerts.yml"), deployed("operating.md"));
    let names: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "operating.md has no row for {name}");
    }
}

#[test]
fn the_chart_is_of_this_version() {
    let chart = deployed("helm/dockgate/Chart.yaml");
    let version = env!("CARGO_PKG_VERSION");
    assert!(chart.contains(&format!("\nappVersion: \"{version}\"\n")), "{chart}");
}

/// Links of the pages to files in the repository lead to files that are there.
#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = [
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "config/README.md",
        "deploy/README.md",
        "deploy/operating.md",
        "deploy/troubleshooting.md",
        "deploy/replicas/README.md",
        "deploy/kubernetes/README.md",
    ];
    for page in pages {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let folder = root.join(page).parent().map(PathBuf::from).unwrap();
        let between = |start: &'static str, end: char| {
            text.split(start).skip(1).filter_map(move |rest| rest.split_once(end)).map(|(link, _)| link)
        };
        for link in between("](", ')').chain(between(" src=\"", '"')).chain(between(" srcset=\"", '"')) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                assert!(folder.join(target).exists(), "{page} links to {link}");
            }
        }
    }
}
