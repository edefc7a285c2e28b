//! Events of warming a cache.

use serde::{Deserialize, Serialize};

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// An image's manifests are here; these are its blobs.
    Image {
        /// The name as the operator wrote it.
        image: String,
        /// The digest that it has now.
        digest: String,
        /// The number of blobs that follow: those of the wanted platforms, each once.
        layers: u64,
        /// Their bytes, as far as the manifests say.
        bytes: u64,
    },
    /// A blob is on its way, or here.
    Layer {
        /// The blob.
        digest: String,
        /// Its length in bytes; 0 if that is unknown.
        size: u64,
        /// Bytes that are here.
        done: u64,
        /// Its progress.
        progress: Progress,
    },
    /// An image or a blob could not be pulled.
    Failed {
        /// The image, as it was asked for.
        image: String,
        /// The blob; none where the image itself failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        /// The reason.
        why: String,
    },
    /// Nothing follows.
    Done {
        /// Images that are here whole.
        images: u64,
        /// Images that are not.
        failed: u64,
    },
}

/// The progress of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Progress {
    /// The download is under way.
    Coming,
    /// The download is complete.
    Fetched,
    /// The content was here before.
    Here,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_of_json() {
        let failed = Event::Failed { image: "a".into(), digest: None, why: "b".into() };
        assert_eq!(serde_json::to_string(&failed).unwrap(), r#"{"event":"failed","image":"a","why":"b"}"#);
        let layer = Event::Layer { digest: "d".into(), size: 2, done: 1, progress: Progress::Coming };
        let line = serde_json::to_string(&layer).unwrap();
        assert_eq!(line, r#"{"event":"layer","digest":"d","size":2,"done":1,"progress":"coming"}"#);
        for event in [failed, layer, Event::Done { images: 1, failed: 0 }] {
            let line = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
    }
}
