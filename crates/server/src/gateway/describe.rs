//! What the description of the API says of itself: its title, its groups, and how one proves who one is.

use utoipa::OpenApi as _;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    tag::{Tag, TagBuilder},
};

use super::hooks;

const ABOUT: &str = "astrfleet hosts an AstrBot for each tenant. Errors are problem details (RFC 9457) with a stable \
     `code`. Lists come in pages: `limit`, `cursor`, `next_cursor`. A POST with an `Idempotency-Key` is done once. \
     `RateLimit` says how many requests are left.";

const TAGS: [(&str, &str); 19] = [
    ("auth", "Log in, stay logged in, log out. Tokens are signed with the keys of `/.well-known/jwks.json`."),
    ("users", "People, for platform administrators."),
    ("tenants", "Whom the bots belong to: their plan, their limits, their use."),
    ("members", "Who may do what in a tenant, and who is invited."),
    ("api-keys", "For programs of a tenant. A key's secret is shown once."),
    ("instance", "The tenant's bot: its state, its log, its settings, its own dashboard."),
    ("channels", "The IM platforms that a bot serves."),
    ("sessions", "Conversations with end users."),
    ("messages", "What is said in a session. Answers stream."),
    ("attachments", "Files and images of messages."),
    ("blocklist", "End users whom a tenant does not want to hear from."),
    ("events", "What happens in a tenant's conversations, as it does."),
    ("webhooks", "A tenant's own systems, which are told of it: signed, tried again, in order."),
    ("exports", "Everything that is stored of a tenant, as an archive."),
    ("audit", "Who did what, each entry chained to the one before by its hash."),
    ("fleet", "All bots, for platform administrators."),
    ("bridge", "What the bridge in every bot asks about messages of IM channels."),
    ("models", "The model gateway for bots, in OpenAI's shapes."),
    ("health", "For load balancers and supervisors."),
];

/// What stands around the operations.
#[must_use]
pub fn description() -> OpenApi {
    let info = InfoBuilder::new()
        .title("astrfleet")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    let bearer = |format: &str, about: &str| {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format(format);
        SecurityScheme::Http(scheme.description(Some(about)).build())
    };
    let api_key = ApiKeyValue::with_description("X-API-Key", "An API key of a tenant; as a bearer token, too.");
    let components = ComponentsBuilder::new()
        .security_scheme("access_token", bearer("JWT", "From `POST /api/v1/auth/login`."))
        .security_scheme("virtual_key", bearer("afk-…", "Of a bot; good for the model gateway alone."))
        .security_scheme("bridge_token", bearer("afb-…", "Of a bot; good for the bridge alone."))
        .security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(api_key)))
        .build();
    let tags: Vec<Tag> =
        TAGS.into_iter().map(|(name, about)| TagBuilder::new().name(name).description(Some(about)).build()).collect();
    let mut document = OpenApiBuilder::new().info(info).components(Some(components)).tags(Some(tags)).build();
    // What no router knows, since it is taken before it.
    document.merge(hooks::Described::openapi());
    document
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::TAGS;
    use crate::app;

    #[test]
    fn every_group_of_operations_is_told() {
        let document = serde_json::to_value(app::description()).unwrap();
        let operations =
            document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
        let used: BTreeSet<&str> = operations.filter_map(|operation| operation["tags"][0].as_str()).collect();
        let told: BTreeSet<&str> = TAGS.into_iter().map(|(name, _)| name).collect();
        assert_eq!(used.difference(&told).collect::<Vec<_>>(), Vec::<&&str>::new());
    }
}
