//! GraphQL requests: the account's time-lock is known (there is none), everything else is not.

use serde_json::json;
use whatsapp_rust::wacore::iq::mex_operations::fetch_reachout_timelock;
use whatsapp_rust::wacore_binary::builder::NodeBuilder;

use super::{Answer, Request};
use crate::emulator::relay::text_attr;

pub(super) fn answer(request: &Request<'_>) -> Answer {
    let query = request.child("query").and_then(|query| text_attr(query, "query_id"));
    let result = if query.as_deref() == Some(fetch_reachout_timelock::DOC_ID) {
        let phone = request.phone;
        let active = request.session.emulator.fault_rules().refuses_with(phone, 463);
        json!({"data": {"xwa2_fetch_account_reachout_timelock": timelock(active)}})
    } else {
        json!({"data": null, "errors": [{
            "message": "not known to the emulator",
            "extensions": {"error_code": 404, "is_summary": true, "is_retryable": false}
        }]})
    };
    Answer::With(NodeBuilder::new("result").bytes(result.to_string().into_bytes()).build())
}

/// An account refused with 463 is locked for another hour.
fn timelock(active: bool) -> serde_json::Value {
    if active {
        let ends = (crate::emulator::now() + 3600).to_string();
        json!({"is_active": true, "enforcement_type": "REACHOUT", "time_enforcement_ends": ends})
    } else {
        json!({"is_active": false})
    }
}
