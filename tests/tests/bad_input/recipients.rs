//! Who it goes to.

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use reqwest::multipart::Form;
use serde_json::{Value, json};
use waya_tests::{BUDI, SITI, World};

use crate::{NO_GROUP, assert_nothing_queued, refused, send, send_form, waya};

#[tokio::test]
async fn recipients_are_given_in_one_way_and_there_are_some_but_not_too_many() -> Result<()> {
    let world = World::start()?;
    let both = send(&world, json!({"number": BUDI, "recipients": [SITI], "message": "Halo"})).await?;
    assert!(refused(&both, 422, "invalid_field", Some("recipients")).contains("exactly one of"));
    let neither = send(&world, json!({"message": "Halo"})).await?;
    assert!(refused(&neither, 422, "invalid_field", Some("number")).contains("is missing"));
    let form = Form::new().text("number", BUDI).text("recipients", SITI).text("message", "Halo");
    refused(&send_form(&world, form).await?, 422, "invalid_field", Some("recipients"));
    refused(&send_form(&world, Form::new().text("message", "Halo")).await?, 422, "invalid_field", Some("number"));
    assert_eq!(waya(&world, &["send"])?.0, 2);

    for field in ["recipients", "messages"] {
        let empty = send(&world, json!({field: [], "message": (field == "recipients").then_some("Halo")})).await?;
        assert!(refused(&empty, 422, "invalid_field", Some(field)).contains("give at least one"));
        let each: Vec<Value> = (0..10_001_u64)
            .map(|n| {
                let number = 6_281_300_000_000 + n;
                if field == "recipients" { json!(number) } else { json!({"number": number, "message": "Halo"}) }
            })
            .collect();
        let many = send(&world, json!({field: each, "message": (field == "recipients").then_some("Halo")})).await?;
        let words = refused(&many, 422, "invalid_field", Some(field));
        assert!(words.contains("has 10001 entries, at most 10000 fit"), "{words}");
    }
    assert_nothing_queued(&world).await
}

#[tokio::test]
async fn repeats_are_sent_once_and_said() -> Result<()> {
    let world = World::start()?;
    let repeats = ["+62 812-0000-0002".to_owned(), format!("{BUDI}@c.us"), BUDI.to_owned()];
    let recipients = json!([BUDI, repeats[0], SITI, repeats[1], repeats[2]]);
    let (status, body) = send(&world, json!({"recipients": recipients, "message": "Halo"})).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status}: {body}");
    assert_eq!((body["messages"].as_array().map(Vec::len), &body["duplicates"]), (Some(2), &json!(repeats)));
    let again = world.waya_json(&["send", &format!("{BUDI},{SITI},{BUDI}"), "Halo lagi", "--wait", "read"])?;
    assert_eq!((again["messages"].as_array().map(Vec::len), &again["duplicates"]), (Some(2), &json!([BUDI])));
    for who in [BUDI, SITI] {
        world.until_received(who, 2).await?;
        let texts: Vec<_> = world.inbox(who).await?.iter().map(|message| message["text"].clone()).collect();
        assert_eq!(texts, ["Halo", "Halo lagi"], "{who}");
    }
    Ok(())
}

#[tokio::test]
async fn a_group_that_we_are_not_in_and_a_number_that_nobody_has() -> Result<()> {
    let world = World::start()?;
    world.until_session("connected").await?;
    let group = send(&world, json!({"number": NO_GROUP, "message": "Halo"})).await?;
    assert!(refused(&group, 422, "invalid_recipient", Some("number")).contains("is not in the group"));
    let among = send(&world, json!({"recipients": [BUDI, NO_GROUP], "message": "Halo"})).await?;
    refused(&among, 422, "invalid_recipient", Some("recipients[1]"));
    let personal = json!({"messages": [{"number": NO_GROUP, "message": "Halo"}, {"number": BUDI, "message": "Halo"}]});
    refused(&send(&world, personal).await?, 422, "invalid_recipient", Some("messages[0].number"));
    let (code, words) = waya(&world, &["send", NO_GROUP, "Halo"])?;
    assert!(code == 4 && words.contains("is not in the group"), "{code}: {words}");
    assert_nothing_queued(&world).await?;

    let nobody = world.accept("6289999999999", "Halo").await?;
    let failed = world.until_message(&nobody, |message| message["status"] == "failed").await?;
    assert_eq!(failed["error"], "6289999999999 is not on WhatsApp");
    let (code, words) = waya(&world, &["send", "6289999999999", "Halo", "--wait", "sent"])?;
    assert!(code == 6 && words.contains("is not on WhatsApp"), "{code}: {words}");
    Ok(())
}
