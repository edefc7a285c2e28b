//! The last requests that were refused or failed, for the operator to look at.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::telemetry::request_id::RequestId;

/// A request that was refused or failed.
#[derive(Clone, Debug)]
pub(crate) struct RecentProblem {
    /// The time of its answer.
    pub at: SystemTime,
    /// The request's id, by which the log has more.
    pub request_id: RequestId,
    /// The client's address.
    pub client: IpAddr,
    /// The client's name, or the name that a failed login has shown.
    pub user: Option<Arc<str>>,
    /// The operation's name.
    pub operation: &'static str,
    /// The repository's canonical name, with the tag or digest.
    pub subject: Option<String>,
    /// The upstream's name.
    pub upstream: Option<Arc<str>>,
    /// The status of the answer.
    pub status: u16,
    /// The word for the cause.
    pub cause: &'static str,
    /// The cause in words.
    pub reason: String,
    /// The rule that denies it, as the configuration has it.
    pub rule: Option<String>,
}

/// The last problems. A client that is refused again and again drives out others, but no more than their number.
#[derive(Debug, Default)]
pub(crate) struct RecentProblems(Mutex<VecDeque<RecentProblem>>);

/// The number of problems that are remembered.
const REMEMBERED: usize = 100;

impl RecentProblems {
    /// Remembers a problem. One that is as the last but for its time and id takes its place: a client that tries again
    /// every second would leave no room for others.
    pub(crate) fn note(&self, problem: RecentProblem) {
        let mut problems = self.0.lock();
        if problems.front().is_some_and(|last| is_repeated(last, &problem)) {
            problems.pop_front();
        }
        problems.push_front(problem);
        problems.truncate(REMEMBERED);
    }

    /// Returns up to `most` problems, the last one first.
    pub(crate) fn last(&self, most: usize) -> Vec<RecentProblem> {
        self.0.lock().iter().take(most).cloned().collect()
    }
}

fn is_repeated(last: &RecentProblem, now: &RecentProblem) -> bool {
    let of = |problem: &RecentProblem| (problem.client, problem.operation, problem.status, problem.cause);
    of(last) == of(now)
        && last.user == now.user
        && last.subject == now.subject
        && last.upstream == now.upstream
        && last.reason == now.reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn problem(reason: &str) -> RecentProblem {
        RecentProblem {
            at: clock::wall(),
            request_id: RequestId::next(),
            client: [192, 0, 2, 1].into(),
            user: None,
            operation: "get_blob",
            subject: None,
            upstream: None,
            status: 403,
            cause: "denied",
            reason: reason.to_owned(),
            rule: None,
        }
    }

    #[test]
    fn the_last_problem_comes_first() {
        let problems = RecentProblems::default();
        (0..REMEMBERED * 2).for_each(|number| problems.note(problem(&number.to_string())));
        let last = problems.last(REMEMBERED * 2);
        assert_eq!((last.len(), last[0].reason.as_str()), (REMEMBERED, "199"));
        assert_eq!(problems.last(3).len(), 3);
    }

    #[test]
    fn a_repeated_problem_takes_one_place() {
        let problems = RecentProblems::default();
        problems.note(problem("other"));
        (0..10).for_each(|_| problems.note(problem("same")));
        assert_eq!(problems.last(10).len(), 2);
    }
}
