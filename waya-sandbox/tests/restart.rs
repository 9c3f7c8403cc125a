//! A sandbox with a data folder comes back as it was.
#![allow(clippy::unwrap_used)]

mod common;

use common::{all_confirmed, all_read, inbox_once, sandbox, say};
use waya_sandbox::control::SandboxControl;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_come_back_from_their_folders() {
    let folder = tempfile::tempdir().unwrap();
    let first = sandbox(Some(folder.path())).await;
    let control = first.control();
    let people = control.people().await.unwrap();
    say(&control, "Budi", "Siti", "sebelum").await;
    let before = inbox_once(&first, "Siti", |inbox| !inbox.is_empty() && all_read(inbox)).await;
    all_confirmed(&first).await;
    control.set_online("Siti", false).await.unwrap();
    say(&control, "Budi", "Siti", "selama pergi").await;
    control.set_autoread("Agus", false).await.unwrap();
    let devices = first.emulator().accounts();
    drop(control);
    first.shutdown().await.unwrap();

    let second = sandbox(Some(folder.path())).await;
    let control = second.control();
    assert_eq!(control.people().await.unwrap(), people);
    let inbox = inbox_once(&second, "Siti", |inbox| inbox.len() == 2 && all_read(inbox)).await;
    assert_eq!(inbox[0], before[0]);
    assert_eq!(inbox[1].content.text.as_deref(), Some("selama pergi"));
    let numbers = |accounts: &[waya_sandbox::emulator::AccountInfo]| {
        let devices = accounts.iter().map(|account| account.devices.iter().map(|device| device.device).collect());
        devices.collect::<Vec<Vec<u16>>>()
    };
    assert_eq!(numbers(&second.emulator().accounts()), numbers(&devices), "nobody linked a second time");

    say(&control, "Siti", "Agus", "sesudah").await;
    let inbox = inbox_once(&second, "Agus", |inbox| inbox.len() == 1 && !inbox[0].receipts.is_empty()).await;
    assert_eq!(inbox[0].receipts, ["delivered"], "autoread stays off");
    second.shutdown().await.unwrap();
}
