//! What the link-state machine promises.

use proptest::prelude::*;

use super::*;
use crate::model::PasskeyStep;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + seconds * 1000)
}

fn lost(reason: &str) -> Input {
    Input::Ended(Ended { trouble: Some(reason.to_owned()), throttled: false })
}

/// A machine that went through `inputs`, one a second.
fn after(linked: bool, inputs: impl IntoIterator<Item = Input>) -> (Machine, Timestamp) {
    let mut machine = Machine::new(linked);
    let mut now = at(0);
    for (second, input) in (1..).zip(inputs) {
        now = at(second);
        machine.take(input, now, 0.5);
    }
    (machine, now)
}

#[test]
fn an_account_is_paired_logged_in_and_comes_back_after_a_loss() {
    let (mut machine, _) = after(false, []);
    assert_eq!(machine.plan(at(0)), Plan::Rest);

    machine.take(Input::PairAsked(PairingMethod::Qr), at(1), 0.0);
    assert_eq!(machine.plan(at(1)), Plan::Connect(Task::Pair(PairingMethod::Qr)));
    machine.take(Input::Shown { qr: Some("1".into()), code: None, expires_at: at(60) }, at(2), 0.0);
    machine.take(Input::Paired, at(3), 0.0);
    assert_eq!(*machine.link(), LinkState::Connecting);

    // The server closes after pairing and wants the login at once.
    machine.take(Input::Ended(Ended::default()), at(3), 0.0);
    assert_eq!(machine.plan(at(3)), Plan::Connect(Task::LogIn));
    machine.take(Input::LoggedIn, at(4), 0.0);
    assert!(machine.link().is_connected() && machine.keeps_connection());

    machine.take(lost("the cable is out"), at(100), 1.0);
    let LinkState::Offline { reason, retry_at: Some(retry_at) } = machine.link().clone() else {
        panic!("{:?}", machine.link())
    };
    assert_eq!(reason.0, "the cable is out");
    assert_eq!(machine.plan(at(100)), Plan::Wait(retry_at));
    assert_eq!(machine.plan(retry_at), Plan::Connect(Task::LogIn));
}

#[test]
fn a_clock_that_goes_back_keeps_nobody_offline() {
    let machine = after(true, [Input::LoggedIn, lost("x")]).0;
    let now = Timestamp::from_millis(1_000_000 - 900_000);
    assert_eq!(machine.plan(now), Plan::Connect(Task::LogIn));
}

#[test]
fn every_state_is_reachable() {
    let pairing = || Input::PairAsked(PairingMethod::Qr);
    let cases: Vec<(&str, bool, Vec<Input>)> = vec![
        ("unpaired", false, vec![]),
        ("pairing", false, vec![pairing()]),
        ("connecting", true, vec![]),
        ("connected", true, vec![Input::LoggedIn]),
        ("offline", true, vec![lost("x")]),
        ("replaced", true, vec![Input::LoggedIn, Input::Replaced]),
        ("logged_out", true, vec![Input::LoggedOut { reason: "x".into(), certain: false }]),
        ("locked", true, vec![Input::Locked]),
        ("banned", true, vec![Input::Banned { until: None }]),
        ("outdated", true, vec![Input::Outdated]),
        ("passkey_required", false, vec![pairing(), passkey_asked()]),
    ];
    for (name, linked, inputs) in cases {
        assert_eq!(after(linked, inputs).0.link().name(), name);
    }
}

#[test]
fn waits_double_up_to_the_longest_and_start_over_after_a_stable_connection() {
    assert_eq!(delay(0, 1.0), FIRST_DELAY);
    assert_eq!(delay(1, 1.0), FIRST_DELAY * 2);
    assert_eq!(delay(40, 1.0), LONGEST_DELAY);
    assert_eq!(delay(3, 0.0), FIRST_DELAY * 4);

    let (mut machine, _) = after(true, (0..9).map(|_| lost("x")));
    machine.dial();
    machine.take(Input::LoggedIn, at(1000), 1.0);
    machine.take(lost("x"), at(1030), 1.0);
    assert_eq!(machine.plan(at(1030)), Plan::Wait(at(1031)));
}

#[test]
fn being_told_to_slow_down_makes_the_wait_long() {
    let (mut machine, _) = after(true, [Input::LoggedIn]);
    machine.take(Input::Ended(Ended { trouble: Some("429".into()), throttled: true }), at(100), 1.0);
    assert_eq!(machine.plan(at(100)), Plan::Wait(at(132)));
}

#[test]
fn a_wanted_restart_is_at_once_but_not_in_a_loop() {
    let (mut machine, _) = after(true, [Input::LoggedIn]);
    machine.take(Input::Ended(Ended::default()), at(10), 0.5);
    assert_eq!(machine.plan(at(10)), Plan::Connect(Task::LogIn));
    machine.take(Input::Ended(Ended::default()), at(11), 0.5);
    assert_eq!(machine.link().name(), "offline");
}

#[test]
fn a_pairing_that_nobody_answers_ends_and_asking_again_keeps_it() {
    let (mut machine, _) = after(false, [Input::PairAsked(PairingMethod::Qr)]);
    machine.take(Input::PairAsked(PairingMethod::Qr), at(200), 0.5);
    machine.take(Input::Tick, at(400), 0.5);
    assert_eq!(machine.link().name(), "pairing");
    machine.take(Input::Tick, at(501), 0.5);
    assert_eq!(*machine.link(), LinkState::Unpaired);
    assert!(!machine.keeps_connection());
}

#[test]
fn an_unreachable_server_while_pairing_shows_its_reason_and_is_tried_again() {
    let (machine, now) = after(false, [Input::PairAsked(PairingMethod::Qr), lost("refused")]);
    assert_eq!(machine.link().name(), "offline");
    let Plan::Wait(then) = machine.plan(now) else { panic!("{:?}", machine.plan(now)) };
    assert_eq!(machine.plan(then), Plan::Connect(Task::Pair(PairingMethod::Qr)));
}

#[test]
fn keys_go_only_when_that_is_certain() {
    let removed = |certain| Input::LoggedOut { reason: "x".into(), certain };
    assert_eq!(after(true, [removed(true)]).0.take_discard(), Some(Discard::Delete));
    assert_eq!(after(true, [removed(false)]).0.take_discard(), Some(Discard::SetAside));
    for input in [Input::Locked, Input::Replaced, Input::Outdated, Input::Banned { until: None }, lost("x")] {
        assert_eq!(after(true, [input]).0.take_discard(), None);
    }
}

#[test]
fn what_the_server_says_after_a_logout_changes_nothing() {
    for certain in [true, false] {
        let late = Input::LoggedOut { reason: "x".into(), certain };
        let (mut machine, _) = after(true, [Input::Forgotten, late]);
        assert_eq!(machine.take_discard(), Some(Discard::Delete));
        assert_eq!(machine.link(), &LinkState::Unpaired);
    }
}

#[test]
fn a_refused_pairing_is_not_asked_for_again_at_once() {
    let refused = Input::PairingRefused("WhatsApp gave no pairing code".into());
    let (machine, now) = after(false, [Input::PairAsked(PairingMethod::Code("6281".into())), refused]);
    let Plan::Wait(then) = machine.plan(now) else { panic!("{:?}", machine.plan(now)) };
    assert!(then.since(now) >= Duration::from_secs(16), "{:?}", then.since(now));
}

#[test]
fn a_login_while_pairing_means_that_there_is_an_account() {
    let (machine, _) = after(false, [Input::PairAsked(PairingMethod::Qr), Input::LoggedIn]);
    assert_eq!(machine.link(), &LinkState::Connected);
    assert!(machine.is_linked() && machine.pairing_ends().is_none());
}

#[test]
fn a_ban_ends_by_itself_at_its_time() {
    let (machine, now) = after(true, [Input::Banned { until: Some(at(600)) }]);
    assert_eq!(machine.plan(now), Plan::Wait(at(600)));
    assert_eq!(machine.plan(at(600)), Plan::Connect(Task::LogIn));
}

fn resting_states() -> [LinkState; 5] {
    [
        LinkState::Replaced,
        LinkState::Locked,
        LinkState::Banned { until: Some(at(600)) },
        LinkState::Banned { until: None },
        LinkState::LoggedOut { reason: "the device was unlinked from the phone".into() },
    ]
}

/// As after a restart at `now`, where only a logout leaves no keys.
fn restored(link: &LinkState, now: Timestamp) -> Machine {
    Machine::restore(link.name() != "logged_out", link.clone(), at(0), now)
}

#[test]
fn a_restart_changes_no_resting_state_and_makes_no_connection() {
    for link in resting_states() {
        let machine = restored(&link, at(10));
        assert_eq!(*machine.link(), link);
        assert_eq!(machine.resting(), Some(&link));
        assert!(!matches!(machine.plan(at(10)), Plan::Connect(_)), "{link:?}: {:?}", machine.plan(at(10)));
        assert!(!machine.keeps_connection());
    }
}

#[test]
fn a_restored_state_is_left_as_any_other() {
    for link in resting_states() {
        let mut machine = restored(&link, at(10));
        let (asked, task) = if machine.is_linked() {
            (Input::ReconnectAsked, Task::LogIn)
        } else {
            (Input::PairAsked(PairingMethod::Qr), Task::Pair(PairingMethod::Qr))
        };
        machine.take(asked, at(11), 0.5);
        assert_eq!(machine.plan(at(11)), Plan::Connect(task), "{link:?}");
        assert_eq!(machine.resting(), None, "{link:?}");

        let mut machine = restored(&link, at(10));
        machine.take(Input::Forgotten, at(11), 0.5);
        assert_eq!((machine.link(), machine.resting()), (&LinkState::Unpaired, None), "{link:?}");
        assert_eq!(machine.take_discard(), Some(Discard::Delete));
    }
}

#[test]
fn a_ban_goes_on_over_a_restart_and_ends_at_its_time() {
    let until = |end| LinkState::Banned { until: Some(end) };
    assert_eq!(restored(&until(at(600)), at(599)).plan(at(599)), Plan::Wait(at(600)));
    assert_eq!(restored(&until(at(600)), at(599)).plan(at(600)), Plan::Connect(Task::LogIn));
    assert_eq!(*restored(&until(at(600)), at(600)).link(), LinkState::Connecting, "it was over at the start");

    let open = LinkState::Banned { until: None };
    let looks = at(0).plus(BAN_WITHOUT_END);
    assert_eq!(restored(&open, at(60)).plan(at(60)), Plan::Wait(looks));
    assert_eq!(*restored(&open, looks).link(), LinkState::Connecting);
    // The clock was set back by a day.
    let machine = Machine::restore(true, open, at(86_400), at(0));
    assert_eq!(machine.plan(at(0)), Plan::Wait(looks));
}

#[test]
fn what_does_not_fit_the_keys_or_does_not_rest_is_not_restored() {
    for link in resting_states() {
        let linked = link.name() == "logged_out";
        let fresh = if linked { LinkState::Connecting } else { LinkState::Unpaired };
        assert_eq!(*Machine::restore(linked, link, at(0), at(10)).link(), fresh);
    }
    let asked = LinkState::PasskeyRequired { step: PasskeyStep::default() };
    let others = [LinkState::Connected, LinkState::Outdated, asked, offline("x", Some(at(500)))];
    for link in others {
        assert_eq!(*Machine::restore(true, link, at(0), at(10)).link(), LinkState::Connecting);
    }
}

fn passkey_asked() -> Input {
    Input::Passkey(PasskeyInput::Asked { request: "{}".to_owned(), expires_at: Some(at(60)) })
}

fn step(machine: &Machine) -> &PasskeyStep {
    let LinkState::PasskeyRequired { step } = machine.link() else { panic!("{:?}", machine.link()) };
    step
}

#[test]
fn a_passkey_is_asked_for_answered_and_compared_on_one_connection() {
    let (mut machine, _) = after(false, [Input::PairAsked(PairingMethod::Qr), passkey_asked()]);
    let mut seen = vec![step(&machine).name()];
    for (second, input) in (3..).zip([
        // Codes go on being made; there is nothing to scan any more.
        Input::Shown { qr: Some("2@x".into()), code: None, expires_at: at(60) },
        Input::Passkey(PasskeyInput::Answered),
        Input::Passkey(PasskeyInput::Answered),
        Input::Passkey(PasskeyInput::Code("ABCD-EFGH".into())),
        Input::Passkey(PasskeyInput::Answered),
        Input::Passkey(PasskeyInput::Confirmed),
    ]) {
        machine.take(input, at(second), 0.5);
        assert_eq!(machine.plan(at(second)), Plan::Connect(Task::Pair(PairingMethod::Qr)));
        assert!(machine.keeps_connection());
        seen.push(step(&machine).name());
    }
    assert_eq!(seen, ["asked", "asked", "answered", "answered", "compare", "compare", "answered"]);
    machine.take(Input::Paired, at(20), 0.5);
    machine.take(Input::Ended(Ended::default()), at(20), 0.5);
    assert_eq!(machine.plan(at(20)), Plan::Connect(Task::LogIn));
}

#[test]
fn a_passkey_that_comes_to_nothing_says_why_rests_and_can_be_asked_for_again() {
    let failed = || Input::PairingFailed("no".into());
    for (input, reason) in [
        (failed(), "no"),
        (lost("the cable is out"), "the cable is out, before the request for a passkey was dealt with"),
        (
            Input::Ended(Ended::default()),
            "WhatsApp ended the connection, before the request for a passkey was dealt with",
        ),
    ] {
        let (mut machine, now) = after(false, [Input::PairAsked(PairingMethod::Qr), passkey_asked(), input]);
        assert_eq!(*step(&machine), PasskeyStep::Over { reason: reason.to_owned() });
        assert_eq!(machine.plan(now), Plan::Rest);
        assert!(!machine.keeps_connection());
        // What comes late changes nothing.
        for late in [passkey_asked(), Input::Passkey(PasskeyInput::Answered), failed(), Input::Tick, lost("x")] {
            machine.take(late, now, 0.5);
            assert_eq!(step(&machine).name(), "over");
        }
        machine.take(Input::PairAsked(PairingMethod::Qr), now, 0.5);
        assert_eq!(machine.plan(now), Plan::Connect(Task::Pair(PairingMethod::Qr)));
    }
}

#[test]
fn a_request_for_a_passkey_lasts_as_long_as_a_pairing_from_when_it_came() {
    let (mut machine, _) = after(false, [Input::PairAsked(PairingMethod::Qr)]);
    machine.take(passkey_asked(), at(250), 0.5);
    machine.take(Input::Tick, at(549), 0.5);
    assert_eq!(step(&machine).name(), "asked");
    machine.take(Input::Tick, at(550), 0.5);
    assert_eq!(step(&machine).name(), "over");
    assert!(!machine.keeps_connection());
}

#[test]
fn asking_for_the_other_way_gives_the_passkey_up() {
    let (mut machine, now) = after(false, [Input::PairAsked(PairingMethod::Qr), passkey_asked()]);
    let before = machine.plan(now);
    machine.take(Input::PairAsked(PairingMethod::Qr), now, 0.5);
    assert_eq!((step(&machine).name(), machine.plan(now)), ("asked", before.clone()));
    machine.take(Input::PairAsked(PairingMethod::Code("6281".into())), now, 0.5);
    assert_eq!(machine.link().name(), "pairing");
    assert_ne!(machine.plan(now), before);
}

fn any_passkey_input() -> impl Strategy<Value = PasskeyInput> {
    prop_oneof![
        Just(PasskeyInput::Asked { request: "{}".into(), expires_at: None }),
        Just(PasskeyInput::Answered),
        Just(PasskeyInput::Code("ABCD-EFGH".into())),
        Just(PasskeyInput::Confirmed),
    ]
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::PairAsked(PairingMethod::Qr)),
        Just(Input::PairAsked(PairingMethod::Code("6281".into()))),
        (0..600u64).prop_map(|s| Input::Shown { qr: Some("q".into()), code: None, expires_at: at(s) }),
        Just(Input::PairingFailed("p".into())),
        Just(Input::PairingRefused("r".into())),
        Just(Input::Paired),
        Just(Input::LoggedIn),
        Just(Input::MeChanged),
        Just(Input::Replaced),
        any::<bool>().prop_map(|certain| Input::LoggedOut { reason: "l".into(), certain }),
        Just(Input::Locked),
        proptest::option::of(0..600u64).prop_map(|s| Input::Banned { until: s.map(at) }),
        Just(Input::Outdated),
        Just(Input::VersionRenewed),
        any_passkey_input().prop_map(Input::Passkey),
        Just(lost("e")),
        Just(Input::Ended(Ended::default())),
        Just(Input::Tick),
        Just(Input::ReconnectAsked),
        Just(Input::Forgotten),
        Just(Input::Stopped),
    ]
}

proptest! {
    #[test]
    fn holds_whatever_happens(
        linked in any::<bool>(),
        inputs in proptest::collection::vec((any_input(), 0..400u64, 0.0..1.0f64), 0..60),
    ) {
        let mut machine = Machine::new(linked);
        let mut seconds = 0;
        for (input, passed, chance) in inputs {
            seconds += passed;
            let now = at(seconds);
            let before = machine.link().clone();
            let was_linked = machine.is_linked();
            machine.take(input.clone(), now, chance);
            let plan = machine.plan(now);

            // A state that needs the user is left on somebody's word only.
            if before == LinkState::Replaced && machine.link() != &before {
                prop_assert!(matches!(
                    input,
                    Input::ReconnectAsked | Input::Forgotten | Input::Stopped | Input::LoggedOut { .. }
                        | Input::Locked | Input::Banned { .. } | Input::Outdated
                ), "{input:?}");
            }
            if matches!(machine.link(), LinkState::Replaced | LinkState::Locked | LinkState::Outdated) {
                prop_assert_eq!(&plan, &Plan::Rest);
                prop_assert!(!machine.keeps_connection());
            }
            // A connection is held for a passkey exactly as long as it may be answered.
            if let LinkState::PasskeyRequired { step } = machine.link() {
                prop_assert_eq!(machine.keeps_connection(), step.is_open());
                prop_assert!(step.is_open() || plan == Plan::Rest);
                prop_assert!(!machine.is_linked());
            }
            if machine.link().name() == "logged_out" && before.name() != "logged_out" {
                let by_the_server = matches!(input, Input::LoggedOut { .. });
                prop_assert!(by_the_server);
            }
            // Keys are lost by a logout alone, and used only when there are any.
            if was_linked && !machine.is_linked() {
                let by_a_logout = matches!(input, Input::LoggedOut { .. } | Input::Forgotten);
                prop_assert!(by_a_logout);
            }
            if plan == Plan::Connect(Task::LogIn) {
                prop_assert!(machine.is_linked());
            }
            if matches!(plan, Plan::Connect(Task::Pair(_))) {
                prop_assert!(!machine.is_linked());
            }
            // Being offline always has an end, and a near one.
            if let LinkState::Offline { retry_at, .. } = machine.link() {
                if machine.is_stopped() {
                    prop_assert_eq!(&plan, &Plan::Rest);
                } else {
                    let retry_at = retry_at.expect("an end");
                    prop_assert!(before == *machine.link() || retry_at <= now.plus(LONGEST_DELAY));
                }
            }
            if machine.is_stopped() {
                break;
            }
            // A restart here changes nothing that rests, and invents nothing.
            if let Some(link) = machine.resting() {
                let again = Machine::restore(machine.is_linked(), link.clone(), now, now);
                match again.resting() {
                    Some(same) => prop_assert_eq!(same, link),
                    None => prop_assert!(matches!(plan, Plan::Connect(_)), "{:?}", link),
                }
                if matches!(again.plan(now), Plan::Connect(_)) {
                    prop_assert!(matches!(plan, Plan::Connect(_)));
                }
            }
            if let Plan::Connect(_) = plan {
                // What a passkey is asked for on is there already.
                if machine.link().name() != "passkey_required" {
                    machine.dial();
                }
                prop_assert!(machine.keeps_connection());
            }
        }
    }
}
