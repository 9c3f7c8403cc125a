//! Why requests are refused.

use super::Answer;

/// The code and the text of an `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) u16, pub(super) &'static str);

pub(super) const BAD_REQUEST: Refusal = Refusal(400, "bad-request");
pub(super) const NOT_AUTHORIZED: Refusal = Refusal(401, "not-authorized");
pub(super) const FORBIDDEN: Refusal = Refusal(403, "forbidden");
pub(super) const NOT_FOUND: Refusal = Refusal(404, "item-not-found");
pub(super) const NOT_ACCEPTABLE: Refusal = Refusal(406, "not-acceptable");
pub(super) const CONFLICT: Refusal = Refusal(409, "conflict");
pub(super) const GONE: Refusal = Refusal(410, "gone");
pub(super) const NOT_KEPT: Refusal = Refusal(500, "internal-server-error");
pub(super) const NOT_IMPLEMENTED: Refusal = Refusal(501, "feature-not-implemented");

/// What a handler comes to.
pub(super) type Outcome = Result<Answer, Refusal>;

impl From<Refusal> for Answer {
    fn from(Refusal(code, text): Refusal) -> Self {
        Self::Refused(code, text)
    }
}
