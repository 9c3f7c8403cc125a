//! GraphQL requests: the account's time-lock, newsletters, and the groups of a community. A request names a stored
//! document by its number, and every version of every client has numbers of its own.

mod community;
mod newsletter;

use serde_json::{Value, json};
use whatsapp_rust::wacore::iq::mex_operations::{
    fetch_all_subgroups, fetch_reachout_timelock, query_subgroup_participant_count,
};
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use super::refusal::Refusal;
use super::{Answer, Request};
use crate::emulator::faults::Whom;
use crate::emulator::relay::text_attr;

/// What is found under a request's name in the answer, or why it is refused.
type Found = Result<(&'static str, Value), Refusal>;

pub(super) fn answer(request: &Request<'_>) -> Answer {
    let Some(query) = request.child("query") else { return super::refusal::BAD_REQUEST.into() };
    let document = text_attr(query, "query_id").unwrap_or_default();
    let asked: Value = serde_json::from_slice(query.content_bytes().unwrap_or_default()).unwrap_or_default();
    let found = find(request, &document, &asked["variables"]);
    let result = match found {
        Some(Ok((name, value))) => json!({"data": {name: value}}),
        Some(Err(Refusal(code, text))) => refused(code, text),
        None => refused(404, "not known to the emulator"),
    };
    Answer::With(NodeBuilder::new("result").bytes(result.to_string().into_bytes()).build())
}

fn find(request: &Request<'_>, document: &str, variables: &Value) -> Option<Found> {
    if document == fetch_reachout_timelock::DOC_ID {
        let own = Whom(request.phone, Some(request.device));
        let active = request.session.emulator.fault_rules().is_time_locked(own);
        return Some(Ok(("xwa2_fetch_account_reachout_timelock", timelock(active, request.now()))));
    }
    if [fetch_all_subgroups::DOC_ID, query_subgroup_participant_count::DOC_ID].contains(&document) {
        return Some(community::groups(request, variables));
    }
    newsletter::find(request, document, variables)
}

fn refused(code: u16, text: &str) -> Value {
    let about = json!({"error_code": code, "is_summary": true, "is_retryable": false, "severity": "CRITICAL"});
    json!({"data": null, "errors": [{"message": text, "extensions": about}]})
}

/// An account refused with 463 is locked for another hour.
fn timelock(active: bool, now: i64) -> Value {
    if active {
        let ends = (now + 3600).to_string();
        json!({"is_active": true, "enforcement_type": "REACHOUT", "time_enforcement_ends": ends})
    } else {
        json!({"is_active": false})
    }
}
