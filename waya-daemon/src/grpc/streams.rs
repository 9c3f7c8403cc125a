//! What the services answer with when there is more than one answer.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::Status;

/// A stream of answers; dropped when the client goes away.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Asks `next` for one answer after the other; `None` or an error is the last word.
pub(super) fn answers<S, T, F>(state: S, next: impl FnMut(S) -> F + Send + 'static) -> Answers<T>
where
    S: Send + 'static,
    T: Send + 'static,
    F: Future<Output = Option<(Result<T, Status>, S)>> + Send + 'static,
{
    let mut next = next;
    Box::pin(stream::unfold(Some(state), move |state| {
        let step = state.map(&mut next);
        async move {
            let (answer, state) = step?.await?;
            // After an error nothing comes.
            let state = answer.is_ok().then_some(state);
            Some((answer, state))
        }
    }))
}
