//! What the config takes, and how it says no.

use std::path::Path;

use super::{Config, ConfigError, HttpAddress, file};
use crate::args::CommonArgs;

fn load(toml: &str, environment: &[(&str, &str)], args: &CommonArgs) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("waya.toml");
    std::fs::write(&path, toml).unwrap();
    let mut environment: Vec<(String, String)> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    environment.push(("WAYA_CONFIG".to_owned(), path.display().to_string()));
    environment.push(("WAYA_DATA_DIR".to_owned(), dir.path().display().to_string()));
    Config::load(args, environment)
}

fn refusal(toml: &str, environment: &[(&str, &str)]) -> String {
    let text = load(toml, environment, &CommonArgs::default()).unwrap_err().to_string();
    // The folder's name is random.
    text.rsplit_once("/waya.toml").map_or_else(|| text.clone(), |(_, rest)| format!("FILE{rest}"))
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let toml = "[http]\naddr = \"127.0.0.1:1\"\nbody_limit = \"1MiB\"\n";
    let at = |port: u16| HttpAddress::At(([127, 0, 0, 1], port).into());
    let none = CommonArgs::default();
    assert_eq!(load(toml, &[], &none).unwrap().http, at(1));
    let environment = [("WAYA_HTTP_ADDR", "localhost:2"), ("WAYA_HTTP_MAX_CONNECTIONS", "7")];
    let config = load(toml, &environment, &none).unwrap();
    assert_eq!((config.http, config.http_body_limit, config.http_max_connections), (at(2), 1 << 20, 7));
    let flag = CommonArgs { http: Some("off".to_owned()), ..CommonArgs::default() };
    assert_eq!(load(toml, &environment, &flag).unwrap().http, HttpAddress::Off);
}

#[test]
fn settings_become_pins_that_name_their_place() {
    let config = load(
        "default_country = 62\nallowed_numbers = [\"6281110\", \"6282220\"]\n[queue]\ndelay = \"2s\"\n",
        &[("WAYA_QUEUE_DELAY", "0")],
        &CommonArgs::default(),
    )
    .unwrap();
    let pin = |key: &str| config.pins.iter().find(|pin| pin.key == key).unwrap().clone();
    assert_eq!(pin("default_country").value, "62");
    assert_eq!(pin("allowed_numbers").value, "6281110,6282220");
    assert_eq!(
        (pin("queue.delay").value.as_str(), pin("queue.delay").origin.as_str()),
        ("0", "environment variable WAYA_QUEUE_DELAY")
    );
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_what_would_fit() {
    let cases: [(&str, &[(&str, &str)]); 9] = [
        ("\n[http]\nport = 7200\n", &[]),
        ("[http]\nadr = \"x\"\n", &[]),
        ("[http]\naddr = \"7200\"\n", &[]),
        ("a = [\n", &[]),
        ("[socket]\nmode = \"0044\"\n", &[]),
        ("[queue.delay]\nx = 1\n", &[]),
        ("[queue]\ndelay = \"soon\"\n", &[]),
        ("", &[("WAYA_LOG_FORMAT", "xml")]),
        ("", &[("WAYA_PROFILE", "../x")]),
    ];
    let refusals: Vec<String> = cases.iter().map(|(toml, environment)| refusal(toml, environment)).collect();
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let config = load("", &[("WAYA_QUEUE_DELLAY", "1s")], &CommonArgs::default()).unwrap();
    assert_eq!(config.warnings, ["environment variable WAYA_QUEUE_DELLAY is not one of ours; ignored"]);
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let error = file::read(Some(&Path::new("/nowhere/waya.toml").to_owned()), "default").unwrap_err().to_string();
    assert!(error.starts_with("cannot read the config file /nowhere/waya.toml"), "{error}");
}

#[test]
fn a_proxy_is_taken_from_file_and_environment_and_shown_without_its_password() {
    let toml = "[network]\nproxy = \"http://budi:rahasia@127.0.0.1:8080\"\n";
    let none = CommonArgs::default();
    assert!(load("", &[], &none).unwrap().network_proxy.is_none());
    let config = load(toml, &[], &none).unwrap();
    let proxy = config.network_proxy.as_ref().unwrap();
    let credentials = proxy.credentials().unwrap();
    assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("budi", "rahasia"));
    let printed = format!("{config:?} {config:#?}");
    assert!(printed.contains("http://***@127.0.0.1:8080"), "{printed}");
    assert!(!printed.contains("rahasia") && !printed.contains("budi"), "{printed}");

    let config = load(toml, &[("WAYA_NETWORK_PROXY", "socks5h://[::1]:1080")], &none).unwrap();
    assert_eq!(config.network_proxy.unwrap().to_string(), "proxy [::1]:1080");
}

/// However badly it is written, what may be a password is not repeated.
#[test]
fn a_bad_proxy_is_refused_without_being_shown() {
    let file = |value: &str| refusal(&format!("[network]\nproxy = {value}\n"), &[]);
    let refusals = [
        file("\"budi:rahasia@h:8080\""),
        file("\"https://budi:rahasia@h:8080\""),
        file("\"http://budi:rahasia@h\""),
        file("[\"http://budi:rahasia@h:1\", \"http://budi:rahasia@h:2\"]"),
        file("{ user = \"budi\", password = \"rahasia\" }"),
        file("\"http://budi:rahasia@h:1"),
        refusal("[network]\nproxi = \"http://budi:rahasia@h:1\"\n", &[]),
        refusal("", &[("WAYA_NETWORK_PROXY", "socks4://budi:rahasia@h:1")]),
    ];
    let refusals = refusals.join("\n");
    assert!(!refusals.contains("rahasia") && !refusals.contains("budi"), "{refusals}");
    insta::assert_snapshot!(refusals);
}
