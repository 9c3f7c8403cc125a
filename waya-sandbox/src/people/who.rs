//! Who a person is, shared by everything that acts for them: the name may change.

use std::sync::{Arc, PoisonError, RwLock};

use super::roster::Profile;

/// Name and number of one person, as they are now. A cheap handle.
#[derive(Clone)]
pub(super) struct Who(Arc<RwLock<Profile>>);

impl Who {
    pub(super) fn new(profile: Profile) -> Self {
        Self(Arc::new(RwLock::new(profile)))
    }

    pub(super) fn profile(&self) -> Profile {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn name(&self) -> String {
        self.profile().name
    }

    pub(super) fn phone(&self) -> String {
        self.profile().phone
    }

    pub(super) fn rename(&self, name: &str) {
        name.clone_into(&mut self.0.write().unwrap_or_else(PoisonError::into_inner).name);
    }
}
