//! Bots: what is wanted of each, and what is seen.

use astrfleet_core::{
    Result,
    id::{InstanceId, TenantId},
    instance::Instance,
    time::Timestamp,
};

use crate::{
    db::statements,
    values::{read_id, read_number, read_word},
};

statements! {
    "instance";
    INSERT = "instance.insert", "INSERT INTO instances (
            tenant_id, id, desired, observed, generation, reason, since, version, port, restarts, secrets_version,
            created_at, version_lock)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
}

/// Binds the columns of [`INSERT`] in its order.
macro_rules! bind_instance {
    ($query:expr, $instance:expr) => {
        $query
            .bind($instance.tenant_id.as_str())
            .bind($instance.id.as_str())
            .bind($crate::values::word(&$instance.desired)?)
            .bind($crate::values::word(&$instance.observed)?)
            .bind($instance.generation)
            .bind($instance.reason.as_str())
            .bind($instance.since.micros())
            .bind($instance.version.as_str())
            .bind($instance.port.map(i64::from))
            .bind(i64::from($instance.restarts))
            .bind(i64::from($instance.secrets_version))
            .bind($instance.created_at.micros())
            .bind($instance.version_lock)
    };
}
pub(crate) use bind_instance;

/// A row, as it stands.
#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    tenant_id: String,
    id: String,
    desired: String,
    observed: String,
    generation: i64,
    reason: String,
    since: i64,
    version: String,
    port: Option<i64>,
    restarts: i64,
    secrets_version: i64,
    created_at: i64,
    version_lock: i64,
}

impl Row {
    /// In the words of the core.
    pub(crate) fn read(self) -> Result<Instance> {
        Ok(Instance {
            id: read_id("instances.id", &self.id, InstanceId::parse)?,
            tenant_id: read_id("instances.tenant_id", &self.tenant_id, TenantId::parse)?,
            desired: read_word("instances.desired", self.desired)?,
            observed: read_word("instances.observed", self.observed)?,
            generation: self.generation,
            reason: self.reason,
            since: Timestamp::from_micros(self.since),
            version: self.version,
            port: self.port.map(|port| read_number("instances.port", port)).transpose()?,
            restarts: read_number("instances.restarts", self.restarts)?,
            secrets_version: read_number("instances.secrets_version", self.secrets_version)?,
            created_at: Timestamp::from_micros(self.created_at),
            version_lock: self.version_lock,
        })
    }
}
