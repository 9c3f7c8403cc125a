//! Without the right keys nobody reads anything.

use waya_daemon::model::WhatsAppId;
use waya_daemon::session::{SendError, WaEvent};
use waya_sandbox::emulator::{Fault, FaultTarget};

use crate::world::World;

/// The person's own key bundle with one bit of its signature turned: a server that wants to listen in would give out
/// such a thing. The text goes to no device of that person then, and nobody is told that it was sent.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_encrypted_for_a_forged_key() {
    let mut world = World::connected(2).await;
    let forged = FaultTarget::Phone(world.phone(0));
    world.emulator().set_fault(Fault::GarbleBundles, forged.clone());
    let (id, text) = ("3EB0000000000000000021", "rahasia");
    // The own phone could get its copy; that alone would be acknowledged by the server.
    let refused = world.send(id, &world.chat(0), text).await;
    assert!(matches!(refused, Err(SendError::Transient(_))), "{refused:?}");

    // Somebody else's keys are their own; what is sent later has arrived when this has.
    world.send("3EB0000000000000000022", &world.chat(1), text).await.unwrap();
    assert_eq!(world.arrived(1, text).await, 1);
    let person = world.sandbox.people().all().swap_remove(0);
    let inbox = person.inbox();
    assert!(inbox.entries().is_empty(), "{:?}", inbox.entries());
    let wanted = WhatsAppId(id.to_owned());
    let received = |event: &WaEvent| matches!(event, WaEvent::Receipt { ids, .. } if ids.contains(&wanted));
    assert!(!world.untaken().iter().any(received), "{:?}", world.untaken());

    // With the person's own keys the same message arrives.
    world.emulator().clear_faults(&forged);
    world.send(id, &world.chat(0), text).await.unwrap();
    assert_eq!(world.arrived(0, text).await, 1);
    world.event(|event| received(event).then_some(())).await;
    world.end().await;
}
