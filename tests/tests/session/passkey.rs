//! Linking an account that is guarded by a passkey.

use waya_daemon::model::{ChatId, LinkState, PairingMethod, PasskeyStep};
use waya_daemon::session::passkey::{BadAnswer, PasskeyAnswer};
use waya_daemon::session::{SessionError, WaEvent};
use waya_sandbox::emulator::{Fault, FaultTarget, ScanError, passkey_answer};

use crate::world::World;

impl World {
    /// The request as it is shown.
    async fn passkey_request(&self) -> String {
        let asked = |state: &LinkState| matches!(state, LinkState::PasskeyRequired { step: PasskeyStep::Asked { .. } });
        match self.until_state(asked).await.unwrap() {
            LinkState::PasskeyRequired { step: PasskeyStep::Asked { request, expires_at: Some(_) } } => request,
            state => panic!("{state:?}"),
        }
    }

    /// The code to compare as it is shown.
    async fn passkey_code(&self) -> String {
        let compare =
            |state: &LinkState| matches!(state, LinkState::PasskeyRequired { step: PasskeyStep::Compare { .. } });
        match self.until_state(compare).await.unwrap() {
            LinkState::PasskeyRequired { step: PasskeyStep::Compare { code } } => code,
            state => panic!("{state:?}"),
        }
    }

    /// Why it came to nothing.
    async fn passkey_over(&self) -> String {
        let over = |state: &LinkState| matches!(state, LinkState::PasskeyRequired { step: PasskeyStep::Over { .. } });
        match self.until_state(over).await.unwrap() {
            LinkState::PasskeyRequired { step: PasskeyStep::Over { reason } } => reason,
            state => panic!("{state:?}"),
        }
    }

    /// Has the owner's phone scan a code, which WhatsApp answers with a request for the passkey.
    async fn scan_guarded(&self) -> String {
        self.session.pair(PairingMethod::Qr).await.unwrap();
        let shown = |state: &LinkState| matches!(state, LinkState::Pairing { qr: Some(_), .. });
        let LinkState::Pairing { qr: Some(qr), .. } = self.until_state(shown).await.unwrap() else { unreachable!() };
        let scanned = self.emulator().scan_qr(&qr, Some(self.sandbox.own_phone())).await;
        assert_eq!(scanned, Err(ScanError::PasskeyAsked));
        self.passkey_request().await
    }

    /// From the code to the link, with a message that goes each way.
    async fn confirm_and_talk(&mut self) {
        let code = self.passkey_code().await;
        assert_eq!(self.emulator().passkey_code(self.sandbox.own_phone()), Some(code), "the phone shows the same");
        self.session.confirm_passkey().await.unwrap();
        self.until("connected").await;
        assert_eq!(self.devices().len(), 1);
        self.send("3EB0AA", &self.chat(0), "with a passkey").await.unwrap();
        let acked = self
            .event(|event| matches!(event, WaEvent::ServerAck { id, refused: None } if id.0 == "3EB0AA").then_some(()));
        acked.await;
        assert_eq!(self.arrived(0, "with a passkey").await, 1);
        self.say(0, "and back", None).await;
        let rows = self.journal.rows(1).await;
        assert_eq!((rows[0].text.as_str(), &rows[0].sender), ("and back", &ChatId::phone(&self.phone(0))));
    }
}

/// What the passkey answers, as it is read from what a browser writes.
fn signed(request: &str) -> PasskeyAnswer {
    PasskeyAnswer::read(&passkey_answer(request).unwrap(), request).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_links_the_account_once_the_codes_were_compared() {
    let mut world = World::unpaired(1).await;
    world.fault(Fault::Passkey);
    let request = world.scan_guarded().await;
    assert!(request.contains("\"challenge\"") && request.contains("web.whatsapp.com"), "{request}");
    assert_eq!(world.session.confirm_passkey().await, Err(SessionError::NoCodeToConfirm));
    assert_eq!(world.passkey_request().await, request, "a word out of place ends nothing");
    world.session.answer_passkey(signed(&request)).await.unwrap();
    world.confirm_and_talk().await;
    assert_eq!(world.session.answer_passkey(signed(&request)).await, Err(SessionError::NoPasskeyAsked));

    world.restart().await;
    world.until("connected").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_typed_on_the_phone_leads_to_the_passkey_as_well() {
    let mut world = World::unpaired(1).await;
    world.fault(Fault::Passkey);
    let phone = world.sandbox.own_phone().to_owned();
    world.session.pair(PairingMethod::Code(phone.clone())).await.unwrap();
    let shown = |state: &LinkState| matches!(state, LinkState::Pairing { code: Some(_), .. });
    let LinkState::Pairing { code: Some(code), .. } = world.until_state(shown).await.unwrap() else { unreachable!() };
    assert_eq!(world.emulator().enter_pair_code(&phone, &code).await, Err(ScanError::PasskeyAsked));
    let request = world.passkey_request().await;
    world.session.answer_passkey(signed(&request)).await.unwrap();
    world.confirm_and_talk().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_whatsapp_refuses_can_be_followed_by_a_right_one() {
    let mut world = World::unpaired(1).await;
    world.fault(Fault::Passkey);
    let request = world.scan_guarded().await;
    let right = signed(&request);
    // Of the right form, for the request of another day: the use cases find that out, WhatsApp does too.
    let other = request.replacen("\"challenge\":\"", "\"challenge\":\"AAAA", 1);
    let stale = passkey_answer(&other).unwrap();
    assert!(matches!(
        PasskeyAnswer::read(&stale, &request),
        Err(BadAnswer::Field { field: "response.clientDataJSON", .. })
    ));
    let refused = world.session.answer_passkey(PasskeyAnswer::read(&stale, &other).unwrap()).await;
    assert!(matches!(&refused, Err(SessionError::Refused(why)) if why.contains("another-challenge")), "{refused:?}");
    let refused = world.session.answer_passkey(PasskeyAnswer { credential_id: b"?".to_vec(), ..right.clone() }).await;
    assert!(matches!(&refused, Err(SessionError::Refused(why)) if why.contains("unknown-credential")), "{refused:?}");
    assert_eq!(world.passkey_request().await, request, "it still stands");
    world.session.answer_passkey(right).await.unwrap();
    world.confirm_and_talk().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_at_any_step_says_so_and_linking_can_begin_again() {
    let mut world = World::unpaired(1).await;
    world.fault(Fault::Passkey);
    for step in ["asked", "answered", "compare"] {
        let request = world.scan_guarded().await;
        if step != "asked" {
            world.session.answer_passkey(signed(&request)).await.unwrap();
        }
        if step == "compare" {
            world.passkey_code().await;
        }
        world.emulator().set_fault(Fault::Cut, FaultTarget::All);
        let reason = world.passkey_over().await;
        assert!(reason.contains("before the request for a passkey was dealt with"), "{step}: {reason}");
        assert_eq!(world.session.answer_passkey(signed(&request)).await, Err(SessionError::NoPasskeyAsked), "{step}");
        assert_eq!(world.session.confirm_passkey().await, Err(SessionError::NoCodeToConfirm), "{step}");
    }
    let request = world.scan_guarded().await;
    world.session.answer_passkey(signed(&request)).await.unwrap();
    world.confirm_and_talk().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_can_be_given_up_and_without_the_demand_nothing_is_asked() {
    let world = World::unpaired(0).await;
    world.fault(Fault::Passkey);
    let request = world.scan_guarded().await;
    world.session.logout().await.unwrap();
    assert_eq!(world.session.link().borrow().state, LinkState::Unpaired);
    assert_eq!(world.session.answer_passkey(signed(&request)).await, Err(SessionError::NoPasskeyAsked));
    world.mend();
    world.session.pair(PairingMethod::Qr).await.unwrap();
    world.scan().await;
    world.until("connected").await;
    world.end().await;
}
