//! What members may do with a group, who hears of it, and what is refused.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Person, World};
use waya_sandbox::emulator::{EmulatorConfig, GroupInfo};
use whatsapp_rust::features::{GroupError, PreviousDescription};
use whatsapp_rust::request::InfoQuery;
use whatsapp_rust::wacore::iq::groups::{
    GroupDescription, GroupSubject, JoinGroupResult, MemberAddMode, MembershipApprovalMode,
};
use whatsapp_rust::wacore::iq::spec::IqSpec;
use whatsapp_rust::wacore::stanza::groups::GroupNotificationAction as Action;
use whatsapp_rust::wacore::types::events::Event;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore_binary::{Jid, Node, NodeContent, NodeRef};

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";
const CITRA: &str = "6281200000003";
const DEWI: &str = "6281200000004";

/// Three people online; the first two are in a group that the first one made.
struct Team {
    world: World,
    ani: Person,
    budi: Person,
    citra: Person,
    group: Jid,
}

impl Team {
    async fn start(pn_only: bool) -> Self {
        let world = World::with(EmulatorConfig { pn_only, ..support::config() }).await;
        let ani = world.link(ANI, "Ani").await;
        let budi = world.link(BUDI, "Budi").await;
        let citra = world.link(CITRA, "Citra").await;
        let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
        Self { world, ani, budi, citra, group: group.jid.parse().unwrap() }
    }

    fn info(&self) -> GroupInfo {
        self.world.emulator.groups().into_iter().find(|group| group.jid == self.group.to_string()).unwrap()
    }
}

/// The next change of a group that is like this.
async fn hears(person: &mut Person, what: &str, wanted: impl Fn(&Action) -> bool) {
    person
        .wait(what, |event| match event {
            Event::GroupUpdate(update) if wanted(&update.action) => Some(()),
            _ => None,
        })
        .await;
}

type Wanted<'a> = (&'a str, fn(&Action) -> bool);

/// All of these changes, in whichever order the client handles them.
async fn hears_all(person: &mut Person, wanted: &[Wanted<'_>]) {
    let mut missing = wanted.to_vec();
    while let Some((what, _)) = missing.first() {
        let found = person
            .wait(what, |event| match event {
                Event::GroupUpdate(update) => missing.iter().position(|(_, wanted)| wanted(&update.action)),
                _ => None,
            })
            .await;
        missing.remove(found);
    }
}

/// The code of an error that the server sent.
fn code<T>(result: Result<T, impl std::fmt::Debug>) -> String {
    let Err(error) = result else { panic!("it was not refused") };
    let text = format!("{error:?}");
    text.split("code: ").nth(1).and_then(|rest| rest.get(..3)).unwrap_or(&text).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_and_rise_by_an_admins_word_only() {
    for pn_only in [false, true] {
        let mut team = Team::start(pn_only).await;
        let (citra, nobody) = (Jid::pn(CITRA), Jid::pn("6289999999999"));
        let (ani, budi) = (team.ani.client.clone(), team.budi.client.clone());
        let (groups, by_budi) = (ani.groups(), budi.groups());
        let added = groups.add_participants(&team.group, &[citra.clone(), nobody, Jid::pn(BUDI)]).await.unwrap();
        let errors: Vec<_> = added.iter().map(|answer| answer.error.as_deref()).collect();
        assert_eq!(errors, [None, Some("404"), Some("409")]);
        let (to_budi, to_citra) = (&mut team.budi, &mut team.citra);
        hears(
            to_budi,
            "the new member",
            |action| matches!(action, Action::Add { participants, .. } if participants.len() == 1),
        )
        .await;
        hears(to_citra, "that she is in it", |action| matches!(action, Action::Add { .. })).await;

        // The new member reads what is said now, and is heard.
        team.ani.say(&team.group.to_string(), "welcome").await;
        assert_eq!(team.citra.text().await.text, "welcome");
        team.citra.say(&team.group.to_string(), "thanks").await;
        assert_eq!(team.budi.text().await.text, "welcome");
        assert_eq!(team.budi.text().await.text, "thanks");

        assert_eq!(code(by_budi.remove_participants(&team.group, std::slice::from_ref(&citra)).await), "403");
        groups.promote_participants(&team.group, &[Jid::pn(BUDI)]).await.unwrap();
        hears(&mut team.citra, "the admin", |action| matches!(action, Action::Promote { .. })).await;
        assert_eq!(team.info().admins, [ANI, BUDI]);
        let removed = by_budi.remove_participants(&team.group, &[citra, Jid::pn(ANI)]).await.unwrap();
        assert_eq!(removed[1].error.as_deref(), Some("406"), "the creator stays");
        hears(&mut team.citra, "that she is out", |action| matches!(action, Action::Remove { .. })).await;
        assert_eq!(team.info().members, [ANI, BUDI]);
        assert!(team.citra.client.groups().get_metadata(&team.group).await.is_err());
        groups.demote_participants(&team.group, &[Jid::pn(BUDI)]).await.unwrap();
        assert_eq!(team.info().admins, [ANI]);

        groups.leave(&team.group).await.unwrap();
        let changes: [Wanted<'_>; 2] = [
            ("who left", |action| matches!(action, Action::Remove { .. })),
            ("his new post", |action| matches!(action, Action::Promote { .. })),
        ];
        hears_all(&mut team.budi, &changes).await;
        assert_eq!((team.info().members, team.info().admins), (vec![BUDI.to_owned()], vec![BUDI.to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_group_is_called_and_allows_is_changed_and_told() {
    let mut team = Team::start(support::config().pn_only).await;
    let (ani, budi) = (team.ani.client.clone(), team.budi.client.clone());
    let (ani, budi) = (ani.groups(), budi.groups());
    budi.set_subject(&team.group, GroupSubject::new("Team B").unwrap()).await.unwrap();
    hears(&mut team.ani, "the name", |action| matches!(action, Action::Subject { subject, .. } if subject == "Team B"))
        .await;
    let text = || Some(GroupDescription::new("What we do").unwrap());
    budi.set_description(&team.group, text(), PreviousDescription::Absent).await.unwrap();
    hears(
        &mut team.ani,
        "the text",
        |action| matches!(action, Action::Description { description: Some(text), .. } if text == "What we do"),
    )
    .await;
    let stale = ani.set_description(&team.group, text(), PreviousDescription::Id("elsewhere")).await;
    assert!(matches!(stale, Err(GroupError::DescriptionConflict)), "{stale:?}");

    ani.set_locked(&team.group, true).await.unwrap();
    ani.set_announce(&team.group, true).await.unwrap();
    ani.set_ephemeral(&team.group, 86_400).await.unwrap();
    ani.set_member_add_mode(&team.group, MemberAddMode::AdminAdd).await.unwrap();
    ani.set_membership_approval(&team.group, MembershipApprovalMode::On).await.unwrap();
    let changes: [Wanted<'_>; 5] = [
        ("the lock", |action| matches!(action, Action::Locked { .. })),
        ("the silence", |action| matches!(action, Action::Announce)),
        ("the lifetime", |action| matches!(action, Action::Ephemeral { expiration: 86_400, .. })),
        ("the mode", |action| matches!(action, Action::MemberAddMode { mode } if mode == "admin_add")),
        ("the approval", |action| matches!(action, Action::MembershipApprovalMode { enabled: true })),
    ];
    hears_all(&mut team.budi, &changes).await;

    let seen = budi.get_metadata(&team.group).await.unwrap();
    assert_eq!((seen.subject.as_str(), seen.description.as_deref()), ("Team B", Some("What we do")));
    assert!(seen.is_locked && seen.is_announcement && seen.membership_approval && seen.ephemeral.is_some());
    assert_eq!(code(budi.set_subject(&team.group, GroupSubject::new("Mine").unwrap()).await), "403");
    assert_eq!(code(budi.add_participants(&team.group, &[Jid::pn(CITRA)]).await), "403");
    assert_eq!(code(ani.set_ephemeral(&team.group, 61).await), "406");
    let id = team.budi.say(&team.group.to_string(), "may I?").await;
    assert_eq!(team.budi.ack(&id).await.as_deref(), Some("403"), "only admins may write");
    let id = team.ani.say(&team.group.to_string(), "I may").await;
    assert_eq!(team.ani.ack(&id).await, None);
    assert_eq!(team.budi.text().await.text, "I may");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_leads_into_the_group_until_it_is_taken_back() {
    let mut team = Team::start(support::config().pn_only).await;
    let (ani, citra) = (team.ani.client.clone(), team.citra.client.clone());
    let (ani, citra) = (ani.groups(), citra.groups());
    let code_of = |link: &str| link.rsplit('/').next().unwrap().to_owned();
    assert_eq!(code(team.budi.client.groups().get_invite_link(&team.group, false).await), "403");
    let old = code_of(&ani.get_invite_link(&team.group, false).await.unwrap());
    assert_eq!(code_of(&ani.get_invite_link(&team.group, false).await.unwrap()), old);
    let fresh = code_of(&ani.get_invite_link(&team.group, true).await.unwrap());
    assert_eq!(code(citra.join_with_invite_code(&old).await), "410");
    assert_eq!(code(citra.join_with_invite_code("nonsense").await), "406");
    let seen = citra.get_invite_info(&fresh).await.unwrap();
    assert_eq!((seen.subject.as_str(), seen.size), ("Team", Some(2)));

    ani.set_membership_approval(&team.group, MembershipApprovalMode::On).await.unwrap();
    let asked = citra.join_with_invite_code(&fresh).await.unwrap();
    assert_eq!(asked, JoinGroupResult::PendingApproval(team.group.clone()));
    hears(
        &mut team.ani,
        "the request",
        |action| matches!(action, Action::CreatedMembershipRequests { requests, .. } if requests.len() == 1),
    )
    .await;
    let asking = ani.get_membership_requests(&team.group).await.unwrap();
    assert_eq!(asking.len(), 1);
    ani.reject_membership_requests(&team.group, &[asking[0].jid.clone()]).await.unwrap();
    hears(&mut team.citra, "the refusal", |action| matches!(action, Action::RevokedMembershipRequests { .. })).await;
    citra.join_with_invite_code(&fresh).await.unwrap();
    let let_in = ani.approve_membership_requests(&team.group, &[asking[0].jid.clone(), Jid::pn(DEWI)]).await.unwrap();
    assert_eq!((let_in[0].error.as_deref(), let_in[1].error.as_deref()), (None, Some("404")));
    hears(&mut team.citra, "that she is in it", |action| matches!(action, Action::Add { .. })).await;
    assert_eq!(team.info().members, [ANI, BUDI, CITRA]);
    assert!(ani.get_membership_requests(&team.group).await.unwrap().is_empty());

    ani.set_membership_approval(&team.group, MembershipApprovalMode::Off).await.unwrap();
    citra.leave(&team.group).await.unwrap();
    assert_eq!(citra.join_with_invite_code(&fresh).await.unwrap(), JoinGroupResult::Joined(team.group.clone()));
    assert_eq!(code(citra.join_with_invite_code(&fresh).await), "409");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_the_same_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::in_folder(folder.path(), None).await;
    let ani = world.link(ANI, "Ani").await;
    world.emulator.ensure_account(BUDI, "Budi");
    let group = world.emulator.ensure_group("Team", &[ANI.to_owned(), BUDI.to_owned()]);
    let jid: Jid = group.jid.parse().unwrap();
    let groups = ani.client.groups();
    groups.promote_participants(&jid, &[Jid::pn(BUDI)]).await.unwrap();
    groups.set_announce(&jid, true).await.unwrap();
    groups
        .set_description(&jid, Some(GroupDescription::new("Kept").unwrap()), PreviousDescription::Absent)
        .await
        .unwrap();
    let link = groups.get_invite_link(&jid, false).await.unwrap();
    let keys = ani.leave().await;
    let port = world.stop().await;

    let world = World::in_folder(folder.path(), Some(port)).await;
    let mut ani = Person::resume(&world.emulator.whatsapp_url(), "Ani", keys).await;
    ani.connected().await;
    let groups = ani.client.groups();
    let seen = groups.get_metadata(&jid).await.unwrap();
    assert!(seen.is_announcement && seen.description.as_deref() == Some("Kept"));
    assert_eq!(world.emulator.groups()[0].admins, [ANI, BUDI]);
    assert_eq!(groups.get_invite_link(&jid, false).await.unwrap(), link);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_group_was_closed_for_is_opened_again() {
    let mut team = Team::start(support::config().pn_only).await;
    let (ani, budi, citra) = (team.ani.client.clone(), team.budi.client.clone(), team.citra.client.clone());
    let (ani, budi, citra) = (ani.groups(), budi.groups(), citra.groups());
    for closed in [true, false] {
        ani.set_locked(&team.group, closed).await.unwrap();
        ani.set_announce(&team.group, closed).await.unwrap();
        ani.set_ephemeral(&team.group, if closed { 86_400 } else { 0 }).await.unwrap();
        let mode = if closed { MemberAddMode::AdminAdd } else { MemberAddMode::AllMemberAdd };
        ani.set_member_add_mode(&team.group, mode).await.unwrap();
    }
    let changes: [Wanted<'_>; 4] = [
        ("the key", |action| matches!(action, Action::Unlocked)),
        ("the word", |action| matches!(action, Action::NotAnnounce)),
        ("that messages stay", |action| matches!(action, Action::Ephemeral { expiration: 0, .. })),
        ("the mode", |action| matches!(action, Action::MemberAddMode { mode } if mode == "all_member_add")),
    ];
    hears_all(&mut team.budi, &changes).await;
    let seen = budi.get_metadata(&team.group).await.unwrap();
    assert!(!seen.is_locked && !seen.is_announcement && seen.ephemeral.is_none());
    budi.set_subject(&team.group, GroupSubject::new("Ours").unwrap()).await.unwrap();
    let id = team.budi.say(&team.group.to_string(), "I may again").await;
    assert_eq!(team.budi.ack(&id).await, None);
    assert_eq!(team.ani.text().await.text, "I may again");

    // Who asked to be let in may think better of it.
    ani.set_membership_approval(&team.group, MembershipApprovalMode::On).await.unwrap();
    let link = ani.get_invite_link(&team.group, false).await.unwrap();
    citra.join_with_invite_code(link.rsplit('/').next().unwrap()).await.unwrap();
    let asking = ani.get_membership_requests(&team.group).await.unwrap();
    assert_eq!(asking.len(), 1);
    citra.cancel_membership_requests(&team.group, &[asking[0].jid.clone()]).await.unwrap();
    hears(&mut team.ani, "that nobody asks any more", |action| {
        matches!(action, Action::RevokedMembershipRequests { .. })
    })
    .await;
    assert!(ani.get_membership_requests(&team.group).await.unwrap().is_empty());
    assert_eq!(budi.add_participants(&team.group, &[Jid::pn(CITRA)]).await.unwrap()[0].error, None);
}

/// A question about a group whose answer is looked at as it comes: the client adds to it what it knows by itself.
struct Asked {
    group: Jid,
    what: Node,
}

impl IqSpec for Asked {
    type Response = Node;

    fn build_iq(&self) -> InfoQuery<'static> {
        InfoQuery::get("w:g2", self.group.clone(), Some(NodeContent::Nodes(vec![self.what.clone()])))
    }

    fn parse_response(&self, response: &NodeRef<'_>) -> whatsapp_rust::anyhow::Result<Node> {
        Ok(response.to_owned())
    }
}

/// How people are named who stand under this tag: address, phone number and LID.
fn named(node: &Node, tag: &str) -> Vec<[Option<String>; 3]> {
    let attr = |name: &str| node.attrs.get(name).map(|value| value.as_str().into_owned());
    if node.tag == tag {
        return vec![["jid", "phone_number", "lid"].map(attr)];
    }
    node.children().unwrap_or_default().iter().flat_map(|child| named(child, tag)).collect()
}

/// How the next notification of this kind names people.
async fn told(person: &mut Person, kind: &str, tag: &str) -> Vec<[Option<String>; 3]> {
    let found = person.wait(kind, |event| match event {
        Event::Notification(node) => node.get_optional_child(kind).map(|what| named(&what.to_owned(), tag)),
        _ => None,
    });
    found.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_in_a_group_or_asks_to_be_is_named_by_both_addresses() {
    for pn_only in [false, true] {
        let mut team = Team::start(pn_only).await;
        let accounts = team.world.emulator.accounts();
        let wanted = |phone: &str| {
            let lid = &accounts.iter().find(|account| account.phone == phone).unwrap().lid;
            let (phone, lid) = (Some(Jid::pn(phone).to_string()), Some(Jid::lid(lid.as_str()).to_string()));
            if pn_only { [phone, None, lid] } else { [lid, phone, None] }
        };
        let ask = |what: &'static str| Asked { group: team.group.clone(), what: NodeBuilder::new(what).build() };
        let asked = team.budi.client.execute(ask("query")).await.unwrap();
        assert_eq!(named(&asked, "participant"), [wanted(ANI), wanted(BUDI)]);
        assert_eq!(told(&mut team.budi, "create", "participant").await, [wanted(ANI), wanted(BUDI)]);
        let (ani, citra) = (team.ani.client.clone(), team.citra.client.clone());
        let (groups, by_citra) = (ani.groups(), citra.groups());
        groups.add_participants(&team.group, &[Jid::pn(CITRA)]).await.unwrap();
        assert_eq!(told(&mut team.budi, "add", "participant").await, [wanted(CITRA)]);
        by_citra.leave(&team.group).await.unwrap();
        assert_eq!(told(&mut team.budi, "remove", "participant").await, [wanted(CITRA)]);

        groups.set_membership_approval(&team.group, MembershipApprovalMode::On).await.unwrap();
        let link = groups.get_invite_link(&team.group, false).await.unwrap();
        by_citra.join_with_invite_code(link.rsplit('/').next().unwrap()).await.unwrap();
        let asks = told(&mut team.ani, "created_membership_requests", "requested_user").await;
        assert_eq!(asks, [wanted(CITRA)]);
        let asking = ani.execute(ask("membership_approval_requests")).await.unwrap();
        assert_eq!(named(&asking, "membership_approval_request"), [wanted(CITRA)]);
        by_citra.cancel_membership_requests(&team.group, &[Jid::pn(CITRA)]).await.unwrap();
        let gone = told(&mut team.ani, "revoked_membership_requests", "participant").await;
        assert_eq!(gone, [wanted(CITRA)]);
    }
}
