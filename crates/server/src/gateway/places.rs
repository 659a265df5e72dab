//! Which role answers a path, read off the routers themselves, so that no second list can differ from the first.

use std::time::Duration;

use http::Method;
use matchit::Router;
use serde_json::Value;
use utoipa::openapi::{OpenApi, PathItem, path::Operation};

use super::health_routes;
use crate::{app, idempotency, role::Role};

/// Security schemes whose credential is one of ours.
const IDENTIFIES: [&str; 2] = ["access_token", "api_key"];

/// One path of the API.
#[derive(Debug)]
pub struct Place {
    /// `/api/v1/tenants/{tenant}`
    pub template: String,
    /// Who answers.
    pub role: Role,
    /// The methods for which a caller says who they are.
    identified: Vec<Method>,
    /// The methods that anybody may use, or that have a credential of their own.
    open: Vec<Method>,
    /// A POST is done once under a key.
    is_done_once: bool,
    /// How long a request may ask to be kept waiting.
    wait_max: Option<Duration>,
}

impl Place {
    /// Whether a request has to say who sends it. One with a method that the path does not have does, too.
    pub fn is_identified(&self, method: &Method) -> bool {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.identified.contains(method) || !self.open.contains(method)
    }

    /// Whether doing a request with this method and a key twice is doing it once.
    pub fn is_done_once(&self, method: &Method) -> bool {
        self.is_done_once && method == Method::POST
    }

    /// How long a request may ask to be kept waiting for its answer (`wait`), where it may.
    pub fn wait_max(&self) -> Option<Duration> {
        self.wait_max
    }
}

/// All paths of all roles.
#[derive(Debug, Default)]
pub struct Places {
    router: Router<usize>,
    places: Vec<Place>,
}

impl Places {
    /// Of every role that there is, wherever it runs.
    pub fn of_all_roles() -> Self {
        let mut all = Self::default();
        all.add(Role::Gateway, &health_routes().into_openapi());
        for role in Role::ALL {
            all.add(role, &app::routes_of(role).into_openapi());
        }
        all
    }

    fn add(&mut self, role: Role, described: &OpenApi) {
        for (template, item) in &described.paths.paths {
            let mut place = Place {
                template: template.clone(),
                role,
                identified: Vec::new(),
                open: Vec::new(),
                is_done_once: idempotency::honours(template) && item.post.as_ref().is_some_and(takes_json_alone),
                wait_max: operations(item).find_map(|(_, operation)| wait_max(operation)),
            };
            for (method, operation) in operations(item) {
                let list = if is_identified(operation) { &mut place.identified } else { &mut place.open };
                list.push(method);
            }
            if let Err(error) = self.router.insert(template.clone(), self.places.len()) {
                tracing::error!(template, %error, "a path is not passed on to other processes: a defect of ours");
                continue;
            }
            self.places.push(place);
        }
    }

    /// The place of a path, by its number, and the part of the path that names a tenant.
    pub fn find<'path>(&self, path: &'path str) -> Option<(usize, Option<&'path str>)> {
        let found = self.router.at(path).ok()?;
        Some((*found.value, found.params.get("tenant")))
    }

    /// The place of this number.
    pub fn get(&self, number: usize) -> Option<&Place> {
        self.places.get(number)
    }
}

fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &Operation)> {
    let by_method = [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::DELETE, &item.delete),
        (Method::PATCH, &item.patch),
        (Method::OPTIONS, &item.options),
        (Method::HEAD, &item.head),
    ];
    by_method.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

/// Whether the description of an operation asks for one of our credentials.
fn is_identified(operation: &Operation) -> bool {
    let Some(security) = &operation.security else { return false };
    // The library shows what is inside through its serialisation alone.
    let named = serde_json::to_value(security).unwrap_or(Value::Null);
    let alternatives = named.as_array().into_iter().flatten().filter_map(Value::as_object);
    alternatives.flat_map(serde_json::Map::keys).any(|name| IDENTIFIES.contains(&name.as_str()))
}

/// Whether an operation has no other bodies than those for which a key counts.
fn takes_json_alone(operation: &Operation) -> bool {
    let said = serde_json::to_value(&operation.request_body).unwrap_or(Value::Null);
    said["content"].as_object().into_iter().flatten().all(|(kind, _)| kind == "application/json")
}

/// What the description says of `wait`, in seconds.
fn wait_max(operation: &Operation) -> Option<Duration> {
    let said = serde_json::to_value(&operation.parameters).ok()?;
    let wait = said.as_array()?.iter().find(|parameter| parameter["name"] == "wait")?;
    wait["schema"]["maximum"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;

    use super::{Places, operations};
    use crate::{app, gateway::hooks, role::Role};

    #[test]
    fn every_path_of_the_description_has_its_place() {
        let places = Places::of_all_roles();
        let paths = app::description().paths.paths;
        assert!(paths.contains_key(hooks::ENDPOINT));
        // These go to bots.
        for (template, item) in paths.iter().filter(|(template, _)| *template != hooks::ENDPOINT) {
            let path = template.replace(['{', '}'], "");
            let (number, tenant) = places.find(&path).unwrap_or_else(|| panic!("{template} has no place"));
            assert_eq!(&places.get(number).unwrap().template, template);
            assert_eq!(tenant.is_some(), template.contains("{tenant}"), "{template}");
            assert!(operations(item).count() > 0);
        }
    }

    #[test]
    fn who_asks_is_known_unless_the_description_says_otherwise() {
        let places = Places::of_all_roles();
        let find = |path| places.get(places.find(path).unwrap().0).unwrap();
        assert!(!find("/.well-known/jwks.json").is_identified(&Method::GET));
        assert!(!find("/health").is_identified(&Method::HEAD));
        assert!(!find("/llm/v1/chat/completions").is_identified(&Method::POST));
        let instance = find("/api/v1/tenants/acme/instance");
        assert_eq!(instance.role, Role::Manager);
        assert!(instance.is_identified(&Method::GET));
        assert!(instance.is_identified(&Method::DELETE), "an unknown method lets nobody pass");
    }

    #[test]
    fn a_key_counts_where_it_is_honoured_alone() {
        let places = Places::of_all_roles();
        let find = |path| places.get(places.find(path).unwrap().0).unwrap();
        for (path, expected) in [
            ("/api/v1/tenants", true),
            ("/api/v1/tenants/acme/sessions/ses_1/messages", true),
            ("/api/v1/tenants/acme/instance/start", true),
            ("/api/v1/tenants/acme/attachments", false),
            ("/api/v1/auth/login", false),
            ("/llm/v1/chat/completions", false),
            ("/bridge/v1/inbound", false),
        ] {
            assert_eq!(find(path).is_done_once(&Method::POST), expected, "{path}");
            assert!(!find(path).is_done_once(&Method::PATCH), "{path}");
        }
    }

    #[test]
    fn how_long_a_request_may_wait_is_read_off_its_description() {
        let places = Places::of_all_roles();
        let find = |path: &str| places.get(places.find(path).unwrap().0).unwrap().wait_max();
        assert_eq!(find("/api/v1/tenants/acme/sessions/ses_1/messages"), Some(Duration::from_mins(5)));
        assert_eq!(find("/api/v1/tenants/acme/sessions"), None);
        let description = serde_json::to_value(app::description()).unwrap();
        for (template, item) in description["paths"].as_object().unwrap() {
            if template == hooks::ENDPOINT {
                continue;
            }
            let waits = item.as_object().unwrap().values().any(|operation| {
                operation["parameters"].as_array().into_iter().flatten().any(|parameter| parameter["name"] == "wait")
            });
            assert_eq!(find(&template.replace(['{', '}'], "")).is_some(), waits, "{template} does not say how long");
        }
    }
}
