//! Random streams of messages against the pauses that were asked for.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::pace::{Gaps, Pace, Turn};
use crate::model::{Lane, MessageId};
use crate::settings::Snapshot;

/// One message: when it comes, its lane, how long its hand-over takes, whether it reaches WhatsApp.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: u64,
    lane: Lane,
    takes: u64,
    reaches: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy)]
struct Left {
    asked: Asked,
    begun: u64,
    ended: u64,
}

fn asked() -> impl Strategy<Value = Vec<Asked>> {
    let one = (0u64..60_000, prop_oneof![Just(Lane::Reply), Just(Lane::Normal)], 0u64..3_000, any::<bool>());
    let one = one.prop_map(|(at, lane, takes, reaches)| Asked { at, lane, takes, reaches });
    proptest::collection::vec(one, 1..40)
}

fn gaps() -> impl Strategy<Value = Gaps> {
    let pause = || prop_oneof![Just(0u64), 1u64..8_000];
    (pause(), pause(), pause()).prop_map(|(delay, jitter, reply_delay)| {
        let settings = Snapshot {
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(jitter),
            reply_delay: Duration::from_millis(reply_delay),
            ..Snapshot::default()
        };
        Gaps::from(&settings)
    })
}

fn id(n: usize) -> MessageId {
    MessageId(uuid::Uuid::from_u128(n as u128))
}

/// Lets them leave, replies first, each as soon as its turn comes; by the millisecond, jumping over idle time.
fn play(mut asked: Vec<Asked>, gaps: Gaps, share: f64) -> Vec<Left> {
    asked.sort_by_key(|one| one.at);
    let start = Instant::now();
    let (mut pace, mut now) = (Pace::default(), 0);
    let mut waiting: Vec<(usize, Asked)> = asked.into_iter().enumerate().collect();
    let mut under_way: Vec<(usize, Left)> = Vec::new();
    let mut left = Vec::new();
    while !waiting.is_empty() || !under_way.is_empty() {
        let moment = start + Duration::from_millis(now);
        let (ended, going): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|(_, one)| one.ended <= now);
        under_way = going;
        for (n, one) in ended {
            pace.ends(id(n), one.asked.reaches, moment, share);
            left.push(one);
        }
        let mut next = under_way.iter().map(|(_, one)| one.ended).min().unwrap_or(u64::MAX);
        for lane in [Lane::Reply, Lane::Normal] {
            while let Some(found) = waiting.iter().position(|(_, one)| one.lane == lane && one.at <= now) {
                match pace.turn(lane, gaps, moment) {
                    Turn::Now => {
                        let (n, one) = waiting.remove(found);
                        pace.begins(id(n), lane, moment);
                        let ended = now + one.takes.max(1);
                        under_way.push((n, Left { asked: one, begun: now, ended }));
                        next = next.min(ended);
                    }
                    Turn::At(at) => {
                        next = next.min(now + u64::try_from((at - moment).as_nanos().div_ceil(1_000_000)).unwrap());
                        break;
                    }
                    Turn::AfterThis => break,
                }
            }
        }
        next = waiting.iter().map(|(_, one)| one.at).filter(|at| *at > now).min().unwrap_or(u64::MAX).min(next);
        assert!(next > now, "nothing moves any more");
        now = next;
    }
    left
}

proptest! {
    #[test]
    fn the_pauses_hold_and_nobody_waits_for_more_than_them(asked in asked(), gaps in gaps(), share in 0.0f64..1.0) {
        let count = asked.len();
        let left = play(asked, gaps, share);
        prop_assert_eq!(left.len(), count, "everything leaves");
        let (reply, other) = (gaps.reply.as_millis() as u64, gaps.other.as_millis() as u64);
        for one in &left {
            for before in left.iter().filter(|before| before.asked.reaches && before.begun < one.begun) {
                let same = (before.asked.lane == Lane::Reply) == (one.asked.lane == Lane::Reply);
                let own = if one.asked.lane == Lane::Reply { reply } else { other };
                if same {
                    prop_assert!(own == 0 || one.begun >= before.ended + own, "{:?} after {:?}", one, before);
                } else {
                    prop_assert!(one.begun >= before.begun + reply.min(other), "{:?} after {:?}", one, before);
                }
            }
        }
        // A reply waits for replies, and for the shorter pause after anything else; never for a blast.
        let replies: Vec<_> = left.iter().filter(|one| one.asked.lane == Lane::Reply).collect();
        for one in &replies {
            let ahead = replies.iter().filter(|ahead| ahead.begun < one.begun && ahead.ended > one.asked.at.saturating_sub(reply));
            let for_replies: u64 = ahead.map(|ahead| ahead.ended - ahead.begun + reply).sum();
            // Each reply before it may have had to stand back behind a message of another lane.
            let others = left.iter().filter(|by| by.asked.lane != Lane::Reply && by.ended + reply.min(other) > one.asked.at && by.begun <= one.begun);
            let for_others: u64 = others.map(|_| reply.min(other)).sum();
            let tail = left.iter().filter(|by| by.asked.lane != Lane::Reply && by.begun <= one.asked.at && by.ended > one.asked.at).map(|by| by.ended - one.asked.at).max().unwrap_or(0);
            prop_assert!(one.begun <= one.asked.at + for_replies + for_others + tail + reply, "{:?}", one);
        }
    }
}

#[test]
fn what_does_not_reach_whatsapp_uses_no_pace() {
    let (mut pace, now, gaps) = (Pace::default(), Instant::now(), Gaps::from(&Snapshot::default()));
    assert_eq!(pace.turn(Lane::Normal, gaps, now), Turn::Now);
    pace.begins(id(1), Lane::Normal, now);
    assert_eq!(pace.turn(Lane::Low, gaps, now), Turn::AfterThis);
    pace.ends(id(1), false, now, 0.0);
    assert_eq!(pace.turn(Lane::Low, gaps, now), Turn::Now);
}

#[test]
fn neither_kind_starves_the_other() {
    let (mut pace, start) = (Pace::default(), Instant::now());
    // A blast without a pause, and replies with one.
    let gaps = Gaps::from(&Snapshot { delay: Duration::ZERO, ..Snapshot::default() });
    let mut now = start;
    for n in 0..100 {
        assert_eq!(pace.turn(Lane::Normal, gaps, now), Turn::Now, "no delay means no pace, whatever the jitter");
        pace.begins(id(n), Lane::Normal, now);
        assert_eq!(pace.turn(Lane::Reply, gaps, now), Turn::Now);
        now += Duration::from_millis(1);
        pace.ends(id(n), true, now, 1.0);
    }
    // Replies without end, faster than the delay.
    let (mut pace, gaps) = (Pace::default(), Gaps::from(&Snapshot::default()));
    let mut normal = 0;
    for n in 0..120 {
        now = start + Duration::from_millis(500 * n as u64);
        pace.begins(id(n), Lane::Reply, now);
        pace.ends(id(n), true, now, 0.0);
        let between = now + Duration::from_millis(500);
        if pace.turn(Lane::Normal, gaps, between) == Turn::Now {
            pace.begins(id(1000 + n), Lane::Normal, between);
            pace.ends(id(1000 + n), true, between, 0.0);
            normal += 1;
        }
    }
    assert!(normal >= 11, "only {normal} in a minute");
}
