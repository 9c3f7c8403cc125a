//! Random lives of a whole queue: acks that come late, twice or never, refusals, panics, hangs, cuts, a store that
//! fails before or after it wrote, restarts. In the end everything arrived, in order, and nothing went out of turn.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::mpsc;

use super::testing::{Call, Deed, Fault, Shaky, Wild, World, draft, offline};
use super::{Accepted, Draft};
use crate::model::{ChatId, Lane, LinkState, NackReason, Status, WhatsAppId};
use crate::session::{SendError, WhatsApp};
use crate::settings::Snapshot;

/// What the other side does some time after a hand-over.
#[derive(Debug)]
struct Answer {
    id: WhatsAppId,
    refused: Option<NackReason>,
    after: Duration,
}

/// Decides what becomes of a hand-over; whether the server has it, and what it will answer.
fn fate(random: &mut StdRng) -> (Deed, bool, Vec<Option<NackReason>>) {
    let failure = Deed::Give(Err(SendError::Transient("trouble".to_owned())));
    match random.random_range(0..14) {
        0 => (Deed::Give(Err(SendError::Offline)), false, vec![]),
        1 => (failure, false, vec![]),
        2 => (failure, true, vec![None]),
        3 => (Deed::Panic, false, vec![]),
        4 => (Deed::Hang, true, vec![]),
        5 => (Deed::Give(Ok(())), false, vec![]),
        6 => (Deed::Give(Ok(())), false, vec![Some(NackReason::ServerTrouble(503))]),
        7 => (Deed::Give(Ok(())), true, vec![None, None]),
        8 => (Deed::Give(Ok(())), true, vec![]),
        _ => (Deed::Give(Ok(())), true, vec![None]),
    }
}

/// The server.
#[derive(Debug, Default)]
struct Server {
    /// The ids in the order in which they first arrived.
    arrived: Vec<WhatsAppId>,
    /// Whose acks the queue has been given.
    acked: HashSet<WhatsAppId>,
    /// What left last in each chat and lane.
    last: HashMap<(ChatId, String), WhatsAppId>,
    /// What left while another one of its chat and lane was not acknowledged.
    out_of_turn: Vec<WhatsAppId>,
}

type Shared = Arc<Mutex<Server>>;

fn whatsapp(seed: u64, calm: Arc<AtomicBool>, answers: mpsc::UnboundedSender<Answer>, server: Shared) -> Arc<Wild> {
    let mut random = StdRng::seed_from_u64(seed);
    Wild::new(move |outgoing| {
        let calm = calm.load(Ordering::Relaxed);
        let (deed, arrives, says) = if calm { (Deed::Give(Ok(())), true, vec![None]) } else { fate(&mut random) };
        let (mut server, id) = (server.lock().unwrap(), &outgoing.whatsapp_id);
        // The text names the lane.
        let before = server.last.insert((outgoing.chat.clone(), outgoing.text.clone()), id.clone());
        if before.is_some_and(|before| before != *id && !server.acked.contains(&before)) {
            server.out_of_turn.push(id.clone());
        }
        if arrives && !server.arrived.contains(id) {
            server.arrived.push(id.clone());
        }
        for refused in says {
            let longest = if random.random_bool(0.1) { 60_000 } else { 900 };
            let after = Duration::from_millis(random.random_range(0..longest));
            let _ = answers.send(Answer { id: outgoing.whatsapp_id.clone(), refused, after });
        }
        deed
    })
}

fn shaky(seed: u64, calm: Arc<AtomicBool>) -> impl FnMut(&Call) -> Fault + Send + 'static {
    let mut random = StdRng::seed_from_u64(seed);
    move |_| match random.random_range(0..20) {
        _ if calm.load(Ordering::Relaxed) => Fault::None,
        0 => Fault::Before,
        1 => Fault::After,
        _ => Fault::None,
    }
}

async fn live(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (calm, server) = (Arc::new(AtomicBool::new(false)), Shared::default());
    let (tell, mut answers) = mpsc::unbounded_channel();
    let wild = whatsapp(seed + 1, Arc::clone(&calm), tell, Arc::clone(&server));
    let unpaced = random.random_bool(0.7);
    let settings = Snapshot {
        delay: if unpaced { Duration::ZERO } else { Duration::from_millis(300) },
        max_attempts: 10_000,
        max_age: Duration::ZERO,
        ..Snapshot::default()
    };
    let shake = shaky(seed + 2, Arc::clone(&calm));
    let session = Arc::clone(&wild) as Arc<dyn WhatsApp>;
    let mut world = World::with(settings, Some(session), |store| Shaky::wrap(store, shake)).await;

    let lanes = [Lane::Reply, Lane::Normal, Lane::Low];
    let mut accepted = Vec::new();
    for _ in 0..60 {
        let drafts: Vec<Draft> = (0..random.random_range(1..4))
            .map(|_| {
                let lane = lanes[random.random_range(0..3)];
                Draft { text: format!("{lane:?}"), ..draft(random.random_range(0..5), lane) }
            })
            .collect();
        if let Ok(Accepted::Fresh(placed)) = world.queue.enqueue(drafts, None).await {
            accepted.extend(placed.into_iter().map(|placed| placed.id));
        }
        match random.random_range(0..12) {
            0 => wild.set(offline()),
            1 | 2 => wild.set(LinkState::Connected),
            3 if random.random_bool(0.3) => world.restart().await,
            _ => {}
        }
        deliver(&world, &server, &mut answers).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
    }
    calm.store(true, Ordering::Relaxed);
    wild.set(LinkState::Connected);
    // Whatever backs off now has had its turn after that.
    for _ in 0..400 {
        deliver(&world, &server, &mut answers).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }

    // Everything accepted arrived, also what the store took without being able to say so.
    let rows = world.store.outbox.list(crate::store::ListFilter { limit: 1000, ..Default::default() }).await.unwrap();
    assert!(accepted.iter().all(|id| rows.iter().any(|row| row.id == *id)));
    let Server { arrived, out_of_turn, .. } = std::mem::take(&mut *server.lock().unwrap());
    assert!(out_of_turn.is_empty(), "{out_of_turn:?} went out of turn in life {seed}");
    let place: HashMap<_, _> = arrived.iter().enumerate().map(|(n, id)| (id.clone(), n)).collect();
    let mut last: HashMap<_, usize> = HashMap::new();
    for row in rows.iter().rev() {
        assert_eq!(row.status, Status::Sent, "{row:?} {:?} in life {seed}", row.error);
        let place = *place.get(&row.whatsapp_id).unwrap_or_else(|| panic!("{row:?} never arrived in life {seed}"));
        // Order holds per chat within a lane, among those whose acceptance was answered.
        if !accepted.contains(&row.id) {
            continue;
        }
        if let Some(before) = last.insert((row.lane, row.chat.clone()), place) {
            assert!(before < place, "{row:?} overtook one of its chat in life {seed}");
        }
    }
    let standing = world.queue.standing();
    assert_eq!((standing.in_flight, standing.waiting, standing.scheduled), (0, [0; 4], 0), "life {seed}");
    world.stop().await;
}

/// Says what the server has to say so far, each after its time.
async fn deliver(world: &World, server: &Shared, answers: &mut mpsc::UnboundedReceiver<Answer>) {
    tokio::task::yield_now().await;
    while let Ok(Answer { id, refused, after }) = answers.try_recv() {
        let (queue, server) = (world.queue.clone(), Arc::clone(server));
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if refused.is_none() {
                server.lock().unwrap().acked.insert(id.clone());
            }
            queue.on_server_ack(id, refused);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn in_the_end_everything_arrived_in_order(seed in any::<u32>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(live(u64::from(seed)));
    }
}

/// A restart in between let one pass that had left before.
#[test]
fn a_life_that_once_went_wrong() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(live(1_635_152_748));
}
