//! Pauses between attempts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

    /// Returns the pause after an answer to a request that is a HEAD or not, if the answer may pass. A Retry-After is
    /// honoured (RFC 9110 section 10.2.3); one that is longer than the longest pause ends the attempts.
    pub(crate) fn after_status(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        head: bool,
    ) -> Option<Duration> {
        if !may_pass(status, head) {
            return None;
        }
        let asked = retry_after(headers);
        if asked.is_some_and(|asked| asked > limits::RETRY_BACKOFF_MOST) {
            return None;
        }
        self.after_error().map(|pause| pause.max(asked.unwrap_or_default()))
    }
}

/// Returns true if an answer with this status may be another one in a moment: 408, 421 and 425 are about the connection
/// (containerd#4861), 502 to 504 about the host. 500 is repeated for GET alone: a HEAD that is answered with it is followed by
/// a GET anyway.
fn may_pass(status: StatusCode, head: bool) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::MISDIRECTED_REQUEST
        | StatusCode::TOO_EARLY
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => true,
        StatusCode::INTERNAL_SERVER_ERROR => !head,
        _ => false,
    }
}

/// Returns the time that Retry-After asks for (RFC 9110 section 10.2.3): in seconds, as a date, or as a Unix time, which
/// Docker Hub has sent (hub-feedback#2459). Believed between a second and [`limits::LIMITED_PAUSE_MOST`]; a time that is
/// past means now.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match number(text) {
        Some(seconds) if seconds > UNIX_TIMES => {
            UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).map_or(limits::LIMITED_PAUSE_MOST, until)
        }
        Some(seconds) => Duration::from_secs(seconds),
        None => until(httpdate::parse_http_date(text).ok()?),
    };
    // Rounded up: a client that comes back a moment too early is refused again.
    let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    Some(Duration::from_secs(seconds).clamp(limits::LIMITED_PAUSE_LEAST, limits::LIMITED_PAUSE_MOST))
}

/// Reads a number of seconds, rounded up where it has a fraction; one beyond 64 bits is as good as the greatest.
fn number(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let whole = (!whole.is_empty() && digits(whole) && digits(fraction))
        .then(|| whole.parse::<u64>().unwrap_or(u64::MAX))?;
    Some(whole.saturating_add(u64::from(fraction.bytes().any(|byte| byte != b'0'))))
}

fn until(time: SystemTime) -> Duration {
    time.duration_since(clock::wall()).unwrap_or_default()
}

/// A number above this is a Unix time: no registry asks for 31 years, and none has been asked before September 2001.
const UNIX_TIMES: u64 = 1_000_000_000;

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

    fn headers(retry_after: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::RETRY_AFTER, retry_after.parse().unwrap())])
    }

    fn at(seconds: u64) -> String {
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap();
        (now + Duration::from_secs(seconds)).as_secs().to_string()
    }

    #[test]
    fn retry_after_is_seconds_a_date_or_a_unix_time() {
        let wait = |text: &str| retry_after(&headers(text)).map(|wait| wait.as_secs());
        let date = httpdate::fmt_http_date(clock::wall() + Duration::from_secs(90));
        assert!(wait(&date).is_some_and(|wait| (88..=90).contains(&wait)), "{date}");
        assert!(wait(&at(60)).is_some_and(|wait| (58..=60).contains(&wait)));
        for (text, seconds) in [
            ("0", 1),
            ("1", 1),
            (" 30 ", 30),
            ("1.5", 2),
            ("3600", 3600),
            ("86400", 3600),
            ("1000000000", 3600),
            ("1000000001", 1),
            ("99999999999999999999999", 3600),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 1),
        ] {
            assert_eq!(wait(text), Some(seconds), "{text}");
        }
        assert_eq!(wait(&at(7200)), Some(3600));
        for text in ["", "soon", "-1", "+5", "5s", ".5"] {
            assert_eq!(wait(text), None, "{text}");
        }
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
        let pause = |status, head| {
            let status = StatusCode::from_u16(status).unwrap();
            Backoff::new(3).after_status(status, &HeaderMap::new(), head)
        };
        for status in [200, 301, 400, 401, 404, 429, 501, 505, 508] {
            assert_eq!((pause(status, false), pause(status, true)), (None, None), "{status}");
        }
        for status in [408, 421, 425, 502, 503, 504] {
            assert!(pause(status, false).is_some() && pause(status, true).is_some(), "{status}");
        }
        assert!(pause(500, false).is_some() && pause(500, true).is_none());
    }

    #[test]
    fn a_short_retry_after_is_waited_for() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let pause = Backoff::new(3).after_status(status, &headers("2"), false).unwrap();
        assert_eq!(pause, Duration::from_secs(2));
        assert_eq!(Backoff::new(3).after_status(status, &headers("3600"), false), None);
    }
}
