//! Which processes take requests in from outside: what a balancer before them knows, who sends nobody to one that was told
//! to end, and does not know of one that was killed.

use std::sync::{Arc, Mutex};

/// Shared by a fleet and its clients.
#[derive(Clone, Default)]
pub(super) struct Takers(Arc<Mutex<Vec<Taker>>>);

struct Taker {
    name: String,
    role: &'static str,
    url: String,
}

impl Takers {
    pub(super) fn take_in(&self, name: &str, role: &'static str, url: String) {
        let mut takers = self.0.lock().unwrap();
        if !takers.iter().any(|taker| taker.name == name) {
            takers.push(Taker { name: name.to_owned(), role, url });
        }
    }

    pub(super) fn leave_out(&self, name: &str) {
        self.0.lock().unwrap().retain(|taker| taker.name != name);
    }

    /// The one whose turn it is, of those with these roles.
    ///
    /// # Panics
    /// When there is none.
    pub(super) fn pick(&self, roles: &[&str], turn: usize) -> String {
        let takers = self.0.lock().unwrap();
        let of_roles: Vec<&Taker> = takers.iter().filter(|taker| roles.contains(&taker.role)).collect();
        assert!(!of_roles.is_empty(), "somebody takes requests in for {roles:?}");
        of_roles[turn % of_roles.len()].url.clone()
    }
}
