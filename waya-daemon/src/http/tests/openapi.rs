//! The description against the router, the codes, and real answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Door, answer};
use crate::api::testing::incoming;
use crate::http::openapi::SPEC;
use crate::model::{EventBody, LinkState, OfflineReason, Timestamp};

fn spec() -> Value {
    serde_json::from_str(SPEC).unwrap()
}

/// Follows references to what they mean.
fn meant<'a>(spec: &'a Value, mut node: &'a Value) -> &'a Value {
    while let Some(to) = node["$ref"].as_str() {
        node = spec.pointer(to.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{to} leads nowhere"));
    }
    node
}

/// Every `method path` and its operation.
fn operations(spec: &Value) -> BTreeMap<String, &Value> {
    let paths = spec["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(move |(method, operation)| (format!("{method} {path}"), operation))
    });
    each.collect()
}

/// Every `method path` of the router, as the source has it.
fn routes() -> BTreeSet<String> {
    let source = include_str!("../mod.rs");
    let mut found = BTreeSet::new();
    for (at, start) in source.match_indices(".route(") {
        let rest = &source[at + start.len()..];
        let path = rest.split('"').nth(1).unwrap();
        let mut depth = 1;
        let end = rest.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let methods = &rest[..end.unwrap()];
        for method in ["get", "post", "put", "patch", "delete"] {
            if methods.contains(&format!(" {method}(")) || methods.contains(&format!(").{method}(")) {
                found.insert(format!("{method} {path}"));
            }
        }
    }
    found
}

/// The words that a `fn code` gives.
fn codes(source: &str) -> BTreeSet<&str> {
    let function = source.split("fn code(").nth(1).unwrap().split("\n    }\n").next().unwrap();
    function.split('"').skip(1).step_by(2).collect()
}

#[test]
fn every_route_and_every_code_is_described_and_nothing_else() {
    let spec = spec();
    let described: BTreeSet<String> = operations(&spec).into_keys().collect();
    assert_eq!(described, routes(), "spec.json on the left, the router on the right");
    let listed = spec["components"]["schemas"]["Error"]["properties"]["code"]["enum"].as_array().unwrap();
    let listed: BTreeSet<_> = listed.iter().map(|code| code.as_str().unwrap()).collect();
    let mut real = codes(include_str!("../error.rs"));
    real.extend(codes(include_str!("../../api/error.rs")));
    assert_eq!(listed, real);
}

#[test]
fn routes_stand_in_one_place() {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("http/mod.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let routes = text.matches(".route(\"/api").count();
                assert_eq!(routes, 0, "{}: this test does not see routes there", path.display());
            }
        }
    }
}

#[test]
fn the_description_has_the_shape_of_openapi() {
    let spec = spec();
    assert!(spec["openapi"].as_str().unwrap().starts_with("3.1."));
    assert!(spec["info"]["title"].is_string() && spec["info"]["version"].is_string());
    references(&spec, &spec);
    let tags: BTreeSet<_> = spec["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&spec) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}: its operationId is another's too");
        assert!(operation["tags"].as_array().unwrap().iter().all(|tag| tags.contains(tag.as_str().unwrap())), "{name}");
        assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{name}");
        let none = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&none);
        let in_path: BTreeSet<_> = parameters
            .iter()
            .filter(|one| one["in"] == "path" && one["required"] == true && one["schema"].is_object())
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        let in_braces: BTreeSet<_> = name.split('{').skip(1).map(|part| part.split('}').next().unwrap()).collect();
        assert_eq!(in_path, in_braces, "{name}");
        let answers = operation["responses"].as_object().unwrap();
        for (status, answer) in answers {
            assert!((200..600).contains(&status.parse::<u16>().unwrap()), "{name}");
            let answer = meant(&spec, answer);
            assert!(answer["description"].is_string(), "{name} {status}");
            if status.as_str() >= "400" {
                let schema = &answer["content"]["application/json"]["schema"];
                assert_eq!(schema["$ref"], "#/components/schemas/Error", "{name} {status}");
            }
        }
        assert_eq!(operation["security"] == json!([]), operation["x-scope"].is_null(), "{name}");
    }
}

fn references(spec: &Value, node: &Value) {
    meant(spec, node);
    match node {
        Value::Object(fields) => fields.values().for_each(|field| references(spec, field)),
        Value::Array(items) => items.iter().for_each(|item| references(spec, item)),
        _ => {}
    }
}

/// What does not fit; a field that the schema does not name does not.
fn misfit(spec: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let schema = meant(spec, schema);
    for (word, value_is) in [("anyOf", "any"), ("oneOf", "one")] {
        if let Some(choices) = schema[word].as_array() {
            let fits = choices.iter().any(|choice| misfit(spec, choice, value, at).is_none());
            return (!fits).then(|| format!("{at}: {value} is not {value_is} of the choices"));
        }
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return Some(format!("{at}: {value} is none of {allowed:?}"));
    }
    if let Some(problem) = misfit_type(&schema["type"], value, at) {
        return Some(problem);
    }
    if let (Some(items), Some(item)) = (value.as_array(), schema.get("items")) {
        let mut items = items.iter().enumerate();
        return items.find_map(|(index, value)| misfit(spec, item, value, &format!("{at}[{index}]")));
    }
    let fields = value.as_object().filter(|_| schema.get("properties").is_some() || schema.get("allOf").is_some())?;
    let (mut properties, mut required) = (BTreeMap::new(), Vec::new());
    collect(spec, schema, &mut properties, &mut required);
    if let Some(missing) = required.iter().find(|name| !fields.contains_key(**name)) {
        return Some(format!("{at}: {missing} is missing"));
    }
    fields.iter().find_map(|(name, value)| match properties.get(name.as_str()) {
        Some(schema) => misfit(spec, schema, value, &format!("{at}.{name}")),
        None => Some(format!("{at}: {name} is not described")),
    })
}

fn misfit_type(expected: &Value, value: &Value, at: &str) -> Option<String> {
    let expected: Vec<_> = match expected {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    (!expected.is_empty() && !expected.contains(&kind)).then(|| format!("{at}: {value} is not {expected:?}"))
}

fn collect<'a>(
    spec: &'a Value,
    schema: &'a Value,
    properties: &mut BTreeMap<&'a str, &'a Value>,
    required: &mut Vec<&'a str>,
) {
    let schema = meant(spec, schema);
    if let Some(fields) = schema["properties"].as_object() {
        properties.extend(fields.iter().map(|(name, schema)| (name.as_str(), schema)));
    }
    required.extend(schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str));
    for part in schema["allOf"].as_array().into_iter().flatten() {
        collect(spec, part, properties, required);
    }
}

/// Asserts that an answer is one of those described.
#[track_caller]
fn assert_described(spec: &Value, operation: &Value, (status, body): &(u16, Value)) {
    let described = meant(spec, &operation["responses"][status.to_string()]);
    let schema = &described["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{status} of {} is not described: {body}", operation["operationId"]);
    assert_eq!(misfit(spec, schema, body, "body"), None, "{status} of {}: {body}", operation["operationId"]);
}

#[tokio::test]
async fn real_answers_are_as_described() {
    let (door, spec) = (Door::open().await, spec());
    let sent = door.post(json!({ "number": "6281200000002", "message": "Halo", "reference_id": "r" })).await;
    let many = json!({ "recipients": ["6281200000002", "6281200000002"], "message": "Halo", "reference_id": "r" });
    let id = sent.1["id"].as_str().unwrap().to_owned();
    door.world.store.journal.record_incoming(vec![incoming("A", "Halo")]).await.unwrap();
    let offline = LinkState::Offline { reason: OfflineReason("no network".to_owned()), retry_at: None };
    door.world.store.journal.append(EventBody::Link(offline), Timestamp::default()).await.unwrap();
    door.world.api.cancel(&id).await.unwrap();
    let of = operations(&spec);
    let post = of["post /api/send-message"];
    for body in [many.clone(), json!({ "number": "x" }), json!({ "number": "6281200000002" }), json!([])] {
        assert_described(&spec, post, &door.post(body).await);
    }
    let mut dry = many;
    dry["dry_run"] = json!(true);
    assert_described(&spec, post, &door.post(dry).await);
    for (name, path) in [
        ("get /api/message-status/{id}", format!("/api/message-status/{id}")),
        ("get /api/message-status/{id}", "/api/message-status/r".to_owned()),
        ("get /api/message-status/{id}", "/api/message-status/nothing".to_owned()),
        ("get /api/queue", "/api/queue".to_owned()),
        ("get /api/queue", "/api/queue?limit=x".to_owned()),
        ("get /api/queue/{id}", format!("/api/queue/{id}")),
        ("delete /api/queue/{id}", format!("/api/queue/{id}")),
        ("get /api/events", "/api/events".to_owned()),
        ("get /api/events", "/api/events?after=x".to_owned()),
        ("get /api/session", "/api/session".to_owned()),
        ("get /api/status", "/api/status".to_owned()),
        ("post /api/session/passkey", "/api/session/passkey".to_owned()),
        ("post /api/session/passkey/confirm", "/api/session/passkey/confirm".to_owned()),
        ("get /api/requests", "/api/requests?limit=3".to_owned()),
        ("get /api/requests/{id}", "/api/requests/1".to_owned()),
        ("get /api/requests/{id}", "/api/requests/nothing".to_owned()),
        ("delete /api/requests", "/api/requests".to_owned()),
        ("get /livez", "/livez".to_owned()),
        ("get /readyz", "/readyz".to_owned()),
    ] {
        let method = name.split(' ').next().unwrap().to_ascii_uppercase();
        let answer = answer(door.request(&method, &path).body("{}")).await;
        assert_described(&spec, of[name], &answer);
    }
}

#[tokio::test]
async fn scopes_are_as_described() {
    let (door, spec) = (Door::open().await, spec());
    let mut keys = BTreeMap::new();
    for scope in ["send", "read", "admin"] {
        keys.insert(scope, door.world.api.create_key(scope, &[scope.to_owned()]).await.unwrap().api_key);
    }
    for (name, operation) in operations(&spec) {
        let (method, path) = name.split_once(' ').unwrap();
        let url = format!("http://{}{}", door.address, path.replace("{id}", "x"));
        let ask = |key: &str| {
            let request = door.client.request(method.to_ascii_uppercase().parse().unwrap(), &url);
            let request = request.header("x-api-key", key).body("{}");
            async move { request.send().await.unwrap().status().as_u16() }
        };
        let Some(scopes) = operation["x-scope"].as_array() else {
            assert_eq!(ask("none").await, 200, "{name}");
            continue;
        };
        for (scope, key) in &keys {
            let allowed = *scope == "admin" || scopes.iter().any(|one| one == scope);
            assert_eq!(ask(key).await != 403, allowed, "{name} with {scope}");
        }
        assert_eq!(ask("none").await, 401, "{name}");
    }
}

#[tokio::test]
async fn both_are_served_without_a_key() {
    let door = Door::open().await;
    let get = |path: &str| door.client.get(format!("http://{}{path}", door.address)).send();
    let served: Value = get("/api/openapi.json").await.unwrap().json().await.unwrap();
    assert_eq!(served["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(served["paths"], spec()["paths"]);
    let page = get("/api/docs").await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    let text = page.text().await.unwrap();
    assert!(text.contains("openapi.json") && !text.contains("https://") && !text.contains("src="), "it stands alone");
}
