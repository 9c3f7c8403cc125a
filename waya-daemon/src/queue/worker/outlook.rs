//! What is told of those that wait: why, and when they will leave.

use tokio::time::Instant;

use super::{Worker, window};
use crate::model::{Lane, MessageId, Timestamp};
use crate::queue::Fits;
use crate::queue::care::forecast::Forecast;
use crate::queue::hold::{self, Conditions, Limited, Outlook, Pacing};
use crate::queue::pace::Turn;

impl Worker {
    /// Why each of these waits, where it stands, and when it will leave.
    pub(super) fn outlooks(&self, ids: &[MessageId]) -> Vec<Outlook> {
        let (moment, now) = (Instant::now(), self.now());
        let pacing = Lane::ALL.map(|lane| self.pacing(lane, moment, now));
        let link = self.link.borrow();
        let rest_until = self.rest_until.map(|at| now.plus(at.saturating_duration_since(moment)));
        let locked_until = self.care.lock.and_then(|lock| lock.until(now));
        let conditions = Conditions { paused: self.paused, link: &link.state, rest_until, locked_until, now };
        let places = self.state.places(now);
        let limited = self.limited(pacing[Lane::Normal as usize], now);
        let outlook = |id: &MessageId| {
            let Some((lane, place)) = places.of(*id) else { return Outlook::default() };
            let (pacing, limited) = (pacing[lane as usize], limited.as_ref().filter(|_| lane != Lane::Reply));
            Outlook {
                hold: hold::hold(place, &conditions, pacing, limited),
                position: self.state.position(*id),
                estimated_at: hold::estimate(place, &conditions, pacing, limited),
            }
        };
        ids.iter().map(outlook).collect()
    }

    fn pacing(&self, lane: Lane, moment: Instant, now: Timestamp) -> Pacing {
        let gaps = self.gaps();
        Pacing {
            next: match self.pace.turn(lane, gaps, moment) {
                Turn::Now => Some(now),
                Turn::At(at) => Some(now.plus(at.saturating_duration_since(moment))),
                Turn::AfterThis => None,
            },
            gap: gaps.usual(lane),
            room: window(lane).saturating_sub(self.flights.len()),
        }
    }

    /// How limits hold what we start; nothing when there are none.
    fn limited(&self, pacing: Pacing, now: Timestamp) -> Option<Limited> {
        let limits = &self.care.limits;
        let most: u64 = Lane::ALL.into_iter().map(|lane| self.state.waiting(lane)).sum();
        limits.any().then(|| Limited {
            closed: limits.closed(now),
            left: limits.left(now, now),
            forecast: Forecast::new(pacing.begins(now), pacing.gap, limits, now, most),
        })
    }

    /// When so many new ones of this lane would leave, as if the link were up and the queue ran.
    pub(super) fn fits(&self, count: u64, lane: Lane, not_before: Option<Timestamp>) -> Fits {
        let (moment, now) = (Instant::now(), self.now());
        let pacing = self.pacing(lane, moment, now);
        let lifted = (lane == Lane::Reply).then(|| self.care.limits.lifted());
        let limits = lifted.as_ref().unwrap_or(&self.care.limits);
        let later = not_before.filter(|at| *at > now);
        // By then those that wait now have left, as far as anybody can tell.
        let ahead = if later.is_some() { 0 } else { self.state.places(now).ahead_of_a_new_one(lane) };
        let from = later.unwrap_or_else(|| pacing.begins(now));
        let forecast = Forecast::new(from, pacing.gap, limits, now, ahead.saturating_add(count));
        let today = forecast.before(limits.end_of_day(now), ahead, count);
        let last = count.checked_sub(1).and_then(|last| forecast.at(ahead.saturating_add(last)));
        Fits { today, later: count - today, last_leaves_at: last, strangers: 0 }
    }

    /// When that which holds what waits ends by itself.
    pub(super) fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        let trial = self.care.lock.filter(|_| self.care.trial.is_none()).map(|lock| lock.next_try());
        let trial = trial.filter(|at| *at > now);
        let opens = self.care.closed(now).map(|closed| closed.until);
        trial.into_iter().chain(opens).min()
    }
}
