//! The do-not-send list.

use serde::Serialize;
use waya_proto::v1;

/// Everybody on it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptOuts {
    opt_outs: Vec<OptOut>,
}

/// Somebody who wants no more messages.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptOut {
    number: String,
    chat_id: String,
    since: i64,
    by: String,
}

/// Somebody was taken off it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Removed {
    /// Always true: refusals are errors.
    pub success: bool,
}

impl From<v1::ListOptOutsResponse> for OptOuts {
    fn from(list: v1::ListOptOutsResponse) -> Self {
        Self { opt_outs: list.opt_outs.into_iter().map(OptOut::from).collect() }
    }
}

impl From<v1::OptOut> for OptOut {
    fn from(one: v1::OptOut) -> Self {
        Self { number: one.number, chat_id: one.chat_id, since: one.since, by: one.by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list() {
        let one = v1::OptOut {
            number: "6281200000002".to_owned(),
            chat_id: "6281200000002@c.us".to_owned(),
            since: 1,
            by: "hand".to_owned(),
        };
        insta::assert_json_snapshot!(OptOuts::from(v1::ListOptOutsResponse { opt_outs: vec![one] }), @r#"
        {
          "optOuts": [
            {
              "number": "6281200000002",
              "chatId": "6281200000002@c.us",
              "since": 1,
              "by": "hand"
            }
          ]
        }
        "#);
    }
}
