//! Pauses between attempts.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use crate::clock;
use crate::config::limits;

/// The attempts that a request has left, and the pause before the next.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    left: u32,
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new(retries: u32) -> Self {
        Self { left: retries, pause: limits::RETRY_BACKOFF }
    }

    /// Returns the pause before another attempt after a transport error; `None` when there is none left.
    pub(crate) fn after_error(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let pause = self.pause;
        self.pause = (pause * 2).min(limits::RETRY_BACKOFF_MOST);
        Some(jitter(pause))
    }

    /// Returns the pause after an answer: 502, 503 and 504 may pass. A Retry-After is honoured (RFC 9110 section
    /// 10.2.3); one that is longer than the longest pause ends the attempts.
    pub(crate) fn after_status(&mut self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        if !matches!(
            status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ) {
            return None;
        }
        let asked = retry_after(headers);
        if asked.is_some_and(|asked| asked > limits::RETRY_BACKOFF_MOST) {
            return None;
        }
        self.after_error().map(|pause| pause.max(asked.unwrap_or_default()))
    }
}

/// Reads Retry-After, in seconds or as a date (RFC 9110 section 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?;
        Some(date.duration_since(clock::wall()).unwrap_or_default())
    })
}

/// Returns between half and the whole of `pause`, so that many clients do not return at the same moment.
fn jitter(pause: Duration) -> Duration {
    let mut byte = [0u8; 1];
    // Without randomness the pause is merely less spread.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    pause / 2 + pause / 2 * u32::from(byte[0]) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(retry_after: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::RETRY_AFTER, retry_after.parse().unwrap())])
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut backoff = Backoff::new(3);
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.after_error()).collect();
        assert_eq!(pauses.len(), 3);
        assert!(pauses[0] >= limits::RETRY_BACKOFF / 2 && pauses[0] <= limits::RETRY_BACKOFF);
        assert!(pauses[2] >= limits::RETRY_BACKOFF * 2 && pauses[2] <= limits::RETRY_BACKOFF * 4);
    }

    #[test]
    fn only_passing_trouble_is_tried_again() {
        for status in [200, 301, 400, 401, 404, 429, 500, 501] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Backoff::new(3).after_status(status, &HeaderMap::new()), None, "{status}");
        }
        for status in [502, 503, 504] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(Backoff::new(3).after_status(status, &HeaderMap::new()).is_some(), "{status}");
        }
    }

    #[test]
    fn a_short_retry_after_is_waited_for() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let pause = Backoff::new(3).after_status(status, &headers("2")).unwrap();
        assert_eq!(pause, Duration::from_secs(2));
        assert_eq!(Backoff::new(3).after_status(status, &headers("3600")), None);
    }
}
