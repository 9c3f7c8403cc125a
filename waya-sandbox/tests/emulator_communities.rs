//! Communities: groups that belong together; and people who do not let themselves be added.

#![allow(clippy::unwrap_used)]

mod support;

use support::World;
use whatsapp_rust::features::{CreateCommunityOptions, GroupCreateOptions};
use whatsapp_rust::wacore::iq::groups::{GroupParticipantOptions, JoinGroupResult};
use whatsapp_rust::wacore::iq::privacy::{PrivacyCategory, PrivacyValue};
use whatsapp_rust::wacore_binary::Jid;

const ANI: &str = "6281200000001";
const BUDI: &str = "6281200000002";

fn named(subject: &str, others: &[&str]) -> GroupCreateOptions {
    GroupCreateOptions {
        subject: subject.to_owned(),
        participants: others.iter().map(|other| GroupParticipantOptions::new(Jid::pn(*other))).collect(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_come_to_a_community_are_listed_joined_and_go_again() {
    let world = World::start().await;
    let (ani, budi) = (world.link(ANI, "Ani").await, world.link(BUDI, "Budi").await);
    let (by_ani, by_budi) = (ani.client.community(), budi.client.community());
    let community = by_ani.create(CreateCommunityOptions::new("Desa")).await.unwrap().metadata.id;
    ani.client.groups().add_participants(&community, &[Jid::pn(BUDI)]).await.unwrap();

    let subgroups = by_ani.get_subgroups(&community).await.unwrap();
    assert_eq!(subgroups.iter().map(|one| one.is_default_sub_group).collect::<Vec<_>>(), [true], "for announcements");
    let tani = by_ani.create_subgroup("Tani", &[], community.clone()).await.unwrap().metadata.id;
    let loose = ani.client.groups().create_group(named("Ronda", &[])).await.unwrap().metadata.id;
    let linked = by_ani.link_subgroups(community.clone(), std::slice::from_ref(&loose)).await.unwrap();
    assert_eq!((linked.linked_jids.as_slice(), linked.failed_groups.len()), (std::slice::from_ref(&loose), 0));
    let again = by_ani.link_subgroups(community.clone(), std::slice::from_ref(&loose)).await.unwrap();
    assert_eq!(again.failed_groups, [(loose.clone(), 409)]);

    // A member finds them, looks at one and comes in.
    let mut names: Vec<_> = by_budi.get_subgroups(&community).await.unwrap();
    names.sort_by(|one, other| one.subject.cmp(&other.subject));
    assert_eq!(names.iter().map(|one| one.subject.as_str()).collect::<Vec<_>>(), ["Desa", "Ronda", "Tani"]);
    let known = by_budi.get_participating().await.unwrap();
    assert_eq!(known.keys().collect::<Vec<_>>(), [&community]);
    assert_eq!(by_budi.query_linked_group(community.clone(), tani.clone()).await.unwrap().participants.len(), 1);
    let joined = by_budi.join_subgroup(community.clone(), tani.clone()).await.unwrap();
    assert_eq!((joined.participants.len(), joined.parent_group_jid), (2, Some(community.clone())));
    let counts = by_budi.get_subgroup_participant_counts(&community).await.unwrap();
    assert!(counts.contains(&(tani.clone(), 2)) && counts.contains(&(loose.clone(), 1)), "{counts:?}");
    assert_eq!(by_ani.get_linked_groups_participants(community.clone()).await.unwrap().len(), 2);

    by_ani.unlink_subgroups(community.clone(), std::slice::from_ref(&loose), false).await.unwrap();
    assert!(by_budi.query_linked_group(community.clone(), loose).await.is_err());
    assert!(by_budi.deactivate(community.clone()).await.is_err(), "he is no admin");
    by_ani.deactivate(community.clone()).await.unwrap();
    assert!(by_ani.get_participating().await.unwrap().is_empty());
    assert!(ani.client.groups().get_metadata(&tani).await.is_ok(), "its groups go on by themselves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_to_be_asked_is_invited_and_comes_by_the_invitation() {
    let world = World::start().await;
    let (ani, budi) = (world.link(ANI, "Ani").await, world.link(BUDI, "Budi").await);
    budi.client.set_privacy_setting(PrivacyCategory::GroupAdd, PrivacyValue::None).await.unwrap();
    let made = ani.client.groups().create_group(named("Tim", &[BUDI])).await.unwrap().metadata;
    let group = made.id;
    let members = || world.emulator.groups().into_iter().map(|group| group.members.len()).sum::<usize>();
    assert_eq!(members(), 1);

    let answers = ani.client.groups().add_participants(&group, &[Jid::pn(BUDI)]).await.unwrap();
    assert_eq!(answers[0].error.as_deref(), Some("403"));
    let invitation = answers[0].add_request.clone().unwrap();
    let (code, expires) = (invitation.code.as_str(), i64::try_from(invitation.expiration).unwrap());
    let groups = budi.client.groups();
    assert!(groups.join_with_invite_v4(&group, "wrong", expires, &Jid::pn(ANI)).await.is_err());
    world.emulator.clock().set_ahead(4 * 86_400_000);
    assert!(groups.join_with_invite_v4(&group, code, expires, &Jid::pn(ANI)).await.is_err(), "four days later");
    world.emulator.clock().set_ahead(0);
    assert_eq!(members(), 1);
    let joined = groups.join_with_invite_v4(&group, code, expires, &Jid::pn(ANI)).await.unwrap();
    assert_eq!(joined, JoinGroupResult::Joined(group.clone()));
    assert_eq!(members(), 2);
    assert!(groups.join_with_invite_v4(&group, code, expires, &Jid::pn(ANI)).await.is_err(), "once only");
}
