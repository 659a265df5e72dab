//! What a bot is started with, and how one that was found running is told from one that was started with something else.

use astrfleet_core::{
    Result,
    instance::Instance,
    ports::{BotSpec, BridgeSpec},
    tenant::Tenant,
};
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::ExposeSecret;

use super::Service;

impl Service {
    /// What `tenant`'s bot is started with, on `port`.
    ///
    /// # Errors
    /// What the plan or the secrets say.
    pub(super) fn spec(&self, instance: &Instance, tenant: &Tenant, port: u16) -> Result<BotSpec> {
        let base = &self.base;
        let plan = self.tenants.plan(tenant)?;
        let mut spec = BotSpec {
            instance: instance.id.clone(),
            tenant: instance.tenant_id.clone(),
            tenant_name: tenant.name.clone(),
            generation: instance.generation,
            port,
            llm_base_url: self.llm_base_url()?,
            llm_key: base.secrets.llm_key(&instance.id, instance.secrets_version)?,
            model: base.config.llm.model.clone(),
            jwt_secret: base.secrets.bot_jwt(&instance.id, instance.secrets_version)?,
            failure_text: base.secrets.failure_text()?,
            bridge: BridgeSpec {
                url: self.bridge_url()?,
                token: base.secrets.bridge_token(&instance.id, instance.secrets_version)?,
                when_away: base.config.bridge.when_away,
            },
            memory_bytes: plan.bot_memory_bytes,
            cpu_milli: plan.bot_cpu_milli,
            terms: String::new(),
        };
        spec.terms = terms(&spec, [base.runtime.astrbot_version(), base.runtime.bridge_version()]);
        Ok(spec)
    }
}

/// A hash of what a process keeps to its end. Its secrets, which nobody can guess, are among it: who reads the hash
/// learns nothing. Neither the port nor the generation belong to it: a bot that is found has its own.
fn terms(spec: &BotSpec, [astrbot_version, bridge_version]: [&str; 2]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [
        astrbot_version,
        bridge_version,
        &spec.llm_base_url,
        spec.llm_key.expose_secret(),
        &spec.model,
        spec.jwt_secret.expose_secret(),
        &spec.failure_text,
        &spec.bridge.url,
        spec.bridge.token.expose_secret(),
        spec.bridge.when_away.word(),
        &spec.memory_bytes.to_string(),
        &spec.cpu_milli.to_string(),
    ] {
        hash.update(&part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    URL_SAFE_NO_PAD.encode(&hash.finish().as_ref()[..16])
}
